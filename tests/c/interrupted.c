/* A signal ends a wait with EINTR, where the caller asked for it, and never in the middle of a message. */
#include "test.h"

static void on_signal(int number)
{
    (void)number;
}

typedef struct {
    call call;
    int (*wait)(cwasi_channel *);   /* NULL: the call */
    atomic_u32 done;
} waiting;

static int wait_for_it(cwasi_channel *rx)
{
    return cwasi_channel_wait(&rx, 1, 0, FOREVER);
}

static int peek_at_it(cwasi_channel *rx)
{
    return (int)cwasi_channel_peek(rx, NULL, FOREVER);
}

static int as_a_guest(cwasi_channel *rx)
{
    return (int)channel_recv(rx, NULL, 0, deadline_after(-1));
}

static void *receives(void *arg)
{
    waiting *w = arg;
    if (w->wait)
        w->call.result = w->wait(w->call.channel);
    else
        call_recv(&w->call);
    store_release(&w->done, 1);
    return NULL;
}

static void *sends(void *arg)
{
    waiting *w = arg;
    call_send(&w->call);
    store_release(&w->done, 1);
    return NULL;
}

/* Signals, until it comes back: one may arrive just before it sleeps. */
static void interrupt(pthread_t thread, waiting *w)
{
    while (!load_acquire(&w->done)) {
        CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
        sleep_ms(1);
    }
    join(thread);
}

static void ends_a_wait(cwasi_channel *tx, cwasi_channel *rx)
{
    int (*waits[])(cwasi_channel *) = {NULL, wait_for_it, peek_at_it};
    for (int i = 0; i < 3; i++) {
        waiting w = {.call = {.channel = rx, .length = 2000, .timeout = FOREVER}, .wait = waits[i]};
        interrupt(start(receives, &w), &w);
        CHECK_EQ(w.call.result, -EINTR);
    }
    uint64_t count = fill_up(tx);
    waiting w = {.call = {.channel = tx, .length = 1000, .timeout = 60000 * MS}};
    interrupt(start(sends, &w), &w);
    CHECK_EQ(w.call.result, -EINTR);
    drain(rx, count);
    CHECK_EQ(cwasi_channel_recv(rx, NULL, 0, 0), -EAGAIN);
}

/* Guests know no signals: their waits go on. */
static void not_that_of_a_guest(cwasi_channel *tx, cwasi_channel *rx)
{
    waiting w = {.call = {.channel = rx}, .wait = as_a_guest};
    pthread_t thread = start(receives, &w);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
        sleep_ms(1);
    }
    CHECK_EQ(load_acquire(&w.done), 0);
    CHECK_EQ(cwasi_channel_send(tx, NULL, 0, 0), 0);
    join(thread);
    CHECK_EQ(w.call.result, 0);
}

static void not_in_mid_message(pair p)
{
    enum { LENGTH = 3 << 20 };
    waiting s = {.call = {.channel = p.tx, .length = LENGTH, .timeout = FOREVER}};
    pthread_t sender = start(sends, &s);
    CHECK_EQ(cwasi_channel_peek(p.rx, NULL, FOREVER), LENGTH);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(pthread_kill(sender, SIGUSR1), 0);
        sleep_ms(1);
    }
    CHECK_EQ(load_acquire(&s.done), 0);
    waiting r = {.call = {.channel = p.rx, .length = LENGTH, .timeout = FOREVER}};
    pthread_t receiver = start(receives, &r);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(pthread_kill(pthread_self(), SIGUSR1), 0);
        if (!load_acquire(&r.done))
            pthread_kill(receiver, SIGUSR1);
    }
    join(sender);
    join(receiver);
    CHECK_EQ(s.call.result, 0);
    CHECK_EQ(r.call.result, LENGTH);
}

int main(void)
{
    test_begin(60);
    struct sigaction action = {.sa_handler = on_signal};   /* without SA_RESTART */
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int spins = 0; spins < 2; spins++) {
        cwasi_wait_configure(spins, 40000);
        pair pairs[] = {belled_pair(64 * 1024), pipe_pair()};
        for (int i = 0; i < 2; i++) {
            ends_a_wait(pairs[i].tx, pairs[i].rx);
            not_that_of_a_guest(pairs[i].tx, pairs[i].rx);
            not_in_mid_message(pairs[i]);
            free_pair(pairs[i]);
        }
        pair first = belled_pair(64 * 1024), second = pipe_pair();
        cwasi_channel *rx, *sources[] = {first.rx, second.rx};
        CHECK_EQ(cwasi_channel_gather(sources, 2, &rx), 0);
        ends_a_wait(first.tx, rx);
        not_that_of_a_guest(second.tx, rx);
        cwasi_channel_free(first.tx);
        cwasi_channel_free(second.tx);
        cwasi_channel_free(rx);
    }
    return 0;
}
