/* guest.c - the state of one store: its memory, and the channels that were granted to its guest.
 *
 * The guest is hostile: each pointer is an unsigned 32-bit number that is checked against the size of the memory as it
 * is now, and the memory's base is read afresh on every call (memory.grow may move it).
 */
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int guest_memory(cwasi_guest *g, void *caller, span *out)
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

uint8_t *guest_slice(const span *memory, uint32_t at, uint32_t length)
{
    return (uint64_t)at + length <= memory->size ? memory->base + at : NULL;
}

/* What a guest makes of a message it may send all the same. Only one that receives nothing begins by sending. */
static int begins(const cwasi_guest *g, int role)
{
    return role == CWASI_RECEIVER || !g->receives;
}

int guest_deadline(cwasi_guest *g, int role, uint32_t ms, deadline *until)
{
    int32_t signed_ms = (int32_t)ms;
    if (signed_ms < -1)
        return -EINVAL;
    int64_t ns = signed_ms < 0 ? -1 : (int64_t)signed_ms * 1000000;
    if (!begins(g, role)) {
        *until = deadline_after(ns);
        return 0;
    }
    *until = deadline_by_word(ns, &g->stopped);
    return load_relaxed(&g->stopped) ? -ECANCELED : 0;
}

void cwasi_guest_stop(cwasi_guest *g, int stopped)
{
    store_relaxed(&g->stopped, stopped != 0);
}

grant *guest_handle(cwasi_guest *g, uint32_t h)
{
    return h < g->count && g->grants[h].state == OPENED ? &g->grants[h] : NULL;
}

grant *guest_handle_for(cwasi_guest *g, uint32_t h, int role)
{
    grant *found = guest_handle(g, h);
    return found && found->role == role ? found : NULL;
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

int cwasi_guest_grant(cwasi_guest *g, const char *name, cwasi_channel *channel)
{
    size_t length = strlen(name);
    if (length == 0 || length > CWASI_NAME_MAX)
        return -EINVAL;
    grant *grown = realloc(g->grants, (g->count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    g->grants = grown;
    grant *added = &grown[g->count++];
    *added = (grant){.channel = channel, .role = channel_role(channel)};
    g->receives |= added->role == CWASI_RECEIVER;
    memcpy(added->name, name, length + 1);
    return 0;
}

int cwasi_guest_grant_back(cwasi_guest *g, cwasi_channel *back)
{
    grant *last = g->count ? &g->grants[g->count - 1] : NULL;
    if (!last || channel_role(back) == last->role || (last->role == CWASI_SENDER && last->backs))
        return -EINVAL;
    cwasi_channel **grown = realloc(last->back, (last->backs + 1) * sizeof(cwasi_channel *));
    if (!grown)
        return -ENOMEM;
    last->back = grown;
    last->back[last->backs++] = back;
    return 0;
}

void cwasi_guest_free(cwasi_guest *g)
{
    if (!g)
        return;
    for (uint32_t h = 0; h < g->count; h++) {
        window_forget(g->grants[h].window);
        free(g->grants[h].back);
    }
    free(g->grants);
    free(g);
}
