/* line.h - what carries the messages of one edge at one of its ends: the transport's end in use, and the one after it.
 *
 * A switch to another transport is agreed on elsewhere. Here the receiver is given the end of the new transport
 * (line_attach), and keeps reading the old one; then the sender puts a last frame into the old one and goes on on the new
 * one (line_leave), and the receiver follows when it comes to that frame. Frames are numbered afresh on each transport,
 * and the last one has the number that would follow: nothing can get lost between the two.
 */
#ifndef CWASI_LINE_H
#define CWASI_LINE_H

#include "internal.h"

typedef struct line {
    endpoint *now;
    endpoint *next;           /* receiver: attached, and not yet in use; or NULL */
    endpoint *before;         /* left, and not yet freed; or NULL. Linked by their own `before` */
    atomic_u32 behind;        /* how many there are before */
    atomic_u32 lock;          /* held for moments, by who changes these or uses them from outside */
    atomic_u32 epoch;         /* how many transports there were before */
    uint64_t seq;             /* of the next frame on this transport */
    int finished;             /* no other transport from now on */
    cwasi_stats past;         /* what those that were left had counted */
} line;

void line_init(line *l, endpoint *end);
/* Receiver, inside: as the transport's peek, but follows the sender to the next transport, and checks the number. Gives
 * -EREMCHG, with the frame, where none was attached. */
int line_peek(line *l, cwasi_frame *frame, deadline until);
/* Sender, inside: the messages from here on go by `next`, which is the line's from now on. An error changes nothing. */
int line_leave(line *l, endpoint *next, deadline until);
/* Sender, inside: the messages from here on come from another process, by the transport of the next epoch, and none from
 * here. An error changes nothing. */
int line_depart(line *l, deadline until);

/* The following are for any thread. */
/* Receiver: `next`, which is the line's from now on, is the transport of that epoch. -EBUSY: there is one already;
 * -EINVAL: not the epoch after this one; -EBADF: this side has ended. */
int line_attach(line *l, endpoint *next, uint32_t epoch);
/* Receiver: takes it back. -EALREADY: the sender has gone there, this side has ended, or there is none of that epoch. */
int line_detach(line *l, uint32_t epoch);
void line_stop(line *l, int error);
void line_peer_died(line *l, unsigned peer);
/* The same only of the transport of that epoch, where a line goes on to another process. */
void line_peer_died_in(line *l, uint32_t epoch);
/* The peer behind this descriptor has ended, if it is a bell of one of the transports and has hung up. */
void line_hung_up(line *l, int bell);
/* Our sides of the bells; how many. */
unsigned line_bells(line *l, int *descriptors, unsigned room);
/* The path class in use. */
uint32_t line_mode(line *l);
void line_set_mode(line *l, uint32_t mode);
uint64_t line_unread(line *l);
/* Frees those that were left and are read to their end, or of which that cannot be told. Not done on the way: to give
 * back the memory of a busy ring takes as long as some hundred messages. */
void line_tidy(line *l);
/* Sender: 0, or -ECONNRESET once one of the transports before has died with messages that nobody has read; how many. */
int line_lost(line *l, uint64_t *unread);
void line_stats(line *l, cwasi_stats *out);
/* In a forked child: who held it is in the parent. */
void line_forked(line *l);

/* Ends this side of all transports, and frees them. */
int line_finish(line *l, int failed, deadline until);
void line_destroy(line *l);

#endif
