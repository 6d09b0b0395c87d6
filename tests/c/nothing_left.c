/* Opening and closing, also where opening fails, leaves no descriptor and no mapping behind. */
#include "test.h"

#include <dirent.h>
#include <sys/resource.h>

static int descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;
    CHECK(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static int ring_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    CHECK(maps);
    while (fgets(line, sizeof line, maps))
        count += strstr(line, "cwasi-ring") != NULL;
    fclose(maps);
    return count;
}

static void fail_to_open(void)
{
    cwasi_channel *c, *first;
    int fds[2], fd = cwasi_ring_create(8192, 1), bare = memfd_create("bare", MFD_CLOEXEC);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &first), 0);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &c), -EBUSY);
    CHECK_EQ(cwasi_channel_open_ring(bare, CWASI_RECEIVER, 0, NULL, &c), -EBADMSG);
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[0], NULL, 1, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[1], NULL, 1, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &bare, NULL, 1, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &(int){-1}, NULL, 1, &c), -EBADF);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 2, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], NULL, 0, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], NULL, CWASI_READERS_MAX + 1, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], &fds[1], 1, &c), -EINVAL);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], &bare, 1, &c), -EINVAL);

    /* No descriptor to be had, then one but not two, then two but not three. */
    struct rlimit limit, none;
    getrlimit(RLIMIT_NOFILE, &limit);
    none = limit;
    for (int spare = 0; spare < 3; spare++) {
        int highest = open("/dev/null", O_RDONLY);
        close(highest);
        none.rlim_cur = (rlim_t)(highest + spare);
        setrlimit(RLIMIT_NOFILE, &none);
        if (spare < 2)
            CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 1, &c), -EMFILE);
        CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], &fds[0], 1, &c), -EMFILE);
        if (!spare)
            CHECK_EQ(cwasi_ring_create(4096, 1), -EMFILE);
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    close(fds[0]);
    close(fds[1]);
    close(bare);
    close(fd);
    cwasi_channel_free(first);
}

int main(void)
{
    static uint8_t data[50000], back[50000];
    test_begin(30);
    /* The sanitizers and libc open files of their own at first. */
    free_pair(open_pair(ON_RING));
    int before = descriptors();
    for (int i = 0; i < 300; i++) {
        for (int transport = 0; transport < TRANSPORTS; transport++) {
            pair p = open_pair(transport);
            CHECK_EQ(cwasi_channel_send(p.tx, data, sizeof data, 0), 0);
            if (i % 2)
                CHECK_EQ(cwasi_channel_recv(p.rx, back, sizeof back, 0), sizeof back);
            if (i % 3 == 0)
                cwasi_channel_close(p.tx, 0, 0);
            free_pair(p);
        }
        fail_to_open();
    }
    cwasi_channel_free(NULL);
    CHECK_EQ(descriptors(), before);
    CHECK_EQ(ring_mappings(), 0);
    return 0;
}
