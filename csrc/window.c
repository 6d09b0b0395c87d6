/* window.c - a guest's window on a channel: a part of its memory through which messages pass without a copy.
 *
 * Where the transport has a window area, the window's pages are that area: shared at the sender, private at the
 * receiver, whose own stores then change nothing for anybody (they are undone before the page is used again). Elsewhere,
 * and for messages that were sent by a copy, the window is ordinary memory of the guest, and the message is copied
 * to or from it. A receiver's window changes between the two only while the guest holds no record.
 */
#include "window.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 65536, HELD_MAX = 64 };

struct window {
    cwasi_channel *channel;
    uint32_t at, length;     /* where the guest has put it */
    uint64_t area;           /* bytes of it that the window area takes; 0: the transport has none */
    const uint8_t *mapped;   /* where the area is mapped now; NULL: the window is ordinary memory */
    int acquired;            /* a record was acquired and not yet committed */
    uint32_t offset, room;   /* where, and its length */
    unsigned first, held;    /* records taken and not yet released, oldest first */
    window_record record[HELD_MAX];
};

static int sends(const window *w)
{
    return channel_role(w->channel) == CWASI_SENDER;
}

/* ---- the mapping ---- */

static int map_area(window *w, uint8_t *memory)
{
    uint64_t offset;
    endpoint *end = channel_end(w->channel);
    int fd = channel_windows(w->channel)->file(end, &offset);
    int kind = sends(w) ? MAP_SHARED : MAP_PRIVATE;
    uint8_t *to = memory + w->at;
    if (mmap(to, w->area, PROT_READ | PROT_WRITE, kind | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED)
        return -errno;
    w->mapped = to;
    return 0;
}

/* Never munmap: another mapping of the process could slip into the guest's memory. */
static int unmap_area(window *w)
{
    void *at = (void *)(uintptr_t)w->mapped;
    if (!w->mapped)
        return 0;
    w->mapped = NULL;
    if (mmap(at, w->area, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        return -errno;
    return 0;
}

/* Makes the window what it has to be now. When the memory grew by moving, the mapping did not move with it. */
static int make(window *w, uint8_t *memory, int mapped)
{
    if (w->mapped && w->mapped != memory + w->at)
        w->mapped = NULL;
    else if ((w->mapped != NULL) == mapped)
        return 0;
    return mapped ? map_area(w, memory) : unmap_area(w);
}

/* ---- pages that the receiver has written to ---- */

/* What the kernel tells of a range, from 6.7 on (linux/fs.h). */
struct scan_range {
    __u64 start, end, categories;
};

struct scan {
    __u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
    __u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN _IOWR('f', 16, struct scan)
enum { SCAN_IS_FILE = 1 << 2, SCAN_IS_PRESENT = 1 << 3, SCAN_IS_SWAPPED = 1 << 4 };

static int pagemap_fd = -1;

static void open_pagemap(void)
{
    pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

/* A child has pages of its own. */
static void reopen_pagemap(void)
{
    if (pagemap_fd >= 0)
        close(pagemap_fd);
    open_pagemap();
}

static void pagemap_begin(void)
{
    open_pagemap();
    pthread_atfork(NULL, NULL, reopen_pagemap);
}

static void drop(uint8_t *at, uint64_t length)
{
    madvise(at, length, MADV_DONTNEED);
}

/* By one question for the whole range; false where the kernel does not know it. */
static int drop_scanned(uint8_t *at, uint64_t length)
{
    struct scan_range dirty[32];
    struct scan scan = {
        .size = sizeof scan, .start = (__u64)(uintptr_t)at, .end = (__u64)(uintptr_t)at + length,
        .vec = (__u64)(uintptr_t)dirty, .vec_len = 32,
        .category_inverted = SCAN_IS_FILE, .category_mask = SCAN_IS_FILE,
        .category_anyof_mask = SCAN_IS_PRESENT | SCAN_IS_SWAPPED,
        .return_mask = SCAN_IS_FILE,
    };
    while (scan.start < scan.end) {
        int found = ioctl(pagemap_fd, PAGEMAP_SCAN, &scan);
        if (found < 0)
            return 0;
        for (int i = 0; i < found; i++)
            drop((uint8_t *)(uintptr_t)dirty[i].start, dirty[i].end - dirty[i].start);
        scan.start = scan.walk_end;
    }
    return 1;
}

/* Page by page: bit 63 or 62 says that it is there or swapped out, bit 61 that it still is the file's. Without pagemap,
 * all. */
static void drop_looked_up(uint8_t *at, uint64_t length)
{
    uint64_t entry[64], pages = length / PAGE, first = (uintptr_t)at / PAGE;
    for (uint64_t done = 0; done < pages;) {
        uint64_t count = MIN(pages - done, (uint64_t)64);
        ssize_t n = pread(pagemap_fd, entry, count * sizeof entry[0], (off_t)((first + done) * sizeof entry[0]));
        for (uint64_t i = 0; i < count; i++) {
            if (n < (ssize_t)(count * sizeof entry[0]) || (entry[i] >> 62 != 0 && !(entry[i] >> 61 & 1)))
                drop(at + (done + i) * PAGE, PAGE);
        }
        done += count;
    }
}

/* A page that the receiver wrote to is its private copy, and would hide every later message there. */
static void drop_dirty(uint8_t *at, uint64_t length)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, pagemap_begin);
    if (!drop_scanned(at, length))
        drop_looked_up(at, length);
}

/* ---- both ---- */

int window_attach(cwasi_channel *c, uint8_t *memory, uint32_t at, uint32_t length, window **out)
{
    const window_ops *ops = channel_windows(c);
    if (at % ALIGNMENT != 0 || (uintptr_t)memory % PAGE != 0 || length % ALIGNMENT != 0 || length == 0)
        return -EINVAL;
    window *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    *w = (window){.channel = c, .at = at, .length = length};
    int rc = ops ? ops->agree(channel_end(c), length, &w->area) : 0;
    if (rc == 0 && w->area > length)
        rc = -EMSGSIZE;
    if (rc == 0 && ops && sends(w))
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

void window_detach(window *w, const uint8_t *memory)
{
    if (w && w->mapped == memory + w->at)
        unmap_area(w);
    free(w);
}

void window_forget(window *w)
{
    free(w);
}

/* ---- sender ---- */

int64_t window_acquire(window *w, uint8_t *memory, uint32_t length, deadline until)
{
    int64_t rc = length <= w->length ? 0 : -EMSGSIZE;
    w->acquired = 0;
    if (w->area) {
        rc = make(w, memory, 1);
        if (rc == 0)
            rc = channel_acquire(w->channel, length, until);
    }
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
    int fd = channel_windows(w->channel)->file(channel_end(w->channel), &start);
    for (uint32_t done = 0; done < length;) {
        ssize_t n = pwrite(fd, memory + w->at + offset + done, length - done, (off_t)(start + offset + done));
        if (n < 0)
            return -errno;
        done += (uint32_t)n;
    }
    return make(w, memory, 1);
}

int window_commit(window *w, uint8_t *memory, uint32_t offset, uint32_t length)
{
    if (!w->acquired || length > w->room || offset != w->offset)
        return -EINVAL;
    int rc = 0;
    if (w->area && w->mapped != memory + w->at)
        rc = write_back(w, memory, offset, length);
    if (rc == 0)
        rc = w->area ? channel_commit(w->channel, offset, length)
                     : channel_send(w->channel, memory + w->at, length, deadline_after(-1));
    if (rc == 0)
        w->acquired = 0;
    return rc;
}

/* ---- receiver ---- */

/* Where the next copied message goes: behind the last that is held, or at the start; -EBUSY if it is held there. */
static int64_t place(const window *w, uint64_t length)
{
    if (length > w->length)
        return -EMSGSIZE;
    if (w->held == 0)
        return 0;
    const window_record *oldest = &w->record[w->first], *newest = &w->record[(w->first + w->held - 1) % HELD_MAX];
    uint64_t end = newest->offset + newest->length;
    int around = newest->offset < oldest->offset;
    if (!around && end + length <= w->length)
        return (int64_t)end;
    uint64_t start = around ? end : 0;
    return start + length <= oldest->offset ? (int64_t)start : -EBUSY;
}

/* Of several senders one may die inside the message that was found: the next one comes in its place, or, where that is
 * longer, -ESTALE. */
static int take_copied(window *w, uint8_t *memory, window_record *record, deadline until)
{
    if (w->held && w->mapped)
        return -EBUSY;
    int rc = make(w, memory, 0);
    if (rc < 0)
        return rc;
    int64_t offset = place(w, record->length);
    if (offset < 0)
        return (int)offset;
    record->offset = (uint64_t)offset;
    int64_t length = channel_recv(w->channel, memory + w->at + offset, record->length, until);
    if (length < 0)
        return length == -EMSGSIZE ? -ESTALE : (int)length;
    record->length = (uint64_t)length;
    return 0;
}

static int take_in_place(window *w, uint8_t *memory, const window_record *record)
{
    if (w->held && !w->mapped)
        return -EBUSY;
    int rc = make(w, memory, 1);
    return rc < 0 ? rc : channel_take(w->channel, record);
}

int window_take(window *w, uint8_t *memory, window_record *record, deadline until)
{
    if (w->held == HELD_MAX)
        return -EBUSY;
    int rc;
    do {
        rc = channel_find(w->channel, record, until);
        if (rc == 1)
            rc = take_in_place(w, memory, record);
        else if (rc == 0)
            rc = take_copied(w, memory, record, until);
    } while (rc == -ESTALE);
    if (rc < 0)
        return rc;
    w->record[(w->first + w->held++) % HELD_MAX] = *record;
    return 0;
}

int window_release(window *w, uint32_t offset)
{
    window_record *oldest = &w->record[w->first];
    if (w->held == 0 || oldest->offset != offset)
        return -EINVAL;
    w->first = (w->first + 1) % HELD_MAX;
    w->held--;
    if (!w->mapped)
        return 0;
    drop_dirty((uint8_t *)(uintptr_t)w->mapped + oldest->offset, whole_pages(oldest->length));
    return channel_release(w->channel, oldest->end);
}
