/* guest.h - what the hostcalls know of one store, and how they get at its memory. */
#ifndef CWASI_GUEST_H
#define CWASI_GUEST_H

#include "window.h"

/* wasmtime's own layouts; the release is pinned, and these are checked against it when the hostcalls are installed. */
typedef struct {
    uint64_t words[3];
} memory_handle;

typedef struct {
    uint8_t kind;
    union {
        memory_handle memory;
        uint64_t words[3];
    } of;
} extern_item;

typedef union {
    uint32_t i32;
    uint64_t i64;
    uint8_t bytes[16];
} value;

enum { EXTERN_MEMORY = 3 };

_Static_assert(sizeof(memory_handle) == 24 && sizeof(extern_item) == 32 && sizeof(value) == 16, "wasmtime's ABI");

enum { GRANTED, OPENED, CLOSED };   /* a grant is opened once, and closed for good */

/* One channel that the host granted in one direction; its place in the list is the guest's handle. A channel with a way
 * back carries requests: who sends them has one back for the answers, who receives them has one for each sender. */
typedef struct {
    char name[CWASI_NAME_MAX + 1];
    cwasi_channel *channel;
    int role;
    int state;
    uint32_t backs;
    cwasi_channel **back;
    uint32_t owed;       /* answers that have not been received */
    window *window;      /* or NULL */
    uint32_t window_at, window_length;
} grant;

struct cwasi_guest {
    const cwasi_wasmtime *runtime;
    void *context;
    memory_handle memory;
    int memory_known;
    uint32_t count;
    grant *grants;
    cwasi_channel *answers;   /* where the next reply goes, or NULL */
    uint32_t turn;            /* where the next wait begins to look */
    int receives;             /* whether it was granted anything to receive from */
    atomic_u32 stopped;       /* no further message begins */
};

typedef struct {
    uint8_t *base;
    uint64_t size;
} span;

/* Finds the memory as it is now. 0, or -EFAULT where the guest exports none. */
int guest_memory(cwasi_guest *g, void *caller, span *out);
/* The bytes [at, at + length) of the guest's memory, or NULL. */
uint8_t *guest_slice(const span *memory, uint32_t at, uint32_t length);
/* A timeout_ms of the guest, for what it does in that role. 0, -EINVAL, or -ECANCELED where the guest was stopped and
 * would begin with another message. */
int guest_deadline(cwasi_guest *g, int role, uint32_t ms, deadline *until);
/* The grant behind a handle, or NULL; guest_handle_for: of that role. */
grant *guest_handle(cwasi_guest *g, uint32_t h);
grant *guest_handle_for(cwasi_guest *g, uint32_t h, int role);

/* Makes the window of a handle ordinary memory again, if it has one. */
void guest_close_window(cwasi_guest *g, void *caller, grant *of);

/* The bodies of the hostcalls on windows: values are wasmtime's, the result is a length, an offset or -errno. */
int64_t do_window_attach(cwasi_guest *g, void *caller, const value *v);
int64_t do_window_acquire(cwasi_guest *g, void *caller, const value *v);
int64_t do_window_commit(cwasi_guest *g, void *caller, const value *v);
int64_t do_window_take(cwasi_guest *g, void *caller, const value *v);
int64_t do_window_release(cwasi_guest *g, void *caller, const value *v);

#endif
