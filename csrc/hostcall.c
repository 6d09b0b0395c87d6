/* hostcall.c - the import module cwasi_v1: what a guest calls, without any Python on the way.
 *
 * The guest is hostile: each pointer is an unsigned 32-bit number that is checked against the size of the memory as it
 * is now, and the memory's base is read afresh on every call (memory.grow may move it).
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

/* One channel that the host granted in one direction; its place in the list is the guest's handle. */
typedef struct {
    char name[CWASI_NAME_MAX + 1];
    cwasi_channel *channel;
    int role;
    int mode;
    int state;
} grant;

struct cwasi_guest {
    const cwasi_wasmtime *runtime;
    void *context;
    memory_handle memory;
    int memory_known;
    uint32_t count;
    grant *grants;
};

typedef struct {
    uint8_t *base;
    uint64_t size;
} span;

/* WASI preview-1 numbers are not Linux numbers. */
static int32_t wasi_error(int64_t rc)
{
    switch (-rc) {
    case EAGAIN: return -6;
    case EBADF: return -8;
    case EBUSY: return -10;
    case ECANCELED: return -11;
    case ECONNRESET: return -15;
    case EFAULT: return -21;
    case EINVAL: return -28;
    case EMSGSIZE: return -35;
    case EPIPE: return -64;
    case ETIMEDOUT: return -73;
    case EPERM: return -76;     /* ENOTCAPABLE */
    default: return -29;        /* EIO: EBADMSG and whatever the kernel says */
    }
}

static int guest_memory(cwasi_guest *g, void *caller, span *out)
{
    memory_handle memory = g->memory;
    if (!g->memory_known) {
        extern_item item;
        if (!g->runtime->caller_export_get(caller, "memory", 6, &item) || item.kind != EXTERN_MEMORY)
            return -EFAULT;
        memory = item.of.memory;
    }
    out->base = g->runtime->memory_data(g->context, &memory);
    out->size = g->runtime->memory_data_size(g->context, &memory);
    return 0;
}

/* The bytes [at, at + length) of the guest's memory, or NULL. */
static uint8_t *slice(const span *memory, uint32_t at, uint32_t length)
{
    return (uint64_t)at + length <= memory->size ? memory->base + at : NULL;
}

static int timeout_of(uint32_t ms, int64_t *ns)
{
    int32_t signed_ms = (int32_t)ms;
    if (signed_ms < -1)
        return -EINVAL;
    *ns = signed_ms < 0 ? -1 : (int64_t)signed_ms * 1000000;
    return 0;
}

static grant *handle(cwasi_guest *g, uint32_t h)
{
    return h < g->count && g->grants[h].state == OPENED ? &g->grants[h] : NULL;
}

static grant *handle_for(cwasi_guest *g, uint32_t h, int role)
{
    grant *found = handle(g, h);
    return found && found->role == role ? found : NULL;
}

static int64_t do_open(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t length = v[1].i32;
    int role = (int)v[2].i32;
    const uint8_t *name = slice(&memory, v[0].i32, length);
    if (!name)
        return -EFAULT;
    if (length == 0 || length > CWASI_NAME_MAX || (role != CWASI_SENDER && role != CWASI_RECEIVER))
        return -EINVAL;
    for (uint32_t h = 0; h < g->count; h++) {
        grant *candidate = &g->grants[h];
        if (candidate->role != role || strlen(candidate->name) != length || memcmp(candidate->name, name, length) != 0)
            continue;
        if (candidate->state == CLOSED)
            return -EPIPE;
        candidate->state = OPENED;
        return h;
    }
    return -EPERM;
}

static int64_t do_send(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    int64_t timeout;
    grant *to = handle_for(g, v[0].i32, CWASI_SENDER);
    if (!to)
        return -EBADF;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t length = v[2].i32;
    const uint8_t *data = slice(&memory, v[1].i32, length);
    if (!data)
        return -EFAULT;
    rc = timeout_of(v[3].i32, &timeout);
    return rc < 0 ? rc : cwasi_channel_send(to->channel, data, length, timeout);
}

static int64_t do_recv(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    int64_t timeout;
    grant *from = handle_for(g, v[0].i32, CWASI_RECEIVER);
    if (!from)
        return -EBADF;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t capacity = v[2].i32;
    uint8_t *data = slice(&memory, v[1].i32, capacity);
    if (!data)
        return -EFAULT;
    rc = timeout_of(v[3].i32, &timeout);
    return rc < 0 ? rc : cwasi_channel_recv(from->channel, data, capacity, timeout);
}

static int64_t do_peek(cwasi_guest *g, void *caller, const value *v)
{
    (void)caller;
    int64_t timeout;
    grant *from = handle_for(g, v[0].i32, CWASI_RECEIVER);
    int rc = from ? timeout_of(v[1].i32, &timeout) : -EBADF;
    return rc < 0 ? rc : cwasi_channel_peek(from->channel, NULL, timeout);
}

static int64_t do_mode(cwasi_guest *g, void *caller, const value *v)
{
    (void)caller;
    const grant *found = handle(g, v[0].i32);
    return found ? found->mode : -EBADF;
}

static int64_t do_close(cwasi_guest *g, void *caller, const value *v)
{
    (void)caller;
    grant *found = handle(g, v[0].i32);
    if (!found)
        return -EBADF;
    found->state = CLOSED;
    return cwasi_channel_close(found->channel, 0, -1);
}

/* What every hostcall does around its body. These imports know one store; in another the memory would not fit. */
static void *hostcall(int64_t (*body)(cwasi_guest *, void *, const value *), void *env, void *caller, value *v)
{
    static const char foreign[] = "cwasi: these imports were installed for another store";
    cwasi_guest *g = env;
    if (g->runtime->caller_context(caller) != g->context)
        return g->runtime->trap_new(foreign, sizeof foreign - 1);
    int64_t rc = body(g, caller, v);
    v[0].i64 = (uint32_t)(rc < 0 ? wasi_error(rc) : (int32_t)rc);
    return NULL;
}

#define HOSTCALL(name)                                                              \
    static void *call_##name(void *env, void *caller, value *values, size_t count)  \
    {                                                                               \
        (void)count;                                                                \
        return hostcall(do_##name, env, caller, values);                            \
    }

HOSTCALL(open)
HOSTCALL(send)
HOSTCALL(recv)
HOSTCALL(peek)
HOSTCALL(mode)
HOSTCALL(close)

const cwasi_import *cwasi_imports(void)
{
    static const cwasi_import imports[] = {
        {"channel_open", 3, (void *)call_open},   {"channel_send", 4, (void *)call_send},
        {"channel_recv", 4, (void *)call_recv},   {"channel_peek", 2, (void *)call_peek},
        {"channel_mode", 1, (void *)call_mode},   {"channel_close", 1, (void *)call_close},
        {NULL, 0, NULL},
    };
    return imports;
}

int cwasi_guest_new(const cwasi_wasmtime *runtime, void *context, cwasi_guest **out)
{
    cwasi_guest *g = calloc(1, sizeof *g);
    if (!g)
        return -ENOMEM;
    g->runtime = runtime;
    g->context = context;
    *out = g;
    return 0;
}

int cwasi_guest_set_memory(cwasi_guest *g, const void *memory)
{
    memcpy(&g->memory, memory, sizeof g->memory);
    g->memory_known = 1;
    return 0;
}

int cwasi_guest_grant(cwasi_guest *g, const char *name, cwasi_channel *channel, int mode)
{
    size_t length = strlen(name);
    if (length == 0 || length > CWASI_NAME_MAX)
        return -EINVAL;
    grant *grown = realloc(g->grants, (g->count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    g->grants = grown;
    grant *added = &grown[g->count++];
    *added = (grant){.channel = channel, .role = channel_role(channel), .mode = mode};
    memcpy(added->name, name, length + 1);
    return 0;
}

void cwasi_guest_free(cwasi_guest *g)
{
    if (g)
        free(g->grants);
    free(g);
}
