/* How an end over TCP waits, is bounded, told, stopped, closed and left. */
#include "tcp_pair.h"

enum { WINDOW = 1 << 20 };

static void eventually_unread(tcp_pair *p, uint64_t expected)
{
    while (cwasi_channel_unread(p->tx) != expected)
        sleep_ms(1);
}

/* Nothing is received: the window fills, not more, and all of it arrives. */
static void is_bounded(void)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    uint64_t count = fill_up(p->tx);
    CHECK_EQ(count, WINDOW / (1000 + 24));
    call s = {.channel = p->tx, .length = 1000, .timeout = 20 * MS};
    call_send(&s);
    CHECK_EQ(s.result, -ETIMEDOUT);
    static uint8_t longer[WINDOW + 1];
    CHECK_EQ(cwasi_channel_send(p->tx, longer, sizeof longer, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_send(p->tx, longer, sizeof longer, 5 * MS), -ETIMEDOUT);
    CHECK_EQ(cwasi_channel_unread(p->tx), count);
    uint8_t message[1000];
    for (uint64_t i = 0; i < count; i++) {
        CHECK_EQ(cwasi_channel_recv(p->rx, message, sizeof message, FOREVER), sizeof message);
        CHECK(filled(message, sizeof message, i));
    }
    CHECK_EQ(cwasi_channel_recv(p->rx, message, sizeof message, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, sizeof message, 20 * MS), -ETIMEDOUT);
    eventually_unread(p, 0);   /* it was told while the receiver waited */
    CHECK_EQ(cwasi_channel_trim(p->tx), 1);
    CHECK_EQ(cwasi_channel_trim(p->tx), 0);
    CHECK_EQ(cwasi_channel_send(p->tx, "again", 5, 0), 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, sizeof message, FOREVER), 5);
    free_tcp_pair(p);
}

/* Received is what recv has returned: the last one counts when its receiver calls again, or closes. */
static void tells_what_was_returned(void)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    uint8_t message[10];
    CHECK_EQ(cwasi_channel_send(p->tx, "one", 3, FOREVER), 0);
    CHECK_EQ(cwasi_channel_send(p->tx, "two", 3, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 3);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 3);
    sleep_ms(20);
    CHECK(cwasi_channel_unread(p->tx) >= 1);
    CHECK_EQ(cwasi_channel_close(p->rx, 0, FOREVER), 0);
    eventually_unread(p, 0);
    CHECK_EQ(cwasi_channel_send(p->tx, "three", 5, FOREVER), -EPIPE);
    free_tcp_pair(p);
}

static void receiver_learns(int failed, int expected)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    uint8_t message[10];
    call r = {.channel = p->rx, .length = 10, .timeout = FOREVER};
    CHECK_EQ(cwasi_channel_send(p->tx, "rest", 4, 0), 0);
    CHECK_EQ(cwasi_channel_close(p->tx, failed, 0), 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 4);
    pthread_t thread = start(call_recv, &r);
    join(thread);
    CHECK_EQ(r.result, expected);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), expected);
    free_tcp_pair(p);
}

static void blocked_sender_learns(size_t length, int failed, int expected)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    fill_up(p->tx);
    call s = {.channel = p->tx, .length = length, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    sleep_ms(20);
    CHECK_EQ(cwasi_channel_close(p->rx, failed, 0), 0);
    join(thread);
    CHECK_EQ(s.result, expected);
    free_tcp_pair(p);
}

static void stops(void)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    call r = {.channel = p->rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    sleep_ms(10);
    cwasi_channel_stop(p->rx);
    join(thread);
    CHECK_EQ(r.result, -ECANCELED);
    CHECK_EQ(cwasi_channel_recv(p->rx, NULL, 0, FOREVER), -ECANCELED);
    fill_up(p->tx);
    call s = {.channel = p->tx, .length = 1000, .timeout = FOREVER};
    thread = start(call_send, &s);
    sleep_ms(10);
    cwasi_channel_stop(p->tx);
    join(thread);
    CHECK_EQ(s.result, -ECANCELED);
    free_tcp_pair(p);
}

/* Stopped inside a message that is longer than the window: what was whole arrives, then the failure. */
static void stops_inside_a_message(void)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    static uint8_t message[16 << 20];
    call s = {.channel = p->tx, .length = sizeof message, .timeout = FOREVER};
    CHECK_EQ(cwasi_channel_send(p->tx, "whole", 5, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, sizeof message, FOREVER), 5);
    pthread_t thread = start(call_send, &s);
    CHECK_EQ(cwasi_channel_peek(p->rx, NULL, FOREVER), sizeof message);
    cwasi_channel_stop(p->tx);
    join(thread);
    CHECK_EQ(s.result, -ECANCELED);
    CHECK_EQ(cwasi_channel_close(p->tx, 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, sizeof message, FOREVER), -ECONNRESET);
    free_tcp_pair(p);
}

/* No new connection can be made: both sides learn it, and what had come is there. */
static void is_given_up(void)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    uint8_t message[10];
    CHECK_EQ(cwasi_channel_send(p->tx, "came", 4, FOREVER), 0);
    CHECK_EQ(cwasi_channel_peek(p->rx, NULL, FOREVER), 4);
    atomic_store(&p->refuses, 1);
    atomic_store(&p->cut, 1);
    tell_keeper(p);
    call r = {.channel = p->rx, .length = 10, .timeout = FOREVER};
    while (cwasi_tcp_tend(p->kept[TX]) != -ENOTCONN)
        sleep_ms(1);
    CHECK_EQ(cwasi_channel_send(p->tx, "kept", 4, FOREVER), 0);
    CHECK_EQ(cwasi_channel_unread(p->tx), 2);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 4);
    pthread_t thread = start(call_recv, &r);
    sleep_ms(10);
    cwasi_tcp_give_up(p->kept[RX]);
    cwasi_tcp_give_up(p->kept[TX]);
    join(thread);
    CHECK_EQ(r.result, -ECONNRESET);
    CHECK_EQ(cwasi_channel_send(p->tx, "lost", 4, FOREVER), -ECONNRESET);
    CHECK(cwasi_channel_unread(p->tx) >= 1);
    free_tcp_pair(p);
}

/* Who hears of a death elsewhere: what had been sent can be received, then the error. */
static void peer_is_dead(void)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    uint8_t message[10];
    CHECK_EQ(cwasi_channel_send(p->tx, "last", 4, FOREVER), 0);
    CHECK_EQ(cwasi_channel_peek(p->rx, NULL, FOREVER), 4);   /* they are connected */
    CHECK_EQ(cwasi_channel_send(p->tx, "more", 4, FOREVER), 0);
    cwasi_channel_peer_died(p->rx, 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 4);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 4);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), -ECONNRESET);
    cwasi_channel_peer_died(p->tx, 0);
    CHECK_EQ(cwasi_channel_send(p->tx, "x", 1, FOREVER), -ECONNRESET);
    free_tcp_pair(p);
}

/* In a receiver of several, and in a poll of its own. */
static void waits_with_others(void)
{
    tcp_pair *p[2] = {open_tcp_pair(WINDOW), open_tcp_pair(WINDOW)};
    cwasi_channel *list[2] = {p[0]->rx, p[1]->rx};
    uint8_t message[10];
    CHECK_EQ(cwasi_channel_wait(list, 2, 0, 5 * MS), -ETIMEDOUT);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(cwasi_channel_send(p[i % 2]->tx, "x", 1, FOREVER), 0);
        if (i == 20) {
            atomic_store(&p[0]->cut, 1);
            tell_keeper(p[0]);
        }
        CHECK_EQ(cwasi_channel_wait(list, 2, 0, FOREVER), i % 2);
        CHECK_EQ(cwasi_channel_recv(list[i % 2], message, 10, 0), 1);
    }
    int fds[2];
    CHECK_EQ(cwasi_channel_arm(list[0], fds, 2), 2);
    CHECK_EQ(cwasi_channel_disarm(list[0]), 0);
    free_tcp_pair(p[0]);
    free_tcp_pair(p[1]);
}

static void refuses_to_open(void)
{
    cwasi_channel *c;
    cwasi_tcp *keeper;
    CHECK_EQ(cwasi_channel_open_tcp(3, WINDOW, 1, &keeper, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_tcp(CWASI_SENDER, WINDOW - 1, 1, &keeper, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_tcp(CWASI_SENDER, (UINT64_C(1) << 30) + 1, 1, &keeper, &c), -EINVAL);
}

/* A fork's copy is left without a word; the original goes on. */
static void is_abandoned(void)
{
    tcp_pair *p = open_tcp_pair(WINDOW);
    uint8_t message[10];
    CHECK_EQ(cwasi_channel_send(p->tx, "x", 1, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 1);
    pid_t child = fork();
    if (child == 0) {
        close(p->sockets[TX]);
        close(p->sockets[RX]);
        for (int i = 0; i < 2; i++)
            cwasi_tcp_leave(p->kept[i], 1);
        CHECK_EQ(cwasi_channel_abandon(p->tx), 0);
        CHECK_EQ(cwasi_channel_abandon(p->rx), 0);
        _exit(0);
    }
    CHECK_EQ(wait_for(child), 0);
    CHECK_EQ(cwasi_channel_send(p->tx, "y", 1, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p->rx, message, 10, FOREVER), 1);
    free_tcp_pair(p);
}

/* An end without a keeper: the connection that it has is its last. */
static cwasi_channel *open_alone(int role, int *sockets)
{
    cwasi_channel *c;
    cwasi_tcp *keeper;
    CHECK_EQ(cwasi_channel_open_tcp(role, WINDOW, 1, &keeper, &c), 0);
    CHECK_EQ(cwasi_tcp_connected(keeper, sockets[role == CWASI_SENDER ? TX : RX], 1), 0);
    cwasi_tcp_leave(keeper, 0);
    close(sockets[TX]);
    close(sockets[RX]);
    return c;
}

/* A receiver that ends with messages unread resets the connection, but has said before that it is done. */
static void last_word_before_a_reset(void)
{
    static uint8_t data[30000];
    for (int round = 0; round < 60; round++) {
        int sockets[2];
        int64_t rc;
        connect_tcp(sockets);
        pid_t child = fork();
        if (child == 0) {
            cwasi_channel *rx = open_alone(CWASI_RECEIVER, sockets);
            for (int i = 0; i < 10; i++)
                CHECK(cwasi_channel_recv(rx, data, sizeof data, FOREVER) >= 0);
            cwasi_channel_close(rx, 0, FOREVER);
            _exit(0);
        }
        cwasi_channel *tx = open_alone(CWASI_SENDER, sockets);
        uint64_t length = 0;
        while ((rc = cwasi_channel_send(tx, data, length, FOREVER)) == 0)
            length = (length + 7919) % sizeof data;
        CHECK_EQ(rc, -EPIPE);
        CHECK_EQ(cwasi_channel_unread(tx), stats_of(tx).messages - 10);
        cwasi_channel_free(tx);
        CHECK_EQ(wait_for(child), 0);
    }
}

int main(void)
{
    test_begin(60);
    cwasi_wait_configure(0, 0);
    is_bounded();
    tells_what_was_returned();
    receiver_learns(0, -EPIPE);
    receiver_learns(1, -ECONNRESET);
    blocked_sender_learns(1000, 0, -EPIPE);
    blocked_sender_learns(1000, 1, -ECONNRESET);
    blocked_sender_learns(3 << 20, 0, -EPIPE);
    stops();
    stops_inside_a_message();
    is_given_up();
    peer_is_dead();
    waits_with_others();
    refuses_to_open();
    is_abandoned();
    last_word_before_a_reset();
    return 0;
}
