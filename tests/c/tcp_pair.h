/* tcp_pair.h - both ends of a channel over TCP on the loopback, with a keeper that makes a new connection after a break. */
#ifndef CWASI_TCP_PAIR_H
#define CWASI_TCP_PAIR_H

#include "test.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>

enum { TX, RX };

typedef struct {
    cwasi_channel *tx, *rx;
    cwasi_tcp *kept[2];
    int sockets[2];
    int control;              /* readable: what the test wants has changed */
    _Atomic int cut;          /* resets that are wanted, by TX or by RX + 1 */
    _Atomic int refuses;      /* no new connection */
    _Atomic int ends;         /* the keeper leaves */
    pthread_t keeper;
} tcp_pair;

/* A real TCP connection. */
static inline void connect_tcp(int *sockets)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    sockets[TX] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(sockets[TX], (struct sockaddr *)&address, sizeof address), 0);
    sockets[RX] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(sockets[RX] >= 0);
    close(listener);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes), 0);
}

/* Throws away what is under way and sends a reset. */
static inline void reset_tcp(int socket)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    connect(socket, &none, sizeof none);
}

static inline void disconnect(tcp_pair *p)
{
    for (int i = 0; i < 2; i++) {
        if (p->sockets[i] >= 0)
            close(p->sockets[i]);
        p->sockets[i] = -1;
    }
}

static inline void reconnect(tcp_pair *p)
{
    disconnect(p);
    connect_tcp(p->sockets);
    for (int i = 0; i < 2; i++)
        cwasi_tcp_connected(p->kept[i], p->sockets[i], 1);
}

static inline void *keep(void *arg)
{
    tcp_pair *p = arg;
    while (!atomic_load(&p->ends)) {
        int cut = atomic_exchange(&p->cut, 0), tx = cwasi_tcp_tend(p->kept[TX]), rx = cwasi_tcp_tend(p->kept[RX]);
        if (cut && p->sockets[cut - 1] >= 0)
            reset_tcp(p->sockets[cut - 1]);
        if ((tx == -ENOTCONN || rx == -ENOTCONN) && tx != -ESHUTDOWN && rx != -ESHUTDOWN && !atomic_load(&p->refuses)) {
            reconnect(p);
            continue;
        }
        eventfd_t ignored;
        struct pollfd fds[] = {
            {tx < 0 ? -1 : p->sockets[TX], (short)(POLLRDHUP | MAX(tx, 0)), 0},
            {rx < 0 ? -1 : p->sockets[RX], (short)MAX(rx, 0), 0},
            {cwasi_tcp_descriptor(p->kept[TX]), POLLIN, 0},
            {cwasi_tcp_descriptor(p->kept[RX]), POLLIN, 0},
            {p->control, POLLIN, 0},
        };
        /* A receiver's hang-up is not over before its end has read it. */
        poll(fds, 5, 2);
        eventfd_read(p->control, &ignored);
    }
    disconnect(p);
    for (int i = 0; i < 2; i++)
        cwasi_tcp_leave(p->kept[i], 0);
    return NULL;
}

static inline tcp_pair *open_tcp_pair(uint64_t window)
{
    tcp_pair *p = calloc(1, sizeof *p);
    CHECK_EQ(cwasi_channel_open_tcp(CWASI_SENDER, window, 1, &p->kept[TX], &p->tx), 0);
    CHECK_EQ(cwasi_channel_open_tcp(CWASI_RECEIVER, window, 1, &p->kept[RX], &p->rx), 0);
    p->sockets[TX] = p->sockets[RX] = -1;
    p->control = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->keeper = start(keep, p);
    return p;
}

static inline void tell_keeper(tcp_pair *p)
{
    eventfd_write(p->control, 1);
}

static inline void free_tcp_pair(tcp_pair *p)
{
    cwasi_channel_free(p->tx);
    cwasi_channel_free(p->rx);
    atomic_store(&p->ends, 1);
    tell_keeper(p);
    join(p->keeper);
    close(p->control);
    free(p);
}

#endif
