/* links.h - what the ends of a campaign's channel are on: each transport is made before the fork, and every process opens
 * its ends of all of them, so that a death closes them all. */
#ifndef CWASI_LINKS_H
#define CWASI_LINKS_H

#include "tcp_pair.h"

enum { ENDS = 3, SENDER = 0 };   /* the receivers follow */
enum { ON_TCP = TRANSPORTS };    /* a connection to each receiver, which nobody makes again */

typedef struct {
    int transport, memfd;
    int receivers;
    int pipes[ENDS][2];         /* by receiver: what it reads, and what the sender writes; of tcp, the sockets */
    int bells[ENDS][2];         /* by receiver: the sender's side and the receiver's, of a socket pair or a back */
} link_made;

static inline void make_link(link_made *l, int transport, uint64_t capacity, int receivers)
{
    *l = (link_made){.transport = transport, .memfd = -1, .receivers = receivers};
    for (int i = 0; i < receivers && transport == ON_PIPE; i++) {
        CHECK_EQ(pipe(l->pipes[i]), 0);
        CHECK_EQ(pipe(l->bells[i]), 0);
    }
    for (int i = 0; i < receivers && transport == ON_TCP; i++) {
        int sockets[2];
        connect_tcp(sockets);
        l->pipes[i][0] = sockets[RX];
        l->pipes[i][1] = sockets[TX];
    }
    if (transport != ON_RING)
        return;
    l->memfd = cwasi_ring_create(capacity, (unsigned)receivers);
    CHECK(l->memfd >= 0);
    for (int i = 0; i < receivers; i++)
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, l->bells[i]), 0);
}

static inline cwasi_channel *open_end(const link_made *l, int end)
{
    cwasi_channel *c;
    int role = end == SENDER ? CWASI_SENDER : CWASI_RECEIVER;
    if (l->transport == ON_TCP) {
        cwasi_tcp *keepers[ENDS];
        int first = end == SENDER ? 0 : end - 1, count = end == SENDER ? l->receivers : 1;
        CHECK_EQ(cwasi_channel_open_tcp(role, 1 << 20, (unsigned)count, keepers, &c), 0);
        for (int i = 0; i < count; i++) {
            CHECK_EQ(cwasi_tcp_connected(keepers[i], l->pipes[first + i][end == SENDER], 1), 0);
            cwasi_tcp_leave(keepers[i], 0);
        }
        return c;
    }
    int own[ENDS], out[ENDS], reader = end == SENDER ? 0 : end - 1;
    for (int i = 0; i < l->receivers; i++) {
        own[i] = l->bells[i][0];
        out[i] = l->pipes[i][1];
    }
    const int *pipes = end == SENDER ? out : l->pipes[reader], *bells = end == SENDER ? own : &l->bells[reader][1];
    if (l->transport == ON_PIPE)
        CHECK_EQ(cwasi_channel_open_pipe(role, pipes, bells, end == SENDER ? (unsigned)l->receivers : 1, &c), 0);
    else
        CHECK_EQ(cwasi_channel_open_ring(l->memfd, role, (unsigned)reader, bells, &c), 0);
    return c;
}

/* Closed in every process once its ends are open: else nobody would see a death. */
static inline void close_link(const link_made *l)
{
    if (l->memfd >= 0)
        close(l->memfd);
    for (int i = 0; i < l->receivers; i++) {
        for (int side = 0; side < 2; side++) {
            if (l->transport != ON_RING)
                close(l->pipes[i][side]);
            if (l->transport != ON_TCP)
                close(l->bells[i][side]);
        }
    }
}

#endif
