/* What a thread runs stands in the tracer's map under the thread's id; in a forked child under the child's, which may have
 * a map of its own. */
#include "test.h"

#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

enum { SLOTS = 256, PLACES = 4 };

typedef struct {
    uint32_t tid, id;
} entry;

static entry *map;

static int new_map(entry **mapped)
{
    int fd = memfd_create("slots", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK_EQ(ftruncate(fd, SLOTS * sizeof(entry)), 0);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    *mapped = mmap(NULL, SLOTS * sizeof(entry), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(*mapped != MAP_FAILED);
    return fd;
}

static uint32_t my_tid(void)
{
    return (uint32_t)syscall(SYS_gettid);
}

/* The id in our slot; 0 where we have none. */
static uint32_t charged_in(const entry *to)
{
    for (uint32_t n = 0; n < PLACES; n++) {
        const entry *e = &to[(my_tid() + n) % SLOTS];
        if (e->tid == my_tid())
            return e->id;
    }
    return 0;
}

static unsigned used(const entry *in)
{
    unsigned count = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        count += in[i].tid != 0;
    return count;
}

static void *run_other(void *arg)
{
    (void)arg;
    CHECK_EQ(cwasi_attribution_enter(9), 0);
    CHECK_EQ(charged_in(map), 9);
    CHECK_EQ(cwasi_attribution_enter(0), 9);
    CHECK_EQ(charged_in(map), 0);
    return NULL;
}

static void has_a_map_of_its_own(int fd, const entry *own)
{
    CHECK_EQ(charged_in(map), 5);
    CHECK_EQ(cwasi_attribution_enter(6), 5);
    CHECK_EQ(charged_in(map), 6);
    unsigned before = used(map);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), 0);
    CHECK_EQ(charged_in(own), 6);
    CHECK_EQ(cwasi_attribution_enter(7), 6);
    CHECK_EQ(charged_in(own), 7);
    CHECK_EQ(used(map), before - 1);   /* its parent's slots are not used up by children */
    _exit(0);
}

/* And goes back to one if a tracer comes later. */
static void leaves_its_parents(int fd, const entry *own)
{
    unsigned before = used(map);
    cwasi_attribution_leave();
    cwasi_attribution_leave();
    CHECK_EQ(used(map), before - 1);
    CHECK_EQ(cwasi_attribution_enter(6), 5);
    CHECK_EQ(used(map), before - 1);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), 0);
    CHECK_EQ(charged_in(own), 6);
    _exit(0);
}

/* A thread then remembers for itself, and changes nobody's. */
static void finds_all_places_taken(int fd, entry *own)
{
    for (unsigned i = 0; i < SLOTS; i++)
        own[i] = (entry){1 << 30, 3};
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), 0);
    CHECK_EQ(cwasi_attribution_enter(8), 5);
    CHECK_EQ(cwasi_attribution_enter(0), 8);
    for (unsigned i = 0; i < SLOTS; i++)
        CHECK(own[i].tid == 1 << 30 && own[i].id == 3);
    _exit(0);
}

/* Whoever has such a map could end us by truncating it, now or later. */
static void refuses_what_can_be_truncated(void)
{
    int fd = memfd_create("slots", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK_EQ(ftruncate(fd, SLOTS * sizeof(entry)), 0);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), -EPERM);
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(cwasi_attribution_enter(4), 4);   /* it was not mapped */
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), -EINVAL);
    CHECK_EQ(ftruncate(fd, SLOTS * sizeof(entry) - 1), 0);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), -EINVAL);
    close(fd);
    fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), -EPERM);
    close(fd);
}

/* They have no type of a file, as maps of BPF, and less memory than we would map. */
static void refuses_what_only_looks_like_a_map(void)
{
    struct perf_event_attr counts = {
        .type = PERF_TYPE_SOFTWARE, .size = sizeof counts, .config = PERF_COUNT_SW_DUMMY,
        .exclude_kernel = 1, .exclude_hv = 1,
    };
    struct io_uring_params none = {0};
    int fds[] = {
        (int)syscall(SYS_perf_event_open, &counts, 0, -1, -1, PERF_FLAG_FD_CLOEXEC),
        (int)syscall(SYS_io_uring_setup, 8, &none),
        eventfd(0, EFD_CLOEXEC),
    };
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (fds[i] < 0) {   /* not allowed here */
            fprintf(stderr, "descriptor %u cannot be had\n", i);
            continue;
        }
        CHECK_EQ(cwasi_attribution_map(fds[i], SLOTS, PLACES), -EPERM);
        close(fds[i]);
    }
}

int main(void)
{
    test_begin(10);
    /* Without a tracer it remembers all the same. */
    CHECK_EQ(cwasi_attribution_enter(3), 0);
    CHECK_EQ(cwasi_attribution_enter(4), 3);

    refuses_what_can_be_truncated();
    refuses_what_only_looks_like_a_map();
    int fd = new_map(&map);
    CHECK_EQ(cwasi_attribution_map(fd, 0, PLACES), -EINVAL);
    CHECK_EQ(cwasi_attribution_map(fd, UINT64_MAX, PLACES), -EINVAL);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS - 1, PLACES), -EINVAL);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, 0), -EINVAL);
    CHECK_EQ(cwasi_attribution_map(-1, SLOTS, PLACES), -EBADF);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS, PLACES), 0);

    /* What ran when the tracer came is known to it at once. */
    CHECK_EQ(charged_in(map), 4);
    CHECK_EQ(cwasi_attribution_enter(5), 4);
    CHECK_EQ(charged_in(map), 5);
    pthread_t other = start(run_other, NULL);
    join(other);
    CHECK_EQ(charged_in(map), 5);

    entry *own;
    int own_fd = new_map(&own);
    pid_t child = fork();
    if (child == 0)
        has_a_map_of_its_own(own_fd, own);
    CHECK_EQ(wait_for(child), 0);
    CHECK_EQ(charged_in(map), 5);
    CHECK_EQ(used(map), 2);   /* ours and the other thread's, which a tracer would have freed */

    child = fork();
    if (child == 0)
        leaves_its_parents(own_fd, own);
    CHECK_EQ(wait_for(child), 0);
    CHECK_EQ(used(map), 2);

    child = fork();
    if (child == 0)
        finds_all_places_taken(own_fd, own);
    CHECK_EQ(wait_for(child), 0);

    /* The next tracer: other threads go to its map when they enter or leave. */
    entry *next;
    int next_fd = new_map(&next);
    CHECK_EQ(cwasi_attribution_map(next_fd, SLOTS, PLACES), 0);
    CHECK(charged_in(next) == 5 && charged_in(map) == 0);
    map = next;
    other = start(run_other, NULL);
    join(other);
    CHECK_EQ(cwasi_attribution_enter(0), 5);
    return 0;
}
