/* What a thread runs stands in the tracer's map under the thread's id; in a forked child under the child's. */
#include "test.h"

#include <sys/syscall.h>

enum { SLOTS = 1 << 22 };

static uint32_t *map;

static uint32_t *slot(void)
{
    return &map[syscall(SYS_gettid)];
}

static void *run_other(void *arg)
{
    (void)arg;
    CHECK_EQ(cwasi_attribution_enter(9), 0);
    CHECK_EQ(*slot(), 9);
    CHECK_EQ(cwasi_attribution_enter(0), 9);
    CHECK_EQ(*slot(), 0);
    return NULL;
}

int main(void)
{
    test_begin(10);
    /* Without a tracer it remembers all the same. */
    CHECK_EQ(cwasi_attribution_enter(3), 0);
    CHECK_EQ(cwasi_attribution_enter(4), 3);

    int fd = memfd_create("slots", MFD_CLOEXEC);
    CHECK_EQ(ftruncate(fd, (off_t)SLOTS * 4), 0);
    map = mmap(NULL, (size_t)SLOTS * 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED);
    CHECK_EQ(cwasi_attribution_map(fd, 0), -EINVAL);
    CHECK_EQ(cwasi_attribution_map(fd, UINT64_MAX), -EINVAL);
    CHECK_EQ(cwasi_attribution_map(-1, SLOTS), -EBADF);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS), 0);
    CHECK_EQ(cwasi_attribution_map(fd, SLOTS), -EALREADY);
    close(fd);

    CHECK_EQ(cwasi_attribution_enter(5), 4);
    CHECK_EQ(*slot(), 5);
    pthread_t other = start(run_other, NULL);
    join(other);
    CHECK_EQ(*slot(), 5);

    uint32_t *parents = slot();
    pid_t child = fork();
    if (child == 0) {
        CHECK(slot() != parents);
        CHECK_EQ(*slot(), 5);
        CHECK_EQ(cwasi_attribution_enter(6), 5);
        CHECK_EQ(*slot(), 6);
        _exit(0);
    }
    CHECK_EQ(wait_for(child), 0);
    CHECK_EQ(*parents, 5);
    CHECK_EQ(cwasi_attribution_enter(0), 5);
    return 0;
}
