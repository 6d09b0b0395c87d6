/* channel.h - what the parts of a channel share: channel.c, channel_wait.c and channel_window.c. */
#ifndef CWASI_CHANNEL_H
#define CWASI_CHANNEL_H

#include "internal.h"

enum { FREE = 0, INSIDE = 1, TRIMMING = 2, CLOSING = 3, CLOSED = 4 };   /* values of owner */

struct cwasi_channel {
    endpoint *end;
    atomic_u32 owner;
    atomic_u32 stamp_mask;    /* a message is timed where (seq & mask) == 0 */
    uint64_t limit;           /* bytes in a message that is sent by a copy */
    uint64_t seq;             /* of the next message */
    int has_frame;            /* peeked and not yet taken */
    cwasi_frame frame;
    atomic_u64 histogram[CWASI_HISTOGRAM_BUCKETS];
};

/* Lets one thread in, as that role. 0, -EINVAL (another role), -EBUSY or -EBADF (closed). */
int channel_enter(cwasi_channel *c, int role);
void channel_leave(cwasi_channel *c);
/* The frame of the next message; stamp: NULL to take one when it is this message's turn. */
cwasi_frame channel_new_frame(const cwasi_channel *c, uint64_t length, const uint64_t *stamp);
void channel_count_sent(cwasi_channel *c, uint64_t length);
/* Makes c->frame the next message. */
int channel_next_frame(cwasi_channel *c, deadline until);
/* c->frame was taken. */
void channel_count_received(cwasi_channel *c);

#endif
