/* tcp_records.c - what a receiver over TCP tells its sender, as the sender hears it. */
#include "tcp.h"
#include "fault.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { RECORDS = 64 };   /* read at once */

/* Bytes of the window that the next `frames` frames are. */
static uint64_t bytes_of(const tcp_window *w, uint64_t frames)
{
    uint64_t bytes = 0;
    for (; frames > 0; frames--) {
        uint8_t header[WIRE_HEADER];
        tcp_window_get(w, bytes, header, sizeof header);
        bytes += sizeof header + payload_of(from_wire(header).length);
    }
    return bytes;
}

/* Forgets what was taken. 0, or -EBADMSG for what was not even sent. */
static int forget_taken(tcp_out *o, uint64_t taken)
{
    if (o->alone.lost && !o->opened && taken == o->sent + 1) {
        o->alone.lost = 0;
        o->sent = o->taken = taken;
    }
    if (taken - o->taken > o->sent - o->taken)
        return -EBADMSG;
    if (taken == o->taken)
        return 0;
    uint64_t bytes = o->alone.active ? sizeof o->alone.header + o->alone.length
                                     : bytes_of(&o->window, taken - o->taken);
    /* What another connection brought counts as given only in the first record of this one. */
    if (o->opened && bytes > o->flushed)
        return -EBADMSG;
    o->flushed = o->opened ? o->flushed - bytes : 0;
    if (o->alone.active)
        o->alone.active = 0;
    else
        tcp_window_drop(&o->window, bytes);
    o->own.offset -= o->own.data ? MIN(bytes, o->own.offset) : 0;
    o->taken = taken;
    return 0;
}

static void heed_record(tcp_end *t, const cwasi_frame *record)
{
    tcp_out *o = &t->out;
    uint64_t taken = record->seq, returned = record->stamp;
    if ((record->length != 0 && record->length != FRAME_FINISHED && record->length != FRAME_FAILED) ||
        returned > taken || returned < o->returned || forget_taken(o, taken) < 0) {
        o->ended = -EBADMSG;
        return;
    }
    o->returned = returned;
    o->opened = 1;
    if (record->length)
        o->ended = record->length == FRAME_FINISHED ? -EPIPE : -ECONNRESET;
}

void tcp_read_records(tcp_end *t)
{
    tcp_out *o = &t->out;
    uint8_t bytes[RECORDS * WIRE_HEADER];
    while (t->connected && !o->ended) {
        memcpy(bytes, o->record, o->record_at);
        FAULT_POINT(tcp_records_begin);
        ssize_t n = recv(t->fd, bytes + o->record_at, sizeof bytes - o->record_at, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            tcp_break(t, n < 0 ? errno : 0);
            return;
        }
        size_t end = o->record_at + (size_t)n, at = 0;
        for (; end - at >= WIRE_HEADER && !o->ended; at += WIRE_HEADER) {
            cwasi_frame record = from_wire(bytes + at);
            heed_record(t, &record);
        }
        o->record_at = o->ended ? 0 : end - at;
        memcpy(o->record, bytes + at, o->record_at);
        if (end < sizeof bytes)
            return;   /* a receiver that floods us with records does not keep us here for nothing */
    }
}

void tcp_read_records_beside(tcp_end *t)
{
    tcp_out *o = &t->out;
    uint64_t taken = o->taken;
    int opened = o->opened, ended = o->ended;
    tcp_read_records(t);
    if (o->taken != taken || o->opened != opened || o->ended != ended)
        eventfd_write(t->wake_fd, 1);
}
