/* hosted.h - guests without a WebAssembly runtime: a memory, and the hostcalls on it. What lies around a memory is
 * somebody else's: it is filled with a pattern that no guest may change. */
#ifndef CWASI_HOSTED_H
#define CWASI_HOSTED_H

#include "test.h"

enum { E_AGAIN = -6, E_BADF = -8, E_BUSY = -10, E_CANCELED = -11, E_CONNRESET = -15, E_FAULT = -21, E_INVAL = -28 };
enum { E_IO = -29, E_MSGSIZE = -35, E_PIPE = -64, E_TIMEDOUT = -73, E_NOTCAPABLE = -76 };
enum { WASM_PAGE = 65536, AROUND = WASM_PAGE, STRANGER = 0xa5 };

/* One that has the channels of `guest`, and a memory; several may share a guest, as instances share a store. */
typedef struct {
    cwasi_guest *guest;
    uint8_t *memory;
    size_t size;
} instance;

typedef union {
    uint32_t i32;
    uint64_t i64;
    uint8_t bytes[16];
} hosted_value;

static int hosted_store;

static void *hosted_context(void *caller)
{
    (void)caller;
    return &hosted_store;
}

static _Bool hosted_export(void *caller, const char *name, size_t length, void *item)
{
    CHECK(length == 6 && memcmp(name, "memory", 6) == 0);
    memset(item, 0, 32);
    *(uint8_t *)item = 3;
    memcpy((uint8_t *)item + 8, &caller, sizeof caller);
    return 1;
}

static instance *hosted_owner(const void *memory)
{
    instance *owner;
    memcpy(&owner, memory, sizeof owner);
    return owner;
}

static uint8_t *hosted_data(void *context, const void *memory)
{
    CHECK(context == &hosted_store);
    return hosted_owner(memory)->memory;
}

static size_t hosted_size(void *context, const void *memory)
{
    CHECK(context == &hosted_store);
    return hosted_owner(memory)->size;
}

/* The only instance of its guest, which one thread runs. It must stay where it is. */
static inline void is_only(instance *i)
{
    uint8_t handle[24] = {0};
    memcpy(handle, &i, sizeof i);
    CHECK_EQ(cwasi_guest_set_memory(i->guest, handle), 0);
}

static void *hosted_trap(const char *message, size_t length)
{
    (void)message, (void)length;
    CHECK(!"no trap here");
    return NULL;
}

static const cwasi_wasmtime HOSTED = {hosted_context, hosted_export, hosted_data, hosted_size, hosted_trap};

static inline int32_t ask(instance *caller, const char *name, uint32_t a, uint32_t b, uint32_t c)
{
    typedef void *(*callback)(void *env, void *caller, void *values, size_t count);
    hosted_value v[4] = {{.i32 = a}, {.i32 = b}, {.i32 = c}, {.i32 = 0}};
    for (const cwasi_import *i = cwasi_imports(); i->name; i++) {
        if (strcmp(i->name, name) == 0) {
            CHECK(((callback)i->callback)(caller->guest, caller, v, (size_t)i->parameters) == NULL);
            return (int32_t)v[0].i32;
        }
    }
    CHECK(!"no such import");
    return 0;
}

static inline int32_t send_copy(instance *i, uint32_t h, uint32_t at, uint32_t length, int32_t ms)
{
    typedef void *(*callback)(void *env, void *caller, void *values, size_t count);
    hosted_value v[4] = {{.i32 = h}, {.i32 = at}, {.i32 = length}, {.i32 = (uint32_t)ms}};
    CHECK(((callback)cwasi_imports()[1].callback)(i->guest, i, v, 4) == NULL);
    return (int32_t)v[0].i32;
}

static inline int32_t recv_copy(instance *i, uint32_t h, uint32_t at, uint32_t capacity, int32_t ms)
{
    typedef void *(*callback)(void *env, void *caller, void *values, size_t count);
    hosted_value v[4] = {{.i32 = h}, {.i32 = at}, {.i32 = capacity}, {.i32 = (uint32_t)ms}};
    CHECK(((callback)cwasi_imports()[2].callback)(i->guest, i, v, 4) == NULL);
    return (int32_t)v[0].i32;
}

static inline int32_t attach(instance *i, uint32_t h, uint32_t at, uint32_t length)
{
    return ask(i, "window_attach", h, at, length);
}

static inline int32_t acquire(instance *i, uint32_t h, uint32_t length, int32_t ms)
{
    return ask(i, "window_acquire", h, length, (uint32_t)ms);
}

static inline int32_t commit(instance *i, uint32_t h, uint32_t offset, uint32_t length)
{
    return ask(i, "window_commit", h, offset, length);
}

static inline int32_t take(instance *i, uint32_t h, uint32_t out, int32_t ms)
{
    return ask(i, "window_take", h, out, (uint32_t)ms);
}

static inline int32_t release(instance *i, uint32_t h, uint32_t offset)
{
    return ask(i, "window_release", h, offset, 0);
}

/* ---- memories ---- */

static inline uint8_t *place_memory(uint8_t *at, size_t size)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
    uint8_t *whole = mmap(at ? at - AROUND : NULL, size + 2 * AROUND, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(whole != MAP_FAILED);
    memset(whole, STRANGER, AROUND);
    memset(whole + AROUND + size, STRANGER, AROUND);
    return whole + AROUND;
}

static inline int all_strange(const uint8_t *at, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (at[i] != STRANGER)
            return 0;
    }
    return 1;
}

static inline void check_around(const instance *i)
{
    CHECK(all_strange(i->memory - AROUND, AROUND) && all_strange(i->memory + i->size, AROUND));
}

/* To a place of its own; where it was, there is a stranger now. */
static inline uint8_t *move_memory(instance *i, size_t size)
{
    uint8_t *old = i->memory, *to = place_memory(NULL, size);
    memcpy(to, old, i->size);
    CHECK(mmap(old, i->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == old);
    memset(old, STRANGER, i->size);
    i->memory = to;
    i->size = size;
    return old;
}

static inline uint32_t open_port(instance *i, const char *name, int role)
{
    memcpy(i->memory + 16, name, strlen(name));
    int32_t handle = ask(i, "channel_open", 16, (uint32_t)strlen(name), (uint32_t)role);
    CHECK(handle >= 0);
    return (uint32_t)handle;
}

static inline instance new_instance(size_t size)
{
    instance i = {.memory = place_memory(NULL, size), .size = size};
    CHECK_EQ(cwasi_guest_new(&HOSTED, &hosted_store, &i.guest), 0);
    return i;
}

/* With one channel, which is handle 0. */
static inline instance instance_with(cwasi_channel *c, size_t size)
{
    instance i = new_instance(size);
    CHECK_EQ(cwasi_guest_grant(i.guest, "lab", c), 0);
    CHECK_EQ(open_port(&i, "lab", channel_role(c)), 0);
    return i;
}

static inline void free_memory(instance *i)
{
    munmap(i->memory - AROUND, i->size + 2 * AROUND);
}

static inline void free_instance(instance *i)
{
    check_around(i);
    cwasi_guest_free(i->guest);
    free_memory(i);
}

/* ---- messages ---- */

enum { RECORD_AT = 64 };

typedef struct {
    uint32_t offset, length;
} record;

static inline record record_told(const instance *i)
{
    record found;
    memcpy(&found, i->memory + RECORD_AT, sizeof found);
    return found;
}

/* Sends one in place from the window at `window`. */
static inline void send_in_place(instance *i, uint32_t window, uint32_t length, uint64_t seed)
{
    int32_t at = acquire(i, 0, length, -1);
    CHECK(at >= 0);
    fill(i->memory + window + at, length, seed);
    CHECK_EQ(commit(i, 0, (uint32_t)at, length), 0);
}

static inline record take_checked(instance *i, uint32_t window, uint32_t length, uint64_t seed)
{
    CHECK_EQ(take(i, 0, RECORD_AT, -1), 0);
    record found = record_told(i);
    CHECK_EQ(found.length, length);
    CHECK(filled(i->memory + window + found.offset, length, seed));
    return found;
}

#endif
