/* internal.h - what the files of the data plane share with each other. */
#ifndef CWASI_INTERNAL_H
#define CWASI_INTERNAL_H

#include "barrier.h"
#include "cwasi_fastpath.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- wait.c ---- */
typedef struct {
    int64_t at;               /* CLOCK_MONOTONIC ns; INT64_MAX: never; 0: do not wait */
} deadline;

int64_t now_ns(void);
deadline deadline_after(int64_t timeout_ns);

/* Waits until ready(arg) is true: spins within the process's budget, else yields, then sleeps on *parked.
 * peer_core: where the peer ran last, from 1 on, 0 where that is not known.
 * 0, -EAGAIN (no wait allowed) or -ETIMEDOUT. Counts a sleep in *parks. */
int wait_until(atomic_u32 *parked, int (*ready)(void *), void *arg, deadline until, const atomic_u32 *peer_core,
               atomic_u64 *parks);
/* The core that the calling thread is on, from 1 on. */
uint32_t current_core(void);
/* To be called after a publication by a `*_ordered` store; true if it had to wake a sleeper. */
int wake_parked(atomic_u32 *parked);
/* Sleeps while the word is 1; 0 (also without reason) or -ETIMEDOUT. */
int wait_sleep(atomic_u32 *parked, deadline until);
/* Wakes whatever the word says: a hostile peer may have changed it. */
void wait_wake(atomic_u32 *parked);

/* ---- shm.c ---- */
typedef struct {
    uint8_t *control;         /* one page */
    uint8_t *data;            /* capacity bytes, mapped twice in a row */
    uint64_t capacity;
} shm_map;

int shm_create(uint64_t capacity);
int shm_attach(int memfd, shm_map *out);
void shm_detach(shm_map *map);

/* ---- endpoint: one end of one transport. ring.c and pipe.c implement it, endpoint.c holds what they share. ---- */
typedef struct endpoint endpoint;

/* Written only by the thread inside, read by any. The fields are those of cwasi_stats. */
typedef struct {
    atomic_u64 messages, bytes, copied_bytes, waits, parks, wakes, timed;
} counters;

/* Contract. Only one thread at a time is inside send, peek and take; wake may be called by any thread.
 * - send takes a whole frame or nothing until its first byte has gone; after that it ends only when all is sent, the
 *   peer is gone or the end was stopped. The time-out is therefore for the start of a message.
 * - peek waits for a frame, checks it, and keeps it; take copies that frame's payload (drops it when data is NULL).
 * - Frames arrive whole, once, in order. What a dead or finished sender has committed can still be received.
 * - Errors: EAGAIN, ETIMEDOUT, ECANCELED (stopped), EPIPE (finished), ECONNRESET (failed or died), EBADMSG (the shared
 *   memory or the stream holds what no honest peer writes). */
typedef struct {
    int (*send)(endpoint *e, const cwasi_frame *frame, const void *data, deadline until);
    int (*peek)(endpoint *e, cwasi_frame *frame, deadline until);
    int (*take)(endpoint *e, const cwasi_frame *frame, void *data);
    void (*wake)(endpoint *e);
    int (*finish)(endpoint *e, int failed, deadline until);
    void (*destroy)(endpoint *e);
} endpoint_ops;

struct endpoint {
    const endpoint_ops *ops;
    int role;
    atomic_u32 stop;          /* 0, or the errno that ends every wait */
    int torn;                 /* 0, or the error that broke a frame off half-way: no other can follow it */
    counters stats;
};

int ring_open(int memfd, int role, endpoint **out);
int pipe_open(int fd, int role, endpoint **out);

void endpoint_init(endpoint *e, const endpoint_ops *ops, int role);
/* -errno once the end was stopped in a way that ends even what could still be received; else 0. */
int endpoint_cancelled(endpoint *e);
int endpoint_stopped(endpoint *e);
int frame_check(const cwasi_frame *frame);

/* ---- channel.c ---- */
int channel_role(const cwasi_channel *c);

#endif
