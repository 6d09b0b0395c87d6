/* window.c - a guest's window on a channel: a part of its memory through which messages pass without a copy.
 *
 * Where the transport has a window area, the window's pages are that area: shared at the sender, private at the
 * receiver, whose own stores then change nothing for anybody (they are undone before the page is used again). Elsewhere,
 * and for messages that were sent by a copy, the window is ordinary memory of the guest, and the message is copied
 * to or from it. A receiver's window changes between the two only while the guest holds no record.
 */
#include "window.h"
#include "window_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ALIGNMENT = 65536, HELD_MAX = 64, ATTEMPTS = 4 };

struct window {
    cwasi_channel *channel;
    uint32_t at, length;     /* where the guest has put it */
    uint64_t area;           /* bytes of it that the window area takes; 0: the transport has none that fits */
    uint32_t epoch;          /* of that transport */
    const uint8_t *mapped;   /* where the area was mapped last; NULL: the window is ordinary memory */
    int acquired;            /* a record was acquired and not yet committed */
    uint32_t offset, room;   /* where, and its length */
    uint64_t used;           /* bytes of the area that it has sent from, from its start on */
    uint64_t enlarged;       /* of those, how many are in huge pages */
    unsigned refused;        /* how often there was none */
    unsigned first, held;    /* records taken and not yet released, oldest first */
    int in_place;            /* those are in the area; else they are copies */
    int alone;               /* nobody but the thread that takes and releases writes to the memory */
    long faults;             /* of that thread, when it released last */
    uint64_t faulted;        /* where in the area it was when that number changed last */
    window_record record[HELD_MAX];
};

static int sends(const window *w)
{
    return channel_role(w->channel) == CWASI_SENDER;
}

/* ---- the mapping ---- */

/* Never munmap: another mapping of the process could slip into the guest's memory. Nor may it where mmap fails: some
 * kernels have by then unmapped what was there. */
static int map_over(uint8_t *to, uint64_t length, int flags, int fd, uint64_t offset)
{
    const int prot = PROT_READ | PROT_WRITE, plain = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (mmap(to, length, prot, flags | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset) != MAP_FAILED)
        return 0;
    int error = errno;
    mmap(to, length, prot, plain | MAP_FIXED_NOREPLACE, -1, 0);
    return -error;
}

static int map_area(window *w, uint8_t *memory)
{
    uint64_t offset;
    int fd = channel_area(w->channel, w->epoch, &offset);
    if (fd < 0)
        return fd;
    uint8_t *to = memory + w->at;
    int rc = map_over(to, w->area, sends(w) ? MAP_SHARED : MAP_PRIVATE, fd, offset);
    close(fd);
    if (rc < 0)
        return rc;
    if (!sends(w))
        pages_drop(to, w->area);   /* where all memory is locked, the kernel has made private copies of it at once */
    w->mapped = to;
    w->faults = -1;
    return 0;
}

static int unmap_area(window *w, uint8_t *memory)
{
    int rc = map_over(memory + w->at, w->area, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (rc == 0)
        w->mapped = NULL;
    return rc;
}

/* A memory that grew by moving has left the mapping behind; what is there now belongs to others. */
static int is_mapped(window *w, const uint8_t *memory)
{
    if (w->mapped != memory + w->at)
        w->mapped = NULL;
    return w->mapped != NULL;
}

/* Makes the window what it has to be now. */
static int make(window *w, uint8_t *memory, int mapped)
{
    if (is_mapped(w, memory) == mapped)
        return 0;
    return mapped ? map_area(w, memory) : unmap_area(w, memory);
}

/* Puts the next part of the area into a huge page once all of it is in use: what is there takes no more memory in one,
 * and less time to walk through. One part at a time, since that takes a moment, and not for ever where it is refused.
 * It can be done only where the guest has put the window so that huge pages fit; receivers' mappings follow. */
static void enlarge(window *w, uint8_t *memory)
{
    uint8_t *at = memory + w->at + w->enlarged;
    if (w->used < w->enlarged + HUGE_PAGE || w->refused == ATTEMPTS || (uintptr_t)at % HUGE_PAGE != 0)
        return;
    if (pages_enlarge(at) < 0)
        w->refused++;
    else
        w->enlarged += HUGE_PAGE;
}

/* ---- pages that the receiver has written to ---- */

/* Whether all of the area has gone by since the guest may have written to a page for the first time, which is a fault of
 * its thread: to ask for their number takes a thirtieth of a scan of a mebibyte. */
static int untouched(window *w, uint64_t end)
{
    struct rusage used;
    if (!w->alone || getrusage(RUSAGE_THREAD, &used) < 0)
        return 0;
    long faults = used.ru_minflt + used.ru_majflt;
    if (faults != w->faults) {
        w->faults = faults;
        w->faulted = end;
    }
    return end - w->faulted >= w->area;
}

/* ---- both ---- */

/* The channel has another transport than the one that the window fits. Where that has no window area, or a larger one than
 * the window, messages are copied. */
static int renew(window *w, uint8_t *memory)
{
    int rc = make(w, memory, 0);
    if (rc == 0)
        rc = channel_agree(w->channel, w->length, &w->area, &w->epoch);
    w->used = w->enlarged = w->refused = 0;
    if (w->area > w->length)
        w->area = 0;
    return rc;
}

int window_attach(cwasi_channel *c, uint8_t *memory, uint32_t at, uint32_t length, int alone, window **out)
{
    if (at % ALIGNMENT != 0 || (uintptr_t)memory % PAGE != 0 || length % ALIGNMENT != 0 || length == 0 ||
        length > SHM_WINDOW)
        return -EINVAL;
    window *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    *w = (window){.channel = c, .at = at, .length = length, .alone = alone};
    int rc = channel_agree(c, length, &w->area, &w->epoch);
    if (rc == 0 && w->area > length)
        rc = -EMSGSIZE;
    if (rc == 0 && w->area && sends(w))
        rc = make(w, memory, 1);   /* a receiver's when the first record comes */
    if (rc < 0) {
        free(w);
        return rc;
    }
    *out = w;
    return 0;
}

int window_holds(const window *w)
{
    return w->held > 0;
}

void window_detach(window *w, uint8_t *memory)
{
    make(w, memory, 0);
    free(w);
}

void window_forget(window *w)
{
    free(w);
}

/* ---- sender ---- */

static int64_t acquire(window *w, uint8_t *memory, uint32_t length, deadline until)
{
    int64_t rc = -ESTALE;
    while (rc == -ESTALE) {
        rc = w->epoch == channel_epoch(w->channel) ? 0 : renew(w, memory);
        if (rc < 0 || !w->area)
            return rc;
        rc = make(w, memory, 1);
        if (rc == 0)
            enlarge(w, memory);
        if (rc == 0)
            rc = channel_acquire(w->channel, w->epoch, length, until);
    }
    return rc;
}

int64_t window_acquire(window *w, uint8_t *memory, uint32_t length, deadline until)
{
    int64_t rc = length <= w->length ? 0 : -EMSGSIZE;
    w->acquired = 0;
    if (rc == 0)
        rc = acquire(w, memory, length, until);
    if (rc < 0)
        return rc;
    w->acquired = 1;
    w->offset = (uint32_t)rc;
    w->room = length;
    return rc;
}

/* The guest has written to a memory that moved in between: not into the area. */
static int write_back(window *w, uint8_t *memory, uint32_t offset, uint32_t length)
{
    uint64_t start;
    int fd = channel_area(w->channel, w->epoch, &start), rc = fd < 0 ? fd : 0;
    for (uint32_t done = 0; rc == 0 && done < length;) {
        ssize_t n = pwrite(fd, memory + w->at + offset + done, length - done, (off_t)(start + offset + done));
        if (n < 0)
            rc = -errno;
        else
            done += (uint32_t)n;
    }
    if (fd >= 0)
        close(fd);
    return rc < 0 ? rc : make(w, memory, 1);
}

int window_commit(window *w, uint8_t *memory, uint32_t offset, uint32_t length)
{
    if (!w->acquired || length > w->room || offset != w->offset)
        return -EINVAL;
    int rc = -ESTALE;
    if (w->area && w->epoch == channel_epoch(w->channel)) {
        rc = is_mapped(w, memory) ? 0 : write_back(w, memory, offset, length);
        if (rc == 0)
            rc = channel_commit(w->channel, w->epoch, offset, length);
        if (rc == 0)
            w->used = MAX(w->used, offset + record_size(length));
    }
    /* Also where the channel has gone to another transport since. */
    if (rc == -ESTALE)
        rc = channel_send(w->channel, memory + w->at + offset, length, deadline_after(-1));
    if (rc == 0)
        w->acquired = 0;
    return rc;
}

/* ---- receiver ---- */

/* Where the next copied message goes: behind the last that is held, or at the start; -EBUSY if it is held there. It has
 * pages of its own, as in the area, also when it is empty: then no two begin at the same place. */
static int64_t place(const window *w, uint64_t length)
{
    uint64_t size = record_size(length);
    if (size > w->length)
        return -EMSGSIZE;
    if (w->held == 0)
        return 0;
    const window_record *oldest = &w->record[w->first], *newest = &w->record[(w->first + w->held - 1) % HELD_MAX];
    uint64_t end = newest->offset + record_size(newest->length);
    int around = newest->offset < oldest->offset;
    if (!around && end + size <= w->length)
        return (int64_t)end;
    uint64_t start = around ? end : 0;
    return start + size <= oldest->offset ? (int64_t)start : -EBUSY;
}

/* Of several senders one may die inside the message that was found: the next one comes in its place, or, where that is
 * longer, -ESTALE. */
static int take_copied(window *w, uint8_t *memory, window_record *record, deadline until)
{
    if (w->held && w->in_place)
        return -EBUSY;
    int rc = make(w, memory, 0);
    if (rc < 0)
        return rc;
    int64_t offset = place(w, record->length);
    if (offset < 0)
        return (int)offset;
    record->offset = (uint64_t)offset;
    w->in_place = 0;
    int64_t length = channel_recv(w->channel, memory + w->at + offset, record->length, until);
    if (length < 0)
        return length == -EMSGSIZE ? -ESTALE : (int)length;
    record->length = (uint64_t)length;
    return 0;
}

static int take_in_place(window *w, uint8_t *memory, const window_record *record)
{
    /* What is held has become ordinary memory if the memory moved: to map the area over it would undo what the guest
     * has written there. */
    if (w->held && (!w->in_place || !is_mapped(w, memory) || w->epoch != channel_epoch(w->channel)))
        return -EBUSY;
    int rc = w->epoch == channel_epoch(w->channel) ? 0 : renew(w, memory);
    if (rc == 0 && !w->area)
        return -ENOBUFS;
    if (rc == 0)
        rc = make(w, memory, 1);
    if (rc < 0)
        return rc;
    w->in_place = 1;
    return channel_take(w->channel, record);
}

int window_take(window *w, uint8_t *memory, window_record *record, deadline until)
{
    if (w->held == HELD_MAX)
        return -EBUSY;
    int rc;
    do {
        rc = channel_find(w->channel, record, until);
        int copied = rc == 0;
        if (rc == 1)
            rc = take_in_place(w, memory, record);
        if (copied || rc == -ENOBUFS)   /* or it is in an area that we cannot map */
            rc = take_copied(w, memory, record, until);
    } while (rc == -ESTALE);
    if (rc < 0)
        return rc;
    w->record[(w->first + w->held++) % HELD_MAX] = *record;
    return 0;
}

int window_release(window *w, uint8_t *memory, uint32_t offset)
{
    const window_record *oldest = &w->record[w->first];
    if (w->held == 0 || oldest->offset != offset)
        return -EINVAL;
    if (w->in_place && is_mapped(w, memory) && !untouched(w, oldest->end))
        pages_drop_written(memory + w->at + oldest->offset, record_size(oldest->length));
    int rc = w->in_place ? channel_release(w->channel, w->epoch, oldest->end) : 0;
    if (rc < 0 && rc != -ESTALE)   /* the area that it was in is used no more */
        return rc;
    w->first = (w->first + 1) % HELD_MAX;
    w->held--;
    return 0;
}
