/* internal.h - what the files of the data plane share with each other. */
#ifndef CWASI_INTERNAL_H
#define CWASI_INTERNAL_H

#include "barrier.h"
#include "cwasi_fastpath.h"

enum { PAGE = 4096 };   /* shm.c refuses to work with others */
enum { HUGE_PAGE = 2 << 20 };   /* what goes with these; elsewhere than on x86 and arm64 nothing comes of it */

static inline uint64_t whole_pages(uint64_t bytes)
{
    return (bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* The room that a message takes in a window. */
static inline uint64_t record_size(uint64_t length)
{
    return MAX(whole_pages(length), (uint64_t)PAGE);
}

/* ---- wait.c ---- */
typedef struct {
    int64_t at;               /* CLOCK_MONOTONIC ns; INT64_MAX: never; 0: do not wait */
    int interruptible;        /* what else ends the wait: 0 or one of the following */
} deadline;

/* BY_SIGNAL: a signal does, with -EINTR. BY_WORD: the word that the thread has named does, with -ECANCELED, in a moment
 * after it was set. */
enum { BY_SIGNAL = 1, BY_WORD = 2 };

/* Only tests change it: without an end to a sleep, a wake that is lost shows as a hang. */
extern int64_t longest_sleep_ns;
/* The same: how long others have a core until that means that they want it for themselves. */
extern int64_t long_turn_ns;

int64_t now_ns(void);
deadline deadline_after(int64_t timeout_ns);
deadline deadline_interruptible(int64_t timeout_ns);
deadline deadline_by_word(int64_t timeout_ns, const atomic_u32 *word);
/* When the next sleep ends; and afterwards whether the wait does: 0, -ETIMEDOUT or -ECANCELED. */
int64_t wait_slice(deadline until);
int wait_over(deadline until);

enum { AWAKE = 0, ON_FUTEX = 1, ON_BELL = 2 };   /* values of a parked word: how its owner sleeps */

/* Who waits, and what it has learnt. */
typedef struct {
    atomic_u32 *parked;           /* in memory that the peer shares */
    const atomic_u32 *peer_core;  /* where the peer ran last, from 1 on, 0 where that is not known; or NULL */
    atomic_u64 *parks;            /* counts the sleeps */
    int64_t spin_ns;              /* how long it spins; 0: as long as the process allows */
    int64_t sleeps_until;         /* it does not yield before: others have the core, */
    int64_t hold_ns;              /* for so long since it found that; 0: nobody has wanted it lately */
    unsigned turns;               /* times that it has yielded */
} waiter;

/* Waits until ready(arg) is true: spins within the process's budget, else yields, then sleeps on the parked word.
 * 0, -EAGAIN (no wait allowed), -ETIMEDOUT or -EINTR. */
int wait_until(waiter *w, int (*ready)(void *), void *arg, deadline until);
/* For who was not ready: only spins or yields, from `start` (now) on. True when ready, false when the time is spent. */
int wait_spin(waiter *w, int (*ready)(void *), void *arg, int64_t start, deadline until);
/* Has the cores counted that spinners may have, if they were not: before a main thread is kept to one of them. */
void wait_count_cores(void);
/* After a wait, in which spinning sufficed or not: how long to spin the next time. */
void wait_learn(waiter *w, int64_t began, int spun);
/* The core that the calling thread is on, from 1 on. */
uint32_t current_core(void);
/* To be called after a publication by a `*_ordered` store; true if it had to wake a sleeper. bell: the one to ring. */
int wake_parked(atomic_u32 *parked, int bell);
/* Sleeps while the word is ON_FUTEX; 0 (also without reason), -ETIMEDOUT or -EINTR. */
int wait_sleep(atomic_u32 *parked, deadline until);
/* Wakes whatever the word says: a hostile peer may have changed it. */
void wait_wake(atomic_u32 *parked);
void bell_ring(int bell);
/* Forgets what was rung; -ECONNRESET if the bell has hung up. */
int bell_quiet(int bell);
/* Our side hears it, for ever; the other one notices nothing. */
void bell_wake_self(int bell);
/* Both sides hear it, for ever. */
void bell_hang_up(int bell);

/* ---- copy.c ---- */
/* Copies a piece of a message of so many bytes to where another core will read it. */
void copy_to_reader(uint8_t *to, const uint8_t *from, uint64_t length, uint64_t message);
/* Copies to where this core will read it. */
void copy_here(void *to, const void *from, uint64_t length);
/* Copies to where it is hardly ever read. */
void copy_aside(uint8_t *to, const uint8_t *from, uint64_t length);
/* Whether large messages go past the caches. */
void copy_choose(int past);

/* ---- shm.c ---- */
enum {
    SHM_CONTROL = 16384,        /* bytes of control words in front of the data */
    SHM_WINDOW = 1 << 30,       /* bytes of window area behind them, where a huge page begins */
};

typedef struct {
    uint8_t *control;
    uint8_t *data;            /* capacity bytes, mapped twice in a row */
    uint64_t capacity;
    uint64_t window;          /* where in the file the window area is */
} shm_map;

int shm_create(uint64_t capacity);
int shm_attach(int memfd, shm_map *out);
void shm_detach(shm_map *map);

/* ---- endpoint: one end of one transport. The rings, the pipes, tcp and gather.c implement it, endpoint.c holds what
 * they share. ---- */
typedef struct endpoint endpoint;
struct pollfd;

/* Written only by the thread inside, read by any. The fields are those of cwasi_stats. */
typedef struct {
    atomic_u64 messages, bytes, copied_bytes, waits, parks, wakes, timed, lost_peers;
} counters;

/* Contract. Only one thread at a time is inside send, peek, take, look, arm and disarm; wake and peer_died may be
 * called by any thread.
 * - send takes a whole frame or nothing until its first byte has gone; after that it ends only when all is sent, the
 *   peer is gone or the end was stopped. The time-out is therefore for the start of a message.
 * - peek waits for a frame, checks it, and keeps it; take copies that frame's payload (drops it when data is NULL).
 * - look: 1 if peek would not wait (a message, the end or an error), else 0.
 * - arm: as look; where it gives 0, one of the descriptors becomes readable when look may give 1. It fills in as many
 *   entries as e->descriptors says. disarm takes it back. Only for receivers.
 * - take gives -ESTALE where the frame broke off and others may follow all the same: peek again.
 * - offer: where it gives 1, the next frame's payload may go straight to data, until withdraw; that gives 1 if it did.
 *   peek, even after an error, and take then only confirm it.
 * - Frames arrive whole, once, in order. What a dead or finished sender has committed can still be received.
 * - leave: sends a frame without payload that is the last one here, though the channel goes on elsewhere. Where peek
 *   comes to it, it fills the frame in and gives -EREMCHG, again and again.
 * - outcome: of a sender's end that was left: 1 if all is read, 0 while that is not known, -ECONNRESET if it never will
 *   be. By any thread. Without it, all is read when nothing is unread.
 * - Errors: EAGAIN, ETIMEDOUT, EINTR, ECANCELED (stopped), EPIPE (finished), ECONNRESET (failed or died), EBADMSG (the
 *   shared memory or the stream holds what no honest peer writes). */
/* Where a record is. Offsets and lengths are bytes in the window area. */
typedef struct {
    uint64_t offset, length;
    uint64_t end;             /* what release is told */
} window_record;

/* Messages in place: payloads are written and read where they stand, in an area that both sides map.
 * - agree: the first of both sides sets the size of the area (whole pages, up to SHM_WINDOW); both get it.
 * - file: the descriptor and the offset in it that the area is mapped from.
 * - acquire: the sender waits for room; a record never wraps and has pages of its own. One at a time.
 * - commit: sends what was acquired, or less of it; offset must be what acquire gave.
 * - find: whether the payload of the frame that was peeked is in the area, and where.
 * - take: consumes that frame, without copying; the record stays until it is released.
 * - release: the room of all records up to end may be used again. */
typedef struct {
    int (*agree)(endpoint *e, uint64_t wanted, uint64_t *agreed);
    int (*file)(const endpoint *e, uint64_t *offset);
    int64_t (*acquire)(endpoint *e, uint64_t length, deadline until);
    int (*commit)(endpoint *e, const cwasi_frame *frame, uint64_t offset);
    int (*find)(const endpoint *e, const cwasi_frame *frame, window_record *out);
    int (*take)(endpoint *e, uint64_t end);
    void (*release)(endpoint *e, uint64_t end);
} window_ops;

typedef struct {
    int (*send)(endpoint *e, const cwasi_frame *frame, const void *data, deadline until);
    int (*peek)(endpoint *e, cwasi_frame *frame, deadline until);
    int (*take)(endpoint *e, const cwasi_frame *frame, void *data);
    int (*look)(endpoint *e);
    int (*arm)(endpoint *e, struct pollfd *fds);
    void (*disarm)(endpoint *e);
    void (*wake)(endpoint *e);
    void (*peer_died)(endpoint *e, unsigned peer);
    uint64_t (*unread)(endpoint *e);
    struct line *(*source)(endpoint *e, unsigned source);
    unsigned (*last_source)(const endpoint *e);
    int (*bell)(const endpoint *e, unsigned peer);
    int (*trim)(endpoint *e);
    int (*hand_over)(endpoint *e, cwasi_handover *h);
    int (*offer)(endpoint *e, void *data, uint64_t capacity);
    int (*withdraw)(endpoint *e);
    int (*leave)(endpoint *e, const cwasi_frame *last, deadline until);
    int (*outcome)(endpoint *e);
    int (*finish)(endpoint *e, int failed, deadline until);
    void (*destroy)(endpoint *e);
    const window_ops *windows;   /* or NULL */
} endpoint_ops;

struct endpoint {
    const endpoint_ops *ops;
    int role;
    atomic_u32 mode;          /* the path class that it amounts to, for guests that ask */
    unsigned descriptors;     /* that arm fills in; 0 where it cannot be armed */
    atomic_u32 stop;          /* 0, or the errno that ends every wait */
    endpoint *before;         /* for line.c */
    int torn;                 /* 0, or the error that broke a frame off half-way: no other can follow it */
    counters stats;
};

int ring_open(int memfd, int role, unsigned reader, const int *bells, endpoint **out);
int pipe_open(int role, const int *pipes, const int *backs, unsigned readers, endpoint **out);
int tcp_open(int role, uint64_t window, unsigned readers, cwasi_tcp **keepers, endpoint **out);
/* Owns the sources from now on, also when it fails. */
int gather_open(endpoint **sources, unsigned count, endpoint **out);

void endpoint_init(endpoint *e, const endpoint_ops *ops, int role);
/* 0, or -errno once the end was stopped. */
int endpoint_stopped(endpoint *e);
/* Ends every wait, now and later, with -error: ECANCELED, or ECONNRESET (what was sent can still be received). */
void endpoint_stop(endpoint *e, int error);
/* The process of that peer has ended (for a receiver of one sender, peer is 0). */
void endpoint_peer_died(endpoint *e, unsigned peer);
uint64_t endpoint_unread(endpoint *e);
/* The bell to that peer, or -1. */
int endpoint_bell(const endpoint *e, unsigned peer);
/* Waits in all of these receivers at once; the index of one where peek would not wait, the first from `from` on.
 * -EAGAIN, -ETIMEDOUT, -EINTR, -ENOTSUP (one cannot be armed), -ENOMEM. */
int endpoint_wait(endpoint **list, unsigned count, unsigned from, waiter *w, deadline until);
int frame_check(const cwasi_frame *frame);
/* Sleeps in poll: 0 (also without reason), -ETIMEDOUT or -EINTR. */
int poll_until(struct pollfd *fds, unsigned count, deadline until);

/* ---- channel.c ---- */
int channel_role(const cwasi_channel *c);
/* How long the messages took together that it received and that were timed. */
uint64_t channel_timed_ns(const cwasi_channel *c);
/* As their namesakes in the header. */
int channel_send(cwasi_channel *c, const void *data, uint64_t length, deadline until);
int64_t channel_recv(cwasi_channel *c, void *data, uint64_t capacity, deadline until);
int64_t channel_peek(cwasi_channel *c, deadline until);
/* Receives a message of any length and forgets it. */
int channel_drop(cwasi_channel *c, deadline until);
/* Which transport it is on; it may change until the next call. */
uint32_t channel_epoch(const cwasi_channel *c);
/* Agrees with the other side on the size of the window area; 0 where the transport has none. epoch: of which one. */
int channel_agree(cwasi_channel *c, uint64_t wanted, uint64_t *agreed, uint32_t *epoch);
/* The following are for the window area of that epoch, else they give -ESTALE. */
/* A descriptor, which the caller closes, and the offset in it that the area is mapped from. */
int channel_area(cwasi_channel *c, uint32_t epoch, uint64_t *offset);
/* Waits for room for a message in place; its offset in the window area. */
int64_t channel_acquire(cwasi_channel *c, uint32_t epoch, uint64_t length, deadline until);
int channel_commit(cwasi_channel *c, uint32_t epoch, uint64_t offset, uint64_t length);
/* Waits for the next message, which stays. 1: it is in the window area; 0: it is not, and only its length is told. */
int channel_find(cwasi_channel *c, window_record *out, deadline until);
/* Takes what channel_find has found in the window area. */
int channel_take(cwasi_channel *c, const window_record *found);
int channel_release(cwasi_channel *c, uint32_t epoch, uint64_t end);
/* Which of the sources the last message came from; 0 where there is one. */
unsigned channel_source(const cwasi_channel *c);
int channel_wait(cwasi_channel **list, unsigned count, unsigned from, deadline until);

#endif
