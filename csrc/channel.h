/* channel.h - what the parts of a channel share: channel.c, channel_wait.c and channel_window.c. */
#ifndef CWASI_CHANNEL_H
#define CWASI_CHANNEL_H

#include "account.h"
#include "line.h"

/* Values of owner. TENDED: for moments by who is no user of it. */
enum { FREE = 0, INSIDE = 1, TENDED = 2, CLOSING = 3, CLOSED = 4 };

struct cwasi_channel {
    line line;
    int role;
    unsigned sources;         /* that are gathered; 0 where there is one transport */
    atomic_u32 owner;
    atomic_u32 awaited;       /* somebody wants to tend it: who sends much lets him */
    atomic_u32 stamp_mask;    /* a message is timed where (seq & mask) == 0 */
    atomic_u64 limit;         /* bytes in a message that is sent by a copy */
    int has_frame;            /* peeked and not yet taken */
    cwasi_frame frame;
    account inside;           /* of the thread that is inside */
    statistics_row row;
    atomic_u64 timed_ns;      /* the latencies of the histogram together */
    atomic_u64 histogram[CWASI_HISTOGRAM_BUCKETS];
};

/* Nothing but opened, so that its end of a transport may become another channel's. */
int channel_unused(const cwasi_channel *c, int role);
/* Its line, or, where several are gathered, that of one of them; NULL where there is none of that number. */
line *channel_line(cwasi_channel *c, unsigned source);
/* Lets one thread in, as that role. 0, -EINVAL (another role), -EBUSY or -EBADF (closed). */
int channel_enter(cwasi_channel *c, int role);
/* As a sender, after who tends it: also -EAGAIN, -ETIMEDOUT or -ECANCELED. */
int channel_enter_sender(cwasi_channel *c, deadline until);
void channel_leave(cwasi_channel *c);
/* The frame of the next message; stamp: NULL to take one when it is this message's turn. */
cwasi_frame channel_new_frame(const cwasi_channel *c, uint64_t length, const uint64_t *stamp);
/* Sender, inside: 0, or why nothing can be sent any more. */
int channel_intact(cwasi_channel *c);
void channel_count_sent(cwasi_channel *c, uint64_t length);
/* Makes c->frame the next message. */
int channel_next_frame(cwasi_channel *c, deadline until);
/* c->frame was taken. */
void channel_count_received(cwasi_channel *c);

#endif
