/* ring.h - what the parts of a ring share: ring.c, ring_sender.c, ring_reader.c and ring_window.c. */
#ifndef CWASI_RING_H
#define CWASI_RING_H

#include "handover.h"
#include "internal.h"

enum { OPEN = 0, FINISHED = 1, FAILED = 2 };   /* values of state */

/* What one side tells the others. Each line has one writer, and the words that are rarely written stand apart from
 * those that change with every message. 128: neighbouring lines are fetched in pairs. */
typedef struct {
    _Alignas(128) atomic_u64 position;   /* how far it has written or read */
    atomic_u64 base;                     /* of the sender: the position that stands at the start of the data */
    atomic_u64 messages;                 /* of a reader: read whole */
    atomic_u64 window_position;          /* of a reader: up to where it has released records of the window area */
    _Alignas(128) atomic_u32 state;
    atomic_u32 claimed;
    atomic_u32 parked;
    atomic_u32 core;                     /* where it ran last, from 1 on */
} ring_side;

typedef struct {
    atomic_u32 readers;                  /* how many the ring was made for */
    atomic_u64 window;                   /* bytes of the window area in use: set once, by the first who has a window */
    ring_side sender;
    ring_side reader[CWASI_READERS_MAX];
} ring_control;

_Static_assert(sizeof(ring_control) <= SHM_CONTROL, "the control words fit");

typedef struct {
    ring_side *side;
    uint64_t seen;       /* the last checked value of its position */
    uint64_t window_seen;
    atomic_u32 died;     /* its process has ended */
    int gone;            /* a reader that we have dropped */
    int bell;            /* our side of the pair, or -1 */
} ring_peer;

typedef struct {
    endpoint base;
    shm_map map;
    ring_control *control;
    ring_side *own;
    waiter waiter;
    uint64_t published;   /* what our position says */
    uint64_t cursor;      /* how far we have written or read; ahead of published inside a message */
    uint64_t seen;        /* how far the sender, or the slowest reader, is known to be */
    uint64_t start;       /* the position that stands at the start of the data */
    uint64_t rewind_at;   /* not before that does the sender look again whether it may begin again */
    uint64_t messages;    /* that we have written or read */
    uint64_t chunk;       /* bytes in a piece of a large message */
    uint64_t want;        /* bytes of room or of data that the current wait is for */
    uint32_t core;        /* what we have published of it */
    int result;           /* of the last look */
    int memfd;
    uint64_t window;           /* bytes of the window area, checked; 0 while nobody has a window */
    uint64_t window_end;       /* of the last record written or taken */
    uint64_t window_base;      /* of the sender: all before it is released, or was skipped */
    uint64_t window_held;      /* from there on, by the slowest reader, when the sender looked last */
    uint64_t window_start;     /* of the record acquired, or of the frame that was peeked */
    uint64_t window_ahead;     /* how much may be held before the readers get a moment; 0: as at first */
    uint64_t window_size;      /* whole pages of the record acquired; 0: none */
    int in_window;             /* the payload of the frame that was peeked is there */
    int handed;                /* it is where we had offered a buffer for it */
    handover *handover;        /* NULL: the other end may be in another process */
    const uint8_t *window_map; /* our own view of the area, to copy from; NULL until that is needed */
    unsigned peers;
    ring_peer peer[];
} ring;

static inline uint64_t ring_padded(uint64_t n)
{
    return (n + 7) & ~UINT64_C(7);
}

/* ---- ring.c ---- */
/* Waits until ready(r), which leaves its finding in r->result; 0 or -errno. */
int ring_await(ring *r, int (*ready)(void *), deadline until);
/* Whether our position still is what we wrote. */
int ring_intact(const ring *r);
uint8_t *ring_at_cursor(const ring *r);
/* Lets the others have what lies below the cursor. */
void ring_publish(ring *r);
/* The same, behind a whole message. */
void ring_publish_whole(ring *r);

/* ---- ring_sender.c ---- */
/* Waits until a frame and its payload of so many bytes fit; 0 or -errno. */
int ring_await_room(ring *r, uint64_t bytes, deadline until);
/* -errno once the end is stopped or no reader is left; else 0. */
int ring_usable(ring *r);
/* A reader that lies holds up the others no longer. */
void ring_drop_reader(ring *r, ring_peer *peer, int error);
/* As endpoint_ops has them. */
int ring_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until);
int ring_leave(endpoint *e, const cwasi_frame *last, deadline until);
int ring_outcome(endpoint *e);
uint64_t ring_unread(endpoint *e);
int ring_trim(endpoint *e);

/* ---- ring_reader.c: as endpoint_ops has them ---- */
int ring_peek(endpoint *e, cwasi_frame *frame, deadline until);
int ring_take(endpoint *e, const cwasi_frame *frame, void *data);
int ring_look(endpoint *e);
int ring_arm(endpoint *e, struct pollfd *fds);
void ring_disarm(endpoint *e);
int ring_offer(endpoint *e, void *data, uint64_t capacity);
int ring_withdraw(endpoint *e);

/* ---- ring_window.c ---- */
extern const window_ops RING_WINDOWS;
/* Receiver: the frame at the cursor has its payload in the window area; checks where. 0 or -EBADMSG. */
int ring_window_peek(ring *r, const cwasi_frame *frame);
/* Receiver: copies that payload (unless data is NULL) and releases it. 0 or -errno. */
int ring_window_copy(ring *r, const cwasi_frame *frame, void *data);
void ring_window_close(ring *r);

#endif
