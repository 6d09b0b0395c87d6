/* hostcall.c - the import module cwasi_v1: what a guest calls, without any Python on the way. */
#include "account.h"
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

/* What is received through a handle: messages, or the answers to those that it sends. */
static cwasi_channel *receives(const grant *from)
{
    if (from->role == CWASI_RECEIVER)
        return from->channel;
    return from->backs ? from->back[0] : NULL;
}

static int64_t do_open(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t length = v[1].i32;
    int role = (int)v[2].i32;
    const uint8_t *name = guest_slice(&memory, v[0].i32, length);
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
    deadline until;
    grant *to = guest_handle_for(g, v[0].i32, CWASI_SENDER);
    if (!to)
        return -EBADF;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t length = v[2].i32;
    const uint8_t *data = guest_slice(&memory, v[1].i32, length);
    if (!data)
        return -EFAULT;
    rc = guest_deadline(g, CWASI_SENDER, v[3].i32, &until);
    rc = rc < 0 ? rc : channel_send(to->channel, data, length, until);
    to->owed += rc == 0 && to->backs;
    return rc;
}

/* After a message came through `from`. */
static void note_received(cwasi_guest *g, grant *from)
{
    if (from->role == CWASI_SENDER)
        from->owed--;
    else if (from->backs)
        g->answers = from->back[MIN(channel_source(from->channel), from->backs - 1)];
}

/* One request at a time, so that each has its answer; and no answer that nobody asked for. */
static int may_receive(const cwasi_guest *g, const grant *from)
{
    if (from->role == CWASI_SENDER)
        return from->owed > 0 ? 0 : -EINVAL;
    if (from->window && window_holds(from->window))
        return -EBUSY;   /* what is received now would be released before that */
    return from->backs && g->answers ? -EBUSY : 0;
}

static int64_t do_recv(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    deadline until;
    grant *from = guest_handle(g, v[0].i32);
    if (!from || !receives(from))
        return -EBADF;
    int64_t rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t capacity = v[2].i32;
    uint8_t *data = guest_slice(&memory, v[1].i32, capacity);
    if (!data)
        return -EFAULT;
    rc = guest_deadline(g, from->role, v[3].i32, &until);
    rc = rc < 0 ? rc : may_receive(g, from);
    if (rc == 0 && (rc = channel_recv(receives(from), data, capacity, until)) >= 0)
        note_received(g, from);
    return rc;
}

static int64_t do_peek(cwasi_guest *g, void *caller, const value *v)
{
    (void)caller;
    deadline until;
    grant *from = guest_handle(g, v[0].i32);
    if (!from || !receives(from))
        return -EBADF;
    int rc = guest_deadline(g, from->role, v[1].i32, &until);
    rc = rc < 0 ? rc : may_receive(g, from);
    return rc < 0 ? rc : channel_peek(receives(from), until);
}

static int64_t do_call(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    deadline until;
    grant *to = guest_handle_for(g, v[0].i32, CWASI_SENDER);
    if (!to || !to->backs)
        return -EBADF;
    int64_t rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t length = v[2].i32, capacity = v[4].i32;
    const uint8_t *data = guest_slice(&memory, v[1].i32, length);
    uint8_t *answer = guest_slice(&memory, v[3].i32, capacity);
    if (!data || !answer)
        return -EFAULT;
    rc = guest_deadline(g, CWASI_SENDER, v[5].i32, &until);
    if (rc == 0 && until.at == 0)
        return -EAGAIN;   /* before anything is sent: no answer is there at once */
    for (; rc == 0 && to->owed > 0; to->owed--) {
        if ((rc = channel_drop(to->back[0], until)) < 0)
            return rc;   /* answers to earlier calls, which timed out */
    }
    if (rc == 0)
        rc = channel_send(to->channel, data, length, until);
    if (rc < 0)
        return rc;
    to->owed++;
    if ((rc = channel_recv(to->back[0], answer, capacity, until)) >= 0)
        to->owed--;
    return rc;
}

static int64_t do_reply(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t length = v[1].i32;
    const uint8_t *data = guest_slice(&memory, v[0].i32, length);
    if (!data)
        return -EFAULT;
    if (!g->answers)
        return -EINVAL;
    rc = channel_send(g->answers, data, length, deadline_after(-1));
    if (rc != -EMSGSIZE)
        g->answers = NULL;
    return rc;
}

/* The receiving ends behind the handles at `at`. */
static int waiting_list(cwasi_guest *g, const uint8_t *at, uint32_t count, cwasi_channel **list)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t h;
        memcpy(&h, at + 4 * (uint64_t)i, sizeof h);
        const grant *from = guest_handle(g, h);
        list[i] = from ? receives(from) : NULL;
        if (!list[i])
            return -EBADF;
    }
    return 0;
}

static int64_t do_wait(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    deadline until;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t count = v[1].i32;
    if (count == 0 || count > g->count)
        return -EINVAL;   /* more than there are handles: one would be in it twice */
    const uint8_t *at = guest_slice(&memory, v[0].i32, 4 * count);
    if (!at)
        return -EFAULT;
    cwasi_channel **list = calloc(count, sizeof(cwasi_channel *));
    rc = list ? waiting_list(g, at, count, list) : -ENOMEM;
    if (rc == 0)
        rc = guest_deadline(g, CWASI_RECEIVER, v[2].i32, &until);
    if (rc == 0)
        rc = channel_wait(list, count, g->turn++ % count, until);
    free(list);
    return rc;
}

static int64_t do_mode(cwasi_guest *g, void *caller, const value *v)
{
    (void)caller;
    const grant *found = guest_handle(g, v[0].i32);
    return found ? (int64_t)cwasi_channel_mode(found->channel) : -EBADF;
}

static int64_t do_close(cwasi_guest *g, void *caller, const value *v)
{
    grant *found = guest_handle(g, v[0].i32);
    if (!found)
        return -EBADF;
    guest_close_window(g, caller, found);
    found->state = CLOSED;
    if (load_relaxed(&g->stopped))
        return 0;   /* another process is to go on with it */
    int rc = cwasi_channel_close(found->channel, 0, -1);
    for (uint32_t i = 0; i < found->backs; i++) {
        if (g->answers == found->back[i])
            g->answers = NULL;
        int one = cwasi_channel_close(found->back[i], 0, -1);
        rc = rc ? rc : one;
    }
    return rc;
}

/* What every hostcall does around its body. These imports know one store; in another the memory would not fit. */
static void *hostcall(int64_t (*body)(cwasi_guest *, void *, const value *), void *env, void *caller, value *v)
{
    static const char foreign[] = "cwasi: these imports were installed for another store";
    cwasi_guest *g = env;
    if (g->runtime->caller_context(caller) != g->context)
        return g->runtime->trap_new(foreign, sizeof foreign - 1);
    account call = {0};
    if (is_accounting())
        call = account_open_hostcall();
    int64_t rc = body(g, caller, v);
    if (__builtin_expect(call.began != 0, 0))
        account_close_hostcall(&call);
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
HOSTCALL(call)
HOSTCALL(reply)
HOSTCALL(wait)
HOSTCALL(window_attach)
HOSTCALL(window_acquire)
HOSTCALL(window_commit)
HOSTCALL(window_take)
HOSTCALL(window_release)
HOSTCALL(mode)
HOSTCALL(close)

const cwasi_import *cwasi_imports(void)
{
    static const cwasi_import imports[] = {
        {"channel_open", 3, (void *)call_open},   {"channel_send", 4, (void *)call_send},
        {"channel_recv", 4, (void *)call_recv},   {"channel_peek", 2, (void *)call_peek},
        {"channel_call", 6, (void *)call_call},   {"channel_reply", 2, (void *)call_reply},
        {"channel_wait", 3, (void *)call_wait},
        {"window_attach", 3, (void *)call_window_attach},   {"window_acquire", 3, (void *)call_window_acquire},
        {"window_commit", 3, (void *)call_window_commit},   {"window_take", 3, (void *)call_window_take},
        {"window_release", 2, (void *)call_window_release},
        {"channel_mode", 1, (void *)call_mode},   {"channel_close", 1, (void *)call_close},
        {NULL, 0, NULL},
    };
    return imports;
}
