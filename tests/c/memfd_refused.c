/* A descriptor that could be truncated under us, or has another shape than a ring, is refused. */
#include "test.h"

static int memfd(off_t size, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, size), 0);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void check_refused(int fd, int expected)
{
    cwasi_channel *c;
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &c), expected);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_SENDER, 0, NULL, &c), expected);
    close(fd);
}

int main(void)
{
    const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    const off_t page = 4096, control = SHM_CONTROL, window = HUGE_PAGE + SHM_WINDOW;
    cwasi_channel *c;
    test_begin(10);
    check_refused(memfd(control + window + page, F_SEAL_SHRINK | F_SEAL_GROW), -EBADMSG);
    check_refused(memfd(control + window + page, F_SEAL_SHRINK | F_SEAL_SEAL), -EBADMSG);
    check_refused(memfd(control + window + page, F_SEAL_GROW | F_SEAL_SEAL), -EBADMSG);
    check_refused(memfd(control + window + page, 0), -EBADMSG);
    check_refused(memfd(0, all), -EBADMSG);
    check_refused(memfd(control + window - 1, all), -EBADMSG);
    check_refused(memfd(control + window, all), -EBADMSG);
    check_refused(memfd(control + window + 2048, all), -EBADMSG);
    check_refused(memfd(control + window + 3 * page, all), -EBADMSG);
    check_refused(memfd(control + window + page + 1, all), -EBADMSG);
    check_refused(memfd(control + window + ((off_t)2 << 30), all), -EBADMSG);
    check_refused(memfd(control + window + page, all | F_SEAL_FUTURE_WRITE), -EPERM);
    check_refused(memfd(control + window + page, all), -EBADMSG);   /* made for no reader */
    check_refused(open("/dev/null", O_RDWR), -EINVAL);

    CHECK_EQ(cwasi_channel_open_ring(-1, CWASI_SENDER, 0, NULL, &c), -EBADF);
    int fd = cwasi_ring_create(4096, 1);
    CHECK_EQ(cwasi_channel_open_ring(fd, 0, 0, NULL, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_ring(fd, 3, 0, NULL, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 1, NULL, &c), -EINVAL);
    CHECK_EQ(ftruncate(fd, 0), -1);
    CHECK_EQ(ftruncate(fd, control + window + 2 * page), -1);
    cwasi_channel *first;
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_SENDER, 0, NULL, &first), 0);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_SENDER, 0, NULL, &c), -EBUSY);
    cwasi_channel_free(first);
    close(fd);

    CHECK_EQ(cwasi_ring_create(4096, 0), -EINVAL);
    CHECK_EQ(cwasi_ring_create(4096, CWASI_READERS_MAX + 1), -EINVAL);
    CHECK_EQ(cwasi_ring_create(0, 1), -EINVAL);
    CHECK_EQ(cwasi_ring_create(2048, 1), -EINVAL);
    CHECK_EQ(cwasi_ring_create(5000, 1), -EINVAL);
    CHECK_EQ(cwasi_ring_create(UINT64_C(2) << 30, 1), -EINVAL);
    CHECK_EQ(cwasi_ring_create(UINT64_MAX, 1), -EINVAL);
    return 0;
}
