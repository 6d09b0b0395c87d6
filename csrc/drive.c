/* drive.c - loops for measuring: C ends of a channel, and what the same costs without one. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LINE = 64, CLOCKS = 1000, GREETINGS = 64 };
enum { PIECE = 128 * 1024 };   /* bytes that a pipe is lent at a time, as by a channel */

static int64_t clock_cost(void)
{
    int64_t start = now_ns();
    for (int i = 0; i < CLOCKS; i++)
        now_ns();
    return (now_ns() - start) / CLOCKS;
}

/* ---- ends of a channel ---- */

static int put(const cwasi_drive *d, uint64_t size)
{
    int rc;
    while ((rc = cwasi_channel_send(d->tx, d->message, size, d->timeout_ns)) == -EAGAIN)
        cpu_relax();
    return rc;
}

static int take(const cwasi_drive *d, uint64_t size)
{
    int64_t rc;
    while ((rc = cwasi_channel_recv(d->rx, d->message, d->size, d->timeout_ns)) == -EAGAIN)
        cpu_relax();
    return rc < 0 ? (int)rc : rc == (int64_t)size ? 0 : -EBADMSG;
}

static uint64_t parks(const cwasi_drive *d)
{
    cwasi_stats counted;
    cwasi_channel_stats(d->rx, &counted);
    return counted.parks;
}

static void look_from_now(const cwasi_drive *d)
{
    if (d->saw)
        *d->saw = (cwasi_driven){.parks = parks(d), .begun = current_core()};
}

static void look_until_now(const cwasi_drive *d)
{
    if (!d->saw)
        return;
    d->saw->ended = current_core();
    d->saw->parks = parks(d) - d->saw->parks;
}

int cwasi_drive_ping(const cwasi_drive *d)
{
    int64_t clock = clock_cost(), before = now_ns();
    int rc = 0;
    for (uint64_t i = 0; i < d->count && rc == 0; i++) {
        rc = put(d, d->size);
        if (rc == 0)
            rc = take(d, d->size);
        int64_t now = now_ns();
        d->took[i] = (uint64_t)MAX(now - before - clock, 0);
        before = now;
        if (i == 0) {
            look_from_now(d);
            before = now_ns();
        }
    }
    look_until_now(d);
    return rc;
}

int cwasi_drive_pong(const cwasi_drive *d)
{
    int rc = 0;
    for (uint64_t i = 0; i < d->count && rc == 0; i++) {
        rc = take(d, d->size);
        if (rc == 0)
            rc = put(d, d->size);
        if (i == 0)
            look_from_now(d);
    }
    look_until_now(d);
    return rc;
}

/* Spins: a sleeper would come late. */
static void wait_for_clock(int64_t when)
{
    while (now_ns() < when)
        cpu_relax();
}

/* Of two sides that greet each other so often both are awake and on a core in the end. Who came first had to wait, and
 * may have gone to sleep: the first messages would tell of that. */
static int greet(const cwasi_drive *d)
{
    int rc = 0;
    for (int i = 0; i < GREETINGS && rc == 0; i++) {
        rc = put(d, 0);
        if (rc == 0)
            rc = take(d, 0);
    }
    return rc;
}

int cwasi_drive_source(const cwasi_drive *d, int64_t period_ns)
{
    int rc = period_ns ? greet(d) : 0;
    look_from_now(d);
    int64_t start = now_ns(), sent = start;
    for (uint64_t i = 0; i < d->count && rc == 0; i++) {
        if (period_ns) {
            /* From the last one on: who was kept from the core does not make up for it by a flood. */
            wait_for_clock(sent + period_ns);
            sent = now_ns();
            memcpy(d->message, &sent, sizeof sent);
        }
        rc = put(d, d->size);
    }
    look_until_now(d);
    if (rc == 0)
        rc = take(d, 0);
    d->took[0] = (uint64_t)(now_ns() - start);
    return rc;
}

/* Waits for the receiver to have followed the last time, and takes both to the next transport. */
static int go_on(const cwasi_drive *d, cwasi_channel *receiver, cwasi_channel **next)
{
    uint32_t epoch = cwasi_channel_epoch(d->tx, 0);
    while (cwasi_channel_epoch(receiver, 0) != epoch)
        cpu_relax();
    int rc = cwasi_channel_attach(receiver, 0, next[1], epoch + 1);
    if (rc < 0) {
        cwasi_channel_free(next[0]);
        return rc;
    }
    do
        rc = cwasi_channel_switch(d->tx, next[0], -1);
    while (rc == -EINTR);
    return rc;
}

int cwasi_drive_switching(const cwasi_drive *d, int64_t period_ns, cwasi_channel *receiver, cwasi_channel **fresh,
                          uint64_t switches)
{
    int rc = greet(d);
    uint64_t done = 0, part = d->count / (switches + 1);
    int64_t sent = now_ns();
    for (uint64_t i = 0; i < d->count && rc == 0; i++) {
        wait_for_clock(sent + period_ns);
        sent = now_ns();
        memcpy(d->message, &sent, sizeof sent);
        if (done < switches && i == (done + 1) * part) {
            rc = go_on(d, receiver, fresh + 2 * done);
            done++;
        }
        if (rc == 0)
            rc = put(d, d->size);
    }
    for (; done < switches; done++) {
        cwasi_channel_free(fresh[2 * done]);
        cwasi_channel_free(fresh[2 * done + 1]);
    }
    return rc == 0 ? take(d, 0) : rc;
}

int cwasi_drive_sink(const cwasi_drive *d)
{
    int rc = d->took ? greet(d) : 0;
    look_from_now(d);
    for (uint64_t i = 0; i < d->count && rc == 0; i++) {
        rc = take(d, d->size);
        if (d->took) {
            int64_t sent;
            memcpy(&sent, d->message, sizeof sent);
            d->took[i] = (uint64_t)(now_ns() - sent);
        }
    }
    look_until_now(d);
    return rc == 0 ? put(d, 0) : rc;
}

/* ---- the same work without a channel ---- */

/* A word at a time, as guests do it: the barriers keep the compiler from wider ones. */
static void fill(uint64_t *block, uint64_t size, uint64_t value)
{
    for (uint64_t i = 0; i < size / sizeof value; i++) {
        block[i] = value;
        __asm__ volatile("" ::: "memory");
    }
}

static uint64_t sum(const uint64_t *block, uint64_t size)
{
    uint64_t total = 0;
    for (uint64_t i = 0; i < size / sizeof total; i++) {
        total += block[i];
        __asm__ volatile("" : "+r"(total));
    }
    return total;
}

/* Of a pair, the block that message i goes through; before it, on a line of its own, whether it is full. */
static uint64_t *block_of(uint8_t *pair, uint64_t size, uint64_t i, atomic_u32 **full)
{
    uint8_t *at = pair + (i % 2) * (LINE + size);
    *full = (atomic_u32 *)at;
    return (uint64_t *)(at + LINE);
}

int64_t cwasi_drive_fill(uint8_t *pair, uint64_t size, uint64_t count)
{
    int64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        atomic_u32 *full;
        uint64_t *block = block_of(pair, size, i, &full);
        while (load_acquire(full))   /* pairs with the release in cwasi_drive_sum */
            cpu_relax();
        fill(block, size, i);
        store_release(full, 1);
    }
    return now_ns() - start;
}

int64_t cwasi_drive_sum(uint8_t *pair, uint64_t size, uint64_t count)
{
    int64_t start = now_ns(), wrong = 0;
    for (uint64_t i = 0; i < count; i++) {
        atomic_u32 *full;
        uint64_t *block = block_of(pair, size, i, &full);
        while (!load_acquire(full))   /* pairs with the release in cwasi_drive_fill */
            cpu_relax();
        wrong |= sum(block, size) != i * (size / sizeof i);
        store_release(full, 0);
    }
    return wrong ? -EBADMSG : now_ns() - start;
}

int64_t cwasi_drive_copy(uint8_t *to, const uint8_t *from, uint64_t size, uint64_t count)
{
    int64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        memcpy(to, from, size);
        __asm__ volatile("" ::: "memory");
    }
    return now_ns() - start;
}

static int lend_piece(int pipe, struct iovec piece)
{
    while (piece.iov_len > 0) {
        ssize_t n = vmsplice(pipe, &piece, 1, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        piece.iov_base = (uint8_t *)piece.iov_base + MAX(n, 0);
        piece.iov_len -= (size_t)MAX(n, 0);
    }
    return 0;
}

int64_t cwasi_drive_lend(int pipe, uint8_t *buffers, uint64_t room, const uint8_t *message, uint64_t size, uint64_t count)
{
    int64_t start = now_ns();
    for (uint64_t at = 0, i = 0; i < count; i++) {
        for (uint64_t done = 0, part; done < size; done += part, at += whole_pages(part)) {
            part = MIN(size - done, (uint64_t)PIECE);
            if (at + part > room)
                at = 0;
            if (message)
                memcpy(buffers + at, message + done, part);
            int rc = lend_piece(pipe, (struct iovec){buffers + at, part});
            if (rc < 0)
                return rc;
        }
    }
    return now_ns() - start;
}

static int write_all(int fd, const uint8_t *from, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = write(fd, from + done, size - done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += (uint64_t)MAX(n, 0);
    }
    return 0;
}

int64_t cwasi_drive_write(int fd, const uint8_t *from, uint64_t size, uint64_t count)
{
    int64_t start = now_ns();
    int rc = 0;
    for (uint64_t i = 0; i < count && rc == 0; i++)
        rc = write_all(fd, from, size);
    return rc < 0 ? rc : now_ns() - start;
}

int64_t cwasi_drive_turns(int in, int out, uint8_t *message, uint64_t size, uint64_t count, int first)
{
    int64_t start = now_ns(), rc = 0;
    for (uint64_t i = 0; i < 2 * count && rc >= 0; i++)
        rc = (i + (first ? 0 : 1)) % 2 == 0 ? write_all(out, message, size) : cwasi_drive_read(in, message, size, 1);
    return rc < 0 ? rc : now_ns() - start;
}

int64_t cwasi_drive_read(int pipe, uint8_t *to, uint64_t size, uint64_t count)
{
    int64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        for (uint64_t done = 0; done < size;) {
            ssize_t n = read(pipe, to + done, size - done);
            if (n == 0 || (n < 0 && errno != EINTR))
                return n < 0 ? -errno : -ECONNRESET;
            done += (uint64_t)MAX(n, 0);
        }
    }
    return now_ns() - start;
}

int64_t cwasi_drive_yield(uint32_t *turn, uint32_t mine, uint64_t count)
{
    atomic_u32 *shared = (atomic_u32 *)turn;
    int64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        while (load_acquire(shared) != mine)   /* pairs with the other's release */
            sched_yield();
        store_release(shared, 1 - mine);
    }
    return now_ns() - start;
}

int64_t cwasi_drive_calls(uint64_t count)
{
    int64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++)
        getppid();
    return now_ns() - start;
}
