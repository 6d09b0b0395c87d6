/* hostcall_window.c - the hostcalls on windows. */
#include "guest.h"

#include <errno.h>
#include <string.h>

static int overlaps(const grant *other, uint32_t at, uint32_t length)
{
    return other->window && (uint64_t)at < (uint64_t)other->window_at + other->window_length &&
           (uint64_t)other->window_at < (uint64_t)at + length;
}

int64_t do_window_attach(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    grant *to = guest_handle(g, v[0].i32);
    if (!to)
        return -EBADF;
    int rc = guest_memory(g, caller, &memory);
    if (rc < 0)
        return rc;
    uint32_t at = v[1].i32, length = v[2].i32;
    if (!guest_slice(&memory, at, length))
        return -EFAULT;
    if (to->window || to->backs)
        return -EINVAL;
    for (uint32_t h = 0; h < g->count; h++) {
        if (overlaps(&g->grants[h], at, length))
            return -EINVAL;
    }
    rc = window_attach(to->channel, memory.base, at, length, g->memory_known, &to->window);
    to->window_at = at;
    to->window_length = length;
    return rc;
}

/* The handle with its window, and the memory as it is now: that of the instance that calls, which need not be the one
 * that attached the window. */
static int window_of(cwasi_guest *g, void *caller, uint32_t h, int role, grant **out, span *memory)
{
    *out = guest_handle_for(g, h, role);
    if (!*out || !(*out)->window)
        return *out ? -EINVAL : -EBADF;
    int rc = guest_memory(g, caller, memory);
    if (rc < 0)
        return rc;
    return guest_slice(memory, (*out)->window_at, (*out)->window_length) ? 0 : -EFAULT;
}

void guest_close_window(cwasi_guest *g, void *caller, grant *of)
{
    span memory;
    if (!of->window)
        return;
    if (guest_memory(g, caller, &memory) == 0 && guest_slice(&memory, of->window_at, of->window_length))
        window_detach(of->window, memory.base);
    else
        window_forget(of->window);
    of->window = NULL;
}

int64_t do_window_acquire(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    deadline until;
    grant *to;
    int rc = window_of(g, caller, v[0].i32, CWASI_SENDER, &to, &memory);
    if (rc == 0)
        rc = guest_deadline(g, CWASI_SENDER, v[2].i32, &until);
    return rc < 0 ? rc : window_acquire(to->window, memory.base, v[1].i32, until);
}

int64_t do_window_commit(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    grant *to;
    int rc = window_of(g, caller, v[0].i32, CWASI_SENDER, &to, &memory);
    return rc < 0 ? rc : window_commit(to->window, memory.base, v[1].i32, v[2].i32);
}

int64_t do_window_take(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    deadline until;
    grant *from;
    window_record record;
    int rc = window_of(g, caller, v[0].i32, CWASI_RECEIVER, &from, &memory);
    if (rc < 0)
        return rc;
    uint32_t told[2];
    uint8_t *out = guest_slice(&memory, v[1].i32, sizeof told);
    if (!out)
        return -EFAULT;
    rc = guest_deadline(g, CWASI_RECEIVER, v[2].i32, &until);
    if (rc == 0)
        rc = window_take(from->window, memory.base, &record, until);
    if (rc < 0)
        return rc;
    told[0] = (uint32_t)record.offset;
    told[1] = (uint32_t)record.length;
    memcpy(out, told, sizeof told);
    return 0;
}

int64_t do_window_release(cwasi_guest *g, void *caller, const value *v)
{
    span memory;
    grant *from;
    int rc = window_of(g, caller, v[0].i32, CWASI_RECEIVER, &from, &memory);
    return rc < 0 ? rc : window_release(from->window, memory.base, v[1].i32);
}
