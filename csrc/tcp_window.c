/* tcp_window.c - the frames that a sender over TCP may have to send again. */
#include "tcp.h"

#include <errno.h>
#include <stdlib.h>

enum { LEAST = 64 * 1024 };

/* The bytes from offset on, up to the end of the memory; at most as many as given. */
static uint64_t in_a_row(const tcp_window *w, uint64_t offset, uint64_t bytes, uint64_t *at)
{
    *at = (w->first + offset) % w->capacity;
    return MIN(bytes, w->capacity - *at);
}

int tcp_window_reserve(tcp_window *w, uint64_t bytes)
{
    uint64_t wanted = MAX(w->capacity, (uint64_t)LEAST);
    while (wanted < w->used + bytes)
        wanted = MIN(2 * wanted, w->limit + PAGE);   /* behind the limit is room for the last frame */
    if (wanted == w->capacity)
        return 0;
    uint8_t *memory = malloc(wanted);
    if (!memory)
        return -ENOMEM;
    if (w->used)
        tcp_window_get(w, 0, memory, w->used);
    free(w->memory);
    w->memory = memory;
    w->capacity = wanted;
    w->first = 0;
    return 0;
}

void tcp_window_put(tcp_window *w, const void *from, uint64_t bytes)
{
    const uint8_t *at = from;
    while (bytes > 0) {
        uint64_t to, part = in_a_row(w, w->used, bytes, &to);
        copy_aside(w->memory + to, at, part);
        w->used += part;
        at += part;
        bytes -= part;
    }
}

void tcp_window_get(const tcp_window *w, uint64_t offset, void *to, uint64_t bytes)
{
    uint8_t *at = to;
    while (bytes > 0) {
        uint64_t from, part = in_a_row(w, offset, bytes, &from);
        copy_here(at, w->memory + from, part);
        at += part;
        offset += part;
        bytes -= part;
    }
}

int tcp_window_pieces(const tcp_window *w, uint64_t offset, uint64_t end, struct iovec *pieces)
{
    int count = 0;
    while (offset < end) {
        uint64_t from, part = in_a_row(w, offset, end - offset, &from);
        pieces[count++] = (struct iovec){w->memory + from, part};
        offset += part;
    }
    return count;
}

void tcp_window_drop(tcp_window *w, uint64_t bytes)
{
    w->used -= bytes;
    /* Begins again where it is warm. */
    w->first = w->used ? (w->first + bytes) % w->capacity : 0;
}

void tcp_window_free(tcp_window *w)
{
    free(w->memory);
    *w = (tcp_window){.limit = w->limit};
}
