/* tcp.h - what the parts of an end over TCP share: tcp.c, tcp_sender.c, tcp_records.c, tcp_receiver.c
 * and tcp_window.c; tcp_fan.c has several senders' ends.
 *
 * Downstream go frames; upstream goes one kind of record, of the same form, by which the receiver tells how many frames
 * it has taken and how many of them recv has returned. Each connection begins with such a record: the sender then
 * begins with the first frame that was not taken. Frames are counted from 0 on each link, whatever numbers they carry.
 */
#ifndef CWASI_TCP_H
#define CWASI_TCP_H

#include "frame.h"
#include "internal.h"

#include <endian.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>

enum {
    WIRE_HEADER = 24,
    TCP_AHEAD = 16 * 1024,        /* several small messages in one read */
    TCP_WINDOW_LEAST = 1 << 20,
};

/* Of a sender that is known to be dead, the kernel may still bring something: until it is quiet for so long. */
static const int64_t TCP_QUIET_NS = 300000000;

/* The unacknowledged frames in their wire form, oldest first, in memory that is used round and round and grows when
 * needed. Offsets count from the oldest byte. */
typedef struct {
    uint8_t *memory;
    uint64_t capacity, limit;     /* bytes: that there are, and at most */
    uint64_t first;               /* where the oldest is */
    uint64_t used;
} tcp_window;

/* Makes room for so many bytes more: 0 or -ENOMEM. */
int tcp_window_reserve(tcp_window *w, uint64_t bytes);
void tcp_window_put(tcp_window *w, const void *from, uint64_t bytes);
void tcp_window_get(const tcp_window *w, uint64_t offset, void *to, uint64_t bytes);
/* All from offset to end, in up to two pieces; how many. */
int tcp_window_pieces(const tcp_window *w, uint64_t offset, uint64_t end, struct iovec *pieces);
void tcp_window_drop(tcp_window *w, uint64_t bytes);
void tcp_window_free(tcp_window *w);

/* A message longer than the window, sent from the caller's memory, who waits until the receiver has it. */
typedef struct {
    int active;
    int lost;                     /* the sender was stopped inside; the receiver may have it all the same */
    uint8_t header[WIRE_HEADER];
    const uint8_t *data;
    uint64_t length;
} tcp_alone;

/* The payload at the end of the window, where its sender still is in the call: it goes from the sender's memory, which
 * is in the caches. */
typedef struct {
    const uint8_t *data;          /* or NULL */
    uint64_t offset;              /* of its first byte in the window */
} tcp_own;

typedef struct {
    tcp_window window;
    tcp_own own;
    tcp_alone alone;
    int opened;                   /* the receiver has told where this connection begins */
    uint64_t flushed;             /* bytes of the window and what is alone that were given to this connection */
    uint64_t sent, taken, returned;
    int ended;                    /* 0, or why the receiver takes no more */
    uint8_t record[WIRE_HEADER];  /* the beginning of one that came in parts */
    size_t record_at;
} tcp_out;

typedef struct {
    uint8_t ahead[TCP_AHEAD];     /* read but not yet taken: ahead[begin..end) */
    size_t begin, end;
    unsigned peeked;              /* the connection that the frame that was peeked came by */
    int over;                     /* the last frame was seen */
    int timed;                    /* the sender has our clock */
    uint64_t taken, returned;
    uint64_t told, told_returned; /* of these, what the sender was told */
    uint64_t untold_bytes;
    int64_t untold_since;
    uint8_t record[WIRE_HEADER];  /* one that went in parts: record[record_at..) is to follow */
    size_t record_at;
    atomic_u64 died;              /* somebody knows that the sender is dead: when to wait no longer for what comes */
} tcp_in;

typedef struct cwasi_tcp {
    endpoint base;
    pthread_mutex_t lock;         /* for all below; not held in a sleep */
    atomic_u32 holders;           /* the channel and the keeper */
    int fd;                       /* of the connection; always the same number from the first one on */
    int wake_fd;                  /* readable: who sleeps here is to look again */
    int kick_fd;                  /* readable: the keeper is to tend */
    int connected;
    int barren;                   /* the last connection ended before the receiver had said anything */
    int silent;                   /* the last connection ended because nothing came back */
    unsigned connection;          /* how many there have been */
    int kept;                     /* there is a keeper, who makes new ones */
    uint32_t last;                /* FRAME_FINISHED or FRAME_FAILED once this end is closed, else 0 */
    int abandoned;
    union {
        tcp_out out;
        tcp_in in;
    };
} tcp_end;

static inline uint64_t payload_of(uint32_t length)
{
    return length <= CWASI_MESSAGE_MAX ? length : 0;   /* special frames have none */
}

static inline void to_wire(uint8_t *to, const cwasi_frame *frame)
{
    uint64_t seq = htole64(frame->seq), stamp = htole64(frame->stamp);
    uint32_t length = htole32(frame->length), epoch = htole32(frame->epoch);
    memcpy(to, &seq, 8);
    memcpy(to + 8, &stamp, 8);
    memcpy(to + 16, &length, 4);
    memcpy(to + 20, &epoch, 4);
}

static inline cwasi_frame from_wire(const uint8_t *from)
{
    cwasi_frame frame;
    memcpy(&frame.seq, from, 8);
    memcpy(&frame.stamp, from + 8, 8);
    memcpy(&frame.length, from + 16, 4);
    memcpy(&frame.epoch, from + 20, 4);
    return (cwasi_frame){le64toh(frame.seq), le64toh(frame.stamp), le32toh(frame.length), le32toh(frame.epoch)};
}

/* All with the lock held. */

/* Sleeps until the connection has one of these events, or somebody wakes us; drops the lock meanwhile. 0 or -errno. */
int tcp_wait(tcp_end *t, short events, deadline until);
/* The connection is of no use any more. error: that it gave, or 0. */
void tcp_break(tcp_end *t, int error);
void tcp_kick(tcp_end *t);
/* Sender: reads what the receiver has told. The connection breaks, or the channel ends, here. */
void tcp_read_records(tcp_end *t);
/* As another thread than the one that sends: that one may be about to sleep until the record comes that we read. */
void tcp_read_records_beside(tcp_end *t);
/* Sender: 0 while there is, or may be again, a receiver. What it said at its end counts more than that it is gone. */
int tcp_usable(tcp_end *t);
/* Sender: gives the connection what it takes without a wait; whether there is more. */
void tcp_flush(tcp_end *t);
int tcp_backlog(const tcp_end *t);
/* Sender: the parts of sending a message for which there is room. As long as it is `own`, it is the caller's memory. */
void tcp_keep(tcp_end *t, const cwasi_frame *frame, const uint8_t *data, uint64_t length);
void tcp_put_alone(tcp_end *t, const cwasi_frame *frame, const uint8_t *data, uint64_t length);
/* It ends before all of it is taken: error. */
int tcp_tear_alone(tcp_end *t, int error);
/* What was signalled is heard; that the end was stopped stays. */
void tcp_quiet(tcp_end *t);
/* The sender's or receiver's part of cwasi_tcp_connected and cwasi_tcp_tend. */
void tcp_sender_connected(tcp_end *t);
void tcp_receiver_connected(tcp_end *t);
int tcp_sender_tend(tcp_end *t);
int tcp_receiver_tend(tcp_end *t);

/* Without it. */
int tcp_fan_open(uint64_t window, unsigned readers, cwasi_tcp **keepers, endpoint **out);
int tcp_end_open(int role, uint64_t window, tcp_end **out);
int tcp_finish(endpoint *e, int failed, deadline until);
void tcp_destroy(endpoint *e);
void tcp_peer_died(endpoint *e, unsigned peer);
int tcp_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until);
int tcp_leave(endpoint *e, const cwasi_frame *last, deadline until);
int tcp_outcome(endpoint *e);
uint64_t tcp_unread(endpoint *e);
int tcp_trim(endpoint *e);
void tcp_sender_finish(tcp_end *t, deadline until);
int tcp_peek(endpoint *e, cwasi_frame *frame, deadline until);
int tcp_take(endpoint *e, const cwasi_frame *frame, void *data);
int tcp_look(endpoint *e);
int tcp_arm(endpoint *e, struct pollfd *fds);
void tcp_disarm(endpoint *e);
void tcp_receiver_finish(tcp_end *t);

#endif
