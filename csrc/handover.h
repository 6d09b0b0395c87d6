/* handover.h - a large message from buffer to buffer, where both ends of a ring are in one process: one copy, not two.
 *
 * A receiver that is about to wait offers its buffer for the message that it waits for. The sender of that message, if
 * it comes while the offer stands, copies into it, and only announces it in the ring. Where the two take turns on one
 * core, it copies first and announces then; on two cores it announces first, and both copy, a piece here and a piece
 * there. Whatever does not fit goes through the ring as ever. Nothing of this is in shared memory.
 */
#ifndef CWASI_HANDOVER_H
#define CWASI_HANDOVER_H

#include "internal.h"

/* What both ends know; NULL everywhere below where they are in different processes. */
typedef struct cwasi_handover handover;

/* Bytes in a message from which that is worth it, on one core and on two. */
enum { HANDED_FROM = 32 * 1024, SHARED_FROM = 512 * 1024 };

/* Receiver: `to` is there for the message at this position. To be withdrawn before recv returns. */
void handover_offer(handover *h, uint64_t position, void *to, uint64_t capacity);
/* Receiver: takes the offer back, or helps with a copy that is under way. 1 if the message was copied, else 0. */
int handover_withdraw(handover *h);
/* Receiver: whether the message at this position is, or is being, copied into the buffer that stands offered. */
int handover_has(const handover *h, uint64_t position);
/* Sender: copies the message at this position, if there is a fitting offer for it: 1, else 0. */
int handover_copy(handover *h, uint64_t position, const void *from, uint64_t length);
/* Sender: the same, but only begins it: to be announced, and then finished. */
int handover_begin(handover *h, uint64_t position, const void *from, uint64_t length);
void handover_finish(handover *h);

handover *handover_keep(handover *h);
void handover_release(handover *h);

#endif
