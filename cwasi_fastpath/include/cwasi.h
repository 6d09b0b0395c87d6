/* cwasi.h - channels for WebAssembly guests (import module "cwasi_v1").
 *
 * Every function returns a value >= 0, or a negative WASI preview-1 errno (the CWASI_E* names below).
 * timeout_ms: -1 waits for ever, 0 does not wait (-CWASI_EAGAIN).
 * A guest must export its memory as "memory" (wasi-libc's linker does).
 *
 *   clang --target=wasm32-wasi --sysroot=/usr -O2 -I DIR -o f.wasm f.c        DIR: output of `cwasi include`
 */
#ifndef CWASI_H
#define CWASI_H

#include <stdint.h>

#define CWASI_IMPORT(name) __attribute__((import_module("cwasi_v1"), import_name(#name)))

enum { CWASI_SEND = 1, CWASI_RECEIVE = 2 };           /* flags of cwasi_open */
enum { CWASI_LOCAL = 0, CWASI_PROXIMAL = 1, CWASI_REMOTE = 2 }; /* results of cwasi_mode */

enum {
    CWASI_EAGAIN = 6,      /* it would have to wait, and the timeout is 0 */
    CWASI_EBADF = 8,       /* no such handle, or the wrong direction */
    CWASI_EBUSY = 10,      /* another thread uses this end; or: reply, or release, first */
    CWASI_ECANCELED = 11,  /* the host is closing */
    CWASI_ECONNRESET = 15, /* the peer died */
    CWASI_EFAULT = 21,     /* a pointer is outside this guest's memory */
    CWASI_EINVAL = 28,     /* an argument makes no sense */
    CWASI_EIO = 29,        /* the transport is broken or its memory was corrupted */
    CWASI_EMSGSIZE = 35,   /* receive: the buffer is short, the message is kept; send: over 1 GiB */
    CWASI_EPIPE = 64,      /* receive: the sender closed and all is read; send: the receiver closed */
    CWASI_ETIMEDOUT = 73,
    CWASI_ENOTCAPABLE = 76 /* the host did not grant this channel in this direction */
};

/* A handle for a channel that the host granted to this function under `name`. */
CWASI_IMPORT(channel_open) int32_t cwasi_open(const char *name, uint32_t name_len, uint32_t flags);
/* Sends one message of 0 to 2^30 bytes; 0 when the transport has taken it. */
CWASI_IMPORT(channel_send) int32_t cwasi_send(int32_t handle, const void *data, uint32_t len, int32_t timeout_ms);
/* Receives one message into buf; its length. */
CWASI_IMPORT(channel_recv) int32_t cwasi_recv(int32_t handle, void *buf, uint32_t cap, int32_t timeout_ms);
/* The length of the next message, which stays. */
CWASI_IMPORT(channel_peek) int32_t cwasi_peek(int32_t handle, int32_t timeout_ms);
/* Sends a request and receives its answer into buf; the answer's length. For a handle that sends on a channel of calls.
 * After CWASI_ETIMEDOUT or CWASI_EMSGSIZE the answer can be had with cwasi_recv on the same handle. */
CWASI_IMPORT(channel_call) int32_t cwasi_call(int32_t handle, const void *data, uint32_t len,
                                                   void *buf, uint32_t cap, int32_t timeout_ms);
/* Answers the request that was received last, on a channel of calls; 0. Each is answered before the next is received. */
CWASI_IMPORT(channel_reply) int32_t cwasi_reply(const void *data, uint32_t len);
/* Waits in n handles at once; the index of one in which cwasi_recv would not wait. */
CWASI_IMPORT(channel_wait) int32_t cwasi_wait(const int32_t *handles, uint32_t n, int32_t timeout_ms);
/* How far the peer is, as the channel is running now: CWASI_LOCAL, ... */
CWASI_IMPORT(channel_mode) int32_t cwasi_mode(int32_t handle);
/* Ends this guest's side: the peer reads what is left, then gets CWASI_EPIPE. */
CWASI_IMPORT(channel_close) int32_t cwasi_close(int32_t handle);

/* Windows: messages in place. A window is a part of this guest's memory through which the messages of one channel pass
 * without a copy, where the transport can do that; elsewhere they are copied, and all else is the same. */

/* Makes [ptr, ptr + len) the window of a channel; what it holds is lost. Both are multiples of 65536 (aligned_alloc),
 * len is at most 2^30 and the same at both ends. */
CWASI_IMPORT(window_attach) int32_t cwasi_window_attach(int32_t handle, void *ptr, uint32_t len);
/* Waits for room for a message of up to len bytes; where in the window to write it. */
CWASI_IMPORT(window_acquire) int32_t cwasi_window_acquire(int32_t handle, uint32_t len, int32_t timeout_ms);
/* Sends the first len bytes of what was acquired at offset; they must not be written to any more. */
CWASI_IMPORT(window_commit) int32_t cwasi_window_commit(int32_t handle, uint32_t offset, uint32_t len);
/* Receives a message in place: it stays until it is released. */
typedef struct {
    uint32_t offset, len;
} cwasi_record;
CWASI_IMPORT(window_take) int32_t cwasi_window_take(int32_t handle, cwasi_record *out, int32_t timeout_ms);
/* Gives back the message at offset; in the order in which they were taken. */
CWASI_IMPORT(window_release) int32_t cwasi_window_release(int32_t handle, uint32_t offset);

#endif
