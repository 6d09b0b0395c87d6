/* window_pages.c - see window_pages.h. */
#include "window_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25   /* from 6.1 on */
#endif

void pages_drop(uint8_t *at, uint64_t length)
{
    /* In a process that has locked its memory the first is refused. */
    if (madvise(at, length, MADV_DONTNEED) < 0)
        madvise(at, length, MADV_DONTNEED_LOCKED);
}

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
            pages_drop((uint8_t *)(uintptr_t)dirty[i].start, dirty[i].end - dirty[i].start);
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
        uint64_t count = MIN(pages - done, (uint64_t)64), size = count * sizeof entry[0];
        if (pread(pagemap_fd, entry, size, (off_t)((first + done) * sizeof entry[0])) != (ssize_t)size) {
            pages_drop(at + done * PAGE, length - done * PAGE);
            return;
        }
        for (uint64_t i = 0; i < count; i++) {
            if (entry[i] >> 62 != 0 && !(entry[i] >> 61 & 1))
                pages_drop(at + (done + i) * PAGE, PAGE);
        }
        done += count;
    }
}

void pages_drop_written(uint8_t *at, uint64_t length)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, pagemap_begin);
    if (!drop_scanned(at, length))
        drop_looked_up(at, length);
}

int pages_enlarge(uint8_t *at)
{
    return madvise(at, HUGE_PAGE, MADV_COLLAPSE) < 0 ? -errno : 0;
}
