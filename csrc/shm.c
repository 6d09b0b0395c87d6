/* shm.c - the sealed memory of a ring: control words, then the data, mapped twice in a row so that a message that runs
 * over the end is contiguous all the same, then the window area, which is mapped only where it is used, and begins
 * where a huge page can. What nobody has written to takes no memory. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* AROUND: of the file, what is not data; what is left before and behind the window area is never used. */
enum { CONTROL = SHM_CONTROL, AROUND = CONTROL + HUGE_PAGE + SHM_WINDOW };

static const unsigned SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

static int capacity_valid(uint64_t capacity)
{
    return capacity >= PAGE && capacity <= CWASI_MESSAGE_MAX && (capacity & (capacity - 1)) == 0;
}

int shm_create(uint64_t capacity)
{
    if (!capacity_valid(capacity) || sysconf(_SC_PAGESIZE) != PAGE)
        return -EINVAL;
    int fd = memfd_create("cwasi-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    /* Without the seals a peer could truncate the file and kill this process with SIGBUS. */
    if (ftruncate(fd, (off_t)(AROUND + capacity)) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

static int map_parts(int memfd, uint8_t *base, uint64_t capacity)
{
    const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_FIXED;
    if (mmap(base, CONTROL + capacity, prot, flags, memfd, 0) == MAP_FAILED)
        return -errno;
    if (mmap(base + CONTROL + capacity, capacity, prot, flags, memfd, CONTROL) == MAP_FAILED)
        return -errno;
    return 0;
}

int shm_attach(int memfd, shm_map *out)
{
    /* The size comes from the file, whose seals keep it; a size in shared memory could change under us. */
    struct stat st;
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0 || fstat(memfd, &st) < 0)
        return -errno;
    if (((unsigned)seals & SEALS) != SEALS || st.st_size < AROUND ||
        !capacity_valid((uint64_t)st.st_size - AROUND))
        return -EBADMSG;
    uint64_t capacity = (uint64_t)st.st_size - AROUND;
    size_t span = CONTROL + 2 * capacity;
    uint8_t *base = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    int rc = map_parts(memfd, base, capacity);
    if (rc < 0) {
        munmap(base, span);
        return rc;
    }
    uint64_t before = CONTROL + capacity + HUGE_PAGE - 1;
    *out = (shm_map){
        .control = base, .data = base + CONTROL, .capacity = capacity, .window = before - before % HUGE_PAGE,
    };
    return 0;
}

void shm_detach(shm_map *map)
{
    if (map->control)
        munmap(map->control, CONTROL + 2 * map->capacity);
    map->control = NULL;
}
