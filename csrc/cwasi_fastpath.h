/* cwasi_fastpath.h - the C data plane. The only public header; it holds declarations and no code.
 *
 * Functions return 0 or a length, or -errno. Times are nanoseconds; a timeout of -1 waits for ever and 0 does not wait.
 * One thread at a time may use an end of a channel: a second one gets -EBUSY. A signal ends a wait with -EINTR.
 */
#ifndef CWASI_FASTPATH_H
#define CWASI_FASTPATH_H

#include <stddef.h>
#include <stdint.h>

/* The region between the two marks is also what cffi reads: plain C declarations, no macros. */
/* cdef: begin */
enum {
    CWASI_SENDER = 1,
    CWASI_RECEIVER = 2,
    CWASI_NAME_MAX = 63,             /* bytes in the name of a channel or function */
    CWASI_READERS_MAX = 60,          /* receivers of one sender */
    CWASI_HISTOGRAM_BUCKETS = 640,   /* 40 octaves of nanoseconds, 16 steps each */
    CWASI_MESSAGE_MAX = 1073741824   /* bytes in one message: 1 GiB */
};

/* ---- channel.c: one end of a channel ---- */
typedef struct cwasi_channel cwasi_channel;

typedef struct {
    uint64_t messages;      /* sent or received by this end */
    uint64_t bytes;         /* payload only */
    uint64_t copied_bytes;  /* moved by a copy in user space or by a copying system call of this end */
    uint64_t waits;         /* calls that could not go on at once */
    uint64_t parks;         /* of those: times the thread slept in the kernel */
    uint64_t wakes;         /* times this end woke the peer */
    uint64_t timed;         /* messages in the latency histogram */
    uint64_t lost_peers;    /* that failed or died and were left behind */
} cwasi_stats;

typedef struct {
    uint64_t seq;
    uint64_t stamp;         /* CLOCK_MONOTONIC ns at the start of its send, 0 where it was not taken */
    uint32_t length;        /* bytes of payload */
    uint32_t epoch;
} cwasi_frame;

/* A sealed memfd for one ring. capacity: bytes, a power of two from 4096 to 1 GiB. readers: each of them gets every
 * message. Returns the descriptor. */
int cwasi_ring_create(uint64_t capacity, unsigned readers);
/* Joins a ring as its sender or as one of its readers, counted from 0; maps it, and leaves memfd to the caller.
 * bells: NULL, or our sides of the stream socket pairs between the sender and each reader: as many as there are readers
 * for the sender, one for a reader. Duplicates are kept. Without them this end cannot wait together with others. */
int cwasi_channel_open_ring(int memfd, int role, unsigned reader, const int *bells, cwasi_channel **out);
/* Large messages go from buffer to buffer, where both ends of a ring with one reader are in this process: each is told of
 * the same handover before it is used. -ENOTSUP for other channels. Who made it frees it, at any time. */
typedef struct cwasi_handover cwasi_handover;
int cwasi_handover_new(cwasi_handover **out);
void cwasi_handover_free(cwasi_handover *h);
int cwasi_channel_hand_over(cwasi_channel *c, cwasi_handover *h);
/* Joins pipes: as the sender all that lead to its readers, as a reader one. Duplicates are kept. backs: NULL, or as many
 * pipes in the other direction, by which readers say that they leave. Without them a sender cannot tell a reader that
 * has left from one that died, and they are no bells. */
int cwasi_channel_open_pipe(int role, const int *pipes, const int *backs, unsigned readers, cwasi_channel **out);
/* An end over TCP, which needs a keeper: see below. window: bytes of messages that a sender keeps until they are
 * received, 1 MiB to 1 GiB; a longer message goes alone. readers: of a sender; it has a connection to each of them, with
 * a window and a keeper of its own, for which keepers has room. Of a receiver, 1. */
typedef struct cwasi_tcp cwasi_tcp;
int cwasi_channel_open_tcp(int role, uint64_t window, unsigned readers, cwasi_tcp **keepers, cwasi_channel **out);
/* One receiver of what several receive, in turn. The sources, which nobody may have used, are its own from now on;
 * -EINVAL leaves them alone. A source that ends is left out; the last one ends the whole, with -ECONNRESET if any of
 * them did not finish. */
int cwasi_channel_gather(cwasi_channel **sources, unsigned count, cwasi_channel **out);

int cwasi_channel_send(cwasi_channel *c, const void *data, uint64_t length, int64_t timeout_ns);
/* Sends on a message that came from elsewhere with its time stamp (0: it was not timed). */
int cwasi_channel_forward(cwasi_channel *c, const void *data, uint64_t length, uint64_t stamp, int64_t timeout_ns);
/* The payload's length; -EMSGSIZE keeps the message when capacity is short. */
int64_t cwasi_channel_recv(cwasi_channel *c, void *data, uint64_t capacity, int64_t timeout_ns);
/* The length of the next message, which stays; fills frame unless it is NULL. -EREMCHG, with the frame's epoch: the sender
 * goes on by another transport, of which this end knows nothing. */
int64_t cwasi_channel_peek(cwasi_channel *c, cwasi_frame *frame, int64_t timeout_ns);

/* Waits in several receivers at once; the index of one in which recv would not wait, the first from `from` on.
 * -ENOTSUP if one of them was opened without bells. */
int cwasi_channel_wait(cwasi_channel **list, unsigned count, unsigned from, int64_t timeout_ns);
/* For event loops. 0: recv would not wait; else how many descriptors it filled in, one of which becomes readable when
 * recv may go on (-1: ignore). -ENOSPC when there are more than room, -ENOTSUP as above. Then disarm. */
int cwasi_channel_arm(cwasi_channel *c, int *descriptors, unsigned room);
int cwasi_channel_disarm(cwasi_channel *c);

/* Our sides of the bells: each hangs up when the process at its other side ends. Fills in up to room; how many it did.
 * They stay the channel's. */
int cwasi_channel_bells(cwasi_channel *c, int *descriptors, unsigned room);
/* One of them has hung up: as cwasi_channel_peer_died for the peer behind it. Nothing where it has not, or is not one of
 * them any more. */
void cwasi_channel_hung_up(cwasi_channel *c, int bell);

/* A live switch to another transport. The receiver is given its end of it first, the sender then goes on by its own, and
 * the receiver follows when it has read what was sent before. `fresh` is a channel that was opened and not used; it is
 * gone afterwards, whatever the result. source: which of several senders, else 0. epoch: 1 more than now. */
int cwasi_channel_attach(cwasi_channel *c, unsigned source, cwasi_channel *fresh, uint32_t epoch);
/* Takes it back; -EALREADY where the sender has gone there, or this end was closed, which has told it so. */
int cwasi_channel_detach(cwasi_channel *c, unsigned source, uint32_t epoch);
/* Waits for a moment between two messages, and for room to tell the receiver. An error changes nothing. -EINTR: a signal
 * came, or it is time to look for one; `fresh` is there still, and the call may be made again. */
int cwasi_channel_switch(cwasi_channel *c, cwasi_channel *fresh, int64_t timeout_ns);
/* Frees what is left of transports from which this end has gone on. Done at each switch; who wants the memory back
 * before the next one calls it once in a while. */
void cwasi_channel_tidy(cwasi_channel *c);
/* For who passes messages on: the sender's last word here, as it was received. */
int cwasi_channel_pass_switch(cwasi_channel *c, uint32_t epoch, int64_t timeout_ns);
/* A move of an end to another process. The other side has its end of the next transport, as for a switch, and whose own
 * end is there. Sender: the last word here; after it nothing can be sent here (-EBADF). As cwasi_channel_switch. */
int cwasi_channel_depart(cwasi_channel *c, int64_t timeout_ns);
/* An end that was opened and not used is the successor of one of another process, in the epoch that the channel has come
 * to. */
int cwasi_channel_begin(cwasi_channel *c, uint32_t epoch);
/* How many switches this end has made. */
uint32_t cwasi_channel_epoch(cwasi_channel *c, unsigned source);

/* Refuses longer messages with -EMSGSIZE, 1 GiB at first. */
int cwasi_channel_limit(cwasi_channel *c, uint64_t limit);
/* The path class in use: 0 local, 1 proximal, 2 remote; of several sources, the farthest. Set for what is in use now; 0 at
 * first. */
void cwasi_channel_set_mode(cwasi_channel *c, unsigned mode);
unsigned cwasi_channel_mode(cwasi_channel *c);
/* Takes a time stamp for one message in `every` (a power of two); 1 times all. */
int cwasi_channel_sample(cwasi_channel *c, uint32_t every);
/* Wakes whoever waits in this end, and makes every later wait fail with -ECANCELED. */
void cwasi_channel_stop(cwasi_channel *c);
/* The process of that peer (which sender, which reader; 0 where there is one) has ended: what it sent before can still
 * be received, then -ECONNRESET. A sender goes on while it has other readers. */
void cwasi_channel_peer_died(cwasi_channel *c, unsigned peer);
/* The same for an end with one peer that goes on in another process: only what comes by the transport of that epoch. */
void cwasi_channel_peer_died_in(cwasi_channel *c, uint32_t epoch);
/* For a sender: messages that were sent and not received, by the slowest reader, also one that has left; 0 where it
 * cannot be told. */
uint64_t cwasi_channel_unread(cwasi_channel *c);
/* For a sender: 1 once a transport that it has left by a switch died before all was received, after which nothing can be
 * sent; *unread: how many messages on it were not, as far as the transport knows. Else 0. */
int cwasi_channel_lost(cwasi_channel *c, uint64_t *unread);
/* Gives the memory of an empty ring, or of what is lent to pipes, back, if this is its sender and nobody is using it: 1;
 * else 0. */
int cwasi_channel_trim(cwasi_channel *c);
/* Ends this side. failed = 0: the peer reads the rest, then gets EPIPE; failed = 1: then ECONNRESET.
 * Waits up to linger_ns for a thread inside and for room to tell the peer. Closing twice is safe. */
int cwasi_channel_close(cwasi_channel *c, int failed, int64_t linger_ns);
void cwasi_channel_free(cwasi_channel *c);
/* Frees a forked copy of an end that another process goes on using: the peer learns nothing of it. -EBUSY: in use. */
int cwasi_channel_abandon(cwasi_channel *c);
/* To be called in a forked child for its copy of an end, before any use: who was just switching it, or looking at it, is
 * in the parent. */
void cwasi_channel_forked(cwasi_channel *c);
void cwasi_channel_stats(cwasi_channel *c, cwasi_stats *out);
/* What one source of a gathered receiver counted; -EINVAL where there is no such source. */
int cwasi_channel_source_stats(cwasi_channel *c, unsigned source, cwasi_stats *out);
/* histogram: CWASI_HISTOGRAM_BUCKETS counters. Bucket i holds latencies of at least
 * 2^(i/16) * (1 + (i%16)/16) ns and less than the bound of i + 1. */
void cwasi_channel_histogram(const cwasi_channel *c, uint64_t *histogram);

/* ---- observe.c: the same of many ends at once ---- */
typedef struct {
    uint64_t messages, bytes, waits, parks, timed;   /* see cwasi_stats */
    uint64_t timed_ns;                               /* how long the timed ones took together */
} cwasi_observed;
/* rows: of each end what was seen the last time, and is seen now. changed: which are others than before, by number, with
 * room for all; how many these are. NULL for an end that is gone, whose row is all ones. */
unsigned cwasi_observe(cwasi_channel *const *ends, unsigned count, cwasi_observed *rows, unsigned *changed);
/* sent: of each end the messages that it had counted the last time, so many seconds ago, and has now. most: how many
 * a second are no rush. 1: any has counted more; 2: any has more than that; or both. An end that is gone is NULL. */
unsigned cwasi_peek(cwasi_channel *const *ends, unsigned count, uint64_t *sent, const double *most, double seconds);

/* ---- tcp.c: what the keeper of an end over TCP does, from a thread of its own; it may outlive the channel ---- */
/* Gives the end a connected and authenticated stream socket, in place of the one before; a duplicate is kept.
 * timed: the peer has our clock. -EPIPE: the end is gone. */
int cwasi_tcp_connected(cwasi_tcp *t, int fd, int timed);
/* Moves what can be moved without waiting. Returns what to wait for on the connection besides a hang-up (POLLIN and
 * POLLOUT, or 0), or -ENOTCONN: a new one is needed, -ETIMEDOUT: so it is, since nothing came back from the peer's node,
 * -ECONNREFUSED: so it is, since the receiver hung up without a word, -EPIPE: a closed receiver has nobody to tell,
 * -ESHUTDOWN: nothing is left to do. */
int cwasi_tcp_tend(cwasi_tcp *t);
/* Readable when there is something to tend; not to be closed. */
int cwasi_tcp_descriptor(const cwasi_tcp *t);
/* There will be no other connection: the peer counts as dead. */
void cwasi_tcp_give_up(cwasi_tcp *t);
/* The end of keeping. forked: in a child, for its copy of an end that our parent keeps. */
void cwasi_tcp_leave(cwasi_tcp *t, int forked);

/* ---- wait.c ---- */
/* How many threads of this process may spin at once (the default: usable cores - 1), and for how long; negative: as
 * before. */
void cwasi_wait_configure(int spinners, int64_t spin_ns);

/* ---- attribution.c: which function runs on this thread ---- */
/* Maps this process's slot map, {uint32_t tid, id}[slots], a power of two: a thread's slot is the first with its tid, of
 * `places` from tid % slots on. Again for the next tracer, and in a forked child, which has that of its parent at first.
 * -EPERM: it is no array of BPF, and somebody could truncate it. */
int cwasi_attribution_map(int map_fd, uint64_t slots, uint32_t places);
/* In a forked child, which may get no map: its parent's is not for it to write to. */
void cwasi_attribution_leave(void);
/* Charges what this thread does from now on to function `id`, whose index is id % CWASI_FUNCTIONS_MAX; returns the id
 * that was charged before. */
uint32_t cwasi_attribution_enter(uint32_t id);

/* ---- statistics.c: what functions and ends of channels counted, in a file for a tracer; all in ns, bytes, or times ---- */
enum {
    CWASI_STATISTICS_MAGIC = 0x54535743,   /* "CWST" */
    CWASI_STATISTICS_VERSION = 1,
    CWASI_FUNCTIONS_MAX = 1024,            /* indexes from 1 on; the last one is for all that exceed it */
    CWASI_ENDS_MAX = 1024
};
typedef struct {
    uint64_t ns;            /* that it ran, until its last call or its end */
    uint64_t calls;         /* into the data plane */
    uint64_t calls_ns;      /* spent in them */
    uint64_t waited_ns;     /* of these, for a peer */
    uint64_t copying_ns;    /* and by copies in user space of 1 KiB and more */
} cwasi_function_statistics;
typedef struct {
    char channel[64], peers[128], transport[8];
    uint32_t role, mode;
    uint32_t function;      /* that used it last */
    uint32_t reserved;
    uint64_t calls, calls_ns, waited_ns, copying_ns;
    uint64_t messages, bytes, copied_bytes, waits, parks, wakes, timed;   /* see cwasi_stats */
    uint64_t timed_ns;      /* how long the timed ones took together */
} cwasi_end_statistics;
typedef struct {
    uint32_t magic, version;
    uint32_t ends;          /* used below */
    uint32_t missed;        /* that found no room */
    cwasi_function_statistics functions[1024];   /* by index; who has one goes on where the last one stopped */
    cwasi_end_statistics end[1024];
} cwasi_statistics;
/* Returns a sealed memfd with a cwasi_statistics, which the caller closes; again another descriptor of the same. */
int cwasi_statistics_create(void);
/* From now on somebody reads it, or somebody else; nobody: then nothing is counted. */
void cwasi_statistics_begin(void);
void cwasi_statistics_stop(void);
/* From now on this end is in it; or with another transport, where it was. -ENOSPC: there is no room. */
int cwasi_statistics_end(cwasi_channel *c, const char *channel, const char *peers, const char *transport);

/* ---- calibrate.c: what this machine charges, in nanoseconds ---- */
typedef struct {
    double syscall;         /* an empty system call */
    double copy_byte;       /* a byte copied once, 64 KiB blocks in cache */
    double hop;             /* a cache line handed from one core to another, one way; 0 on a single core */
    double wake;            /* waking a sleeping thread, until it runs */
    double pipe_message;    /* a small message through a pipe: write and read */
    double pipe_byte;       /* each byte more */
    double past_caches;     /* a large message by stores past the caches, as a multiple of ordinary ones */
} cwasi_costs;
/* Takes a few milliseconds. From then on large messages are copied in the way that was faster. */
int cwasi_calibrate(cwasi_costs *out);
/* The cache-line hop alone, ns one way: the median of `rounds` round trips, halved; 0 on a single core. */
double cwasi_measure_hop(int rounds);

/* ---- drive.c: loops for measuring ---- */
/* What a side saw from its second message on, or, where it has greeted the other, from then on. */
typedef struct {
    uint64_t parks;         /* how often it slept until one came */
    uint32_t begun, ended;  /* on which core it was, from 1 on */
} cwasi_driven;

/* One of two sides that exchange messages, each on a thread of its own. */
typedef struct {
    cwasi_channel *tx, *rx;
    uint8_t *message;       /* room for one */
    uint64_t size;          /* bytes in a message, at least 8 */
    uint64_t count;
    int64_t timeout_ns;     /* of every call; 0 polls without end */
    uint64_t *took;         /* room for count times in ns */
    cwasi_driven *saw;      /* or NULL */
} cwasi_drive;
/* ping sends and receives, `took` is each round trip without what the clock takes; pong receives and sends. */
int cwasi_drive_ping(const cwasi_drive *d);
int cwasi_drive_pong(const cwasi_drive *d);
/* Sends `count` messages, one each period_ns or without a pause (0), then waits for an answer: took[0] is all of it.
 * With a period it greets the sink first, which then needs `took` too. */
int cwasi_drive_source(const cwasi_drive *d, int64_t period_ns);
/* The same, with so many switches on the way: `fresh` has the sender's end and the receiver's of each next transport, and
 * `receiver` is the other end of d->tx. All of fresh is gone afterwards. */
int cwasi_drive_switching(const cwasi_drive *d, int64_t period_ns, cwasi_channel *receiver, cwasi_channel **fresh,
                          uint64_t switches);
/* Receives `count` messages, then answers. With `took` each tells when it was sent: how long it was under way. */
int cwasi_drive_sink(const cwasi_drive *d);

/* The same work without a channel: fill writes a block of `size` bytes (a multiple of 64), sum adds it up, by turns
 * on two plain blocks. pair: 2 * (64 + size) bytes, zeroed, on a border of 64. Ends with ns, or -EBADMSG. */
int64_t cwasi_drive_fill(uint8_t *pair, uint64_t size, uint64_t count);
int64_t cwasi_drive_sum(uint8_t *pair, uint64_t size, uint64_t count);
/* ns for `count` copies. */
int64_t cwasi_drive_copy(uint8_t *to, const uint8_t *from, uint64_t size, uint64_t count);
/* Lends `count` messages to a pipe from `room` bytes of buffers, piece by piece and round and round; what is in them, or,
 * unless it is NULL, what it copies there of `message`. Nothing keeps it from writing what is not read yet. ns. */
int64_t cwasi_drive_lend(int pipe, uint8_t *buffers, uint64_t room, const uint8_t *message, uint64_t size, uint64_t count);
/* Reads as many from it. ns. */
int64_t cwasi_drive_read(int pipe, uint8_t *to, uint64_t size, uint64_t count);
/* Writes `count` messages to a pipe or socket: ns. */
int64_t cwasi_drive_write(int fd, const uint8_t *from, uint64_t size, uint64_t count);
/* Two threads, one of them first, pass a message to and fro over a socket or two pipes, `count` times: ns. */
int64_t cwasi_drive_turns(int in, int out, uint8_t *message, uint64_t size, uint64_t count, int first);
/* Two threads, 0 and 1, take turns `count` times, and give their core away while it is not theirs: ns. */
int64_t cwasi_drive_yield(uint32_t *turn, uint32_t mine, uint64_t count);
/* Makes `count` system calls of the least kind: ns. */
int64_t cwasi_drive_calls(uint64_t count);

/* ---- hostcall.c: the import module cwasi_v1 ---- */
typedef struct cwasi_guest cwasi_guest;

/* The entry points of wasmtime that hostcalls need, resolved by whoever loaded the library. */
typedef struct {
    void *(*caller_context)(void *caller);
    _Bool (*caller_export_get)(void *caller, const char *name, size_t length, void *item);
    uint8_t *(*memory_data)(void *context, const void *memory);
    size_t (*memory_data_size)(void *context, const void *memory);
    void *(*trap_new)(const char *message, size_t length);
} cwasi_wasmtime;

typedef struct {
    const char *name;       /* in the import module */
    int parameters;         /* all i32, one i32 result */
    void *callback;         /* a wasmtime_func_unchecked_callback_t whose env is a cwasi_guest */
} cwasi_import;

/* The imports, ended by an entry without a name. */
const cwasi_import *cwasi_imports(void);
/* State of one store. context: its wasmtime_context_t. runtime must outlive the guest. */
int cwasi_guest_new(const cwasi_wasmtime *runtime, void *context, cwasi_guest **out);
/* memory: the wasmtime_memory_t (24 bytes) of the only instance in this store. Without this call the exported memory is
 * looked up afresh on every hostcall. */
int cwasi_guest_set_memory(cwasi_guest *g, const void *memory);
/* Lets the guest open its end of `channel` under `name`. The channel must outlive the guest. */
int cwasi_guest_grant(cwasi_guest *g, const char *name, cwasi_channel *channel);
/* Gives the channel that was granted last a way back, and so makes its messages requests: a sender has one receiver of
 * answers, a receiver has a sender of answers for each of its sources, in their order. Must outlive the guest, too. */
int cwasi_guest_grant_back(cwasi_guest *g, cwasi_channel *back);
/* Stops the guest between two messages, from any thread: where it would wait for, or receive, another one (or send, if
 * it receives none), it gets ECANCELED; what it has received it may still pass on. 0 takes that back. */
void cwasi_guest_stop(cwasi_guest *g, int stopped);
void cwasi_guest_free(cwasi_guest *g);
/* cdef: end */

#endif
