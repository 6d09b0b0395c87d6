/* attribution.c - tells a tracer which function runs on this thread, by one plain store into a map that it reads.
 *
 * The map is this process's own. A slot is claimed by who writes its thread id into it; the tracer frees it when the
 * thread ends. The next tracer brings another map: each thread goes there when it enters or leaves a function, or calls
 * into the data plane.
 */
#include "account.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    atomic_u32 tid, id;
} slot;

typedef struct slot_map {
    slot *slots;
    uint64_t count;
    uint32_t places;
    struct slot_map *before;
} slot_map;

static slot_map nowhere;                      /* has no slots: the newest one that we have left */
static _Atomic(slot_map *) newest;            /* what was there before stays: threads hold pointers into it */
static _Thread_local slot_map *mine;          /* the one that this thread writes to */
static _Thread_local atomic_u32 untraced;     /* where the store goes while there is no tracer, or no slot */
static _Thread_local atomic_u32 *running;     /* the word in use, NULL at first */

static atomic_u32 *word(void)
{
    return running ? running : &untraced;
}

/* The slot of a thread: the first of its places that is its or, if there is none, that nobody has; or NULL. */
static slot *claim_slot(const slot_map *map, uint32_t tid)
{
    for (uint32_t n = 0; n < map->places; n++) {
        slot *found = &map->slots[(tid + n) & (map->count - 1)];
        if (load_relaxed(&found->tid) == tid)
            return found;
    }
    for (uint32_t n = 0; n < map->places; n++) {
        slot *free = &map->slots[(tid + n) & (map->count - 1)];
        if (try_claim(&free->tid, 0, tid))
            return free;
    }
    return NULL;
}

/* Goes on there with what this thread runs. */
static void move_to(slot_map *map)
{
    uint32_t id = load_relaxed(word());
    slot *claimed = claim_slot(map, (uint32_t)syscall(SYS_gettid));
    mine = map;
    running = claimed ? &claimed->id : &untraced;
    store_relaxed(running, id);
}

static void look_for_map(void)
{
    slot_map *map = load_acquire(&newest);
    if (map != mine)
        move_to(map);
}

/* A forked child is another thread, with another slot; it still runs what its parent ran. */
static void move_slot(void)
{
    if (mine)
        move_to(mine);
}

/* Frees our slot in a map that we leave, which may be our parent's: it would otherwise run out of them. */
static void leave_slot(slot_map *map)
{
    slot *left = claim_slot(map, (uint32_t)syscall(SYS_gettid));
    if (left) {
        store_relaxed(&left->id, 0);
        store_relaxed(&left->tid, 0);
    }
}

/* Whether it is an array of BPF, whose memory stays, and is never less than its size says. */
static bool is_array_of_bpf(int fd)
{
    char path[64], found[512];
    snprintf(path, sizeof path, "/proc/thread-self/fdinfo/%d", fd);
    int info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return false;
    ssize_t length = read(info, found, sizeof found - 1);
    close(info);
    found[length < 0 ? 0 : length] = 0;
    return strstr(found, "\nmap_type:\t2\n") != NULL;
}

/* Who truncates what we have mapped kills us with SIGBUS, or has mapped more than there is of it: so all else must be
 * sealed, which only files in memory can be. */
static int check_stays(int fd, uint64_t size)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (is_array_of_bpf(fd))
        return 0;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return -EPERM;
    return (uint64_t)st.st_size < size ? -EINVAL : 0;
}

int cwasi_attribution_map(int map_fd, uint64_t count, uint32_t places)
{
    static int watches_forks;
    if (count == 0 || count > (UINT64_C(1) << 22) || (count & (count - 1)) != 0 || places == 0 || places > count)
        return -EINVAL;
    int rc = check_stays(map_fd, count * sizeof(slot));
    if (rc < 0)
        return rc;
    slot_map *map = malloc(sizeof *map);
    if (!map)
        return -ENOMEM;
    void *memory = mmap(NULL, count * sizeof(slot), PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
    if (memory == MAP_FAILED) {
        int error = errno;
        free(map);
        return -error;
    }
    *map = (slot_map){memory, count, places, load_relaxed(&newest)};
    if (!watches_forks)
        pthread_atfork(NULL, NULL, move_slot);
    watches_forks = 1;
    slot_map *before = mine;
    /* Pairs with the load in look_for_map. */
    store_release(&newest, map);
    look_for_map();
    if (before)
        leave_slot(before);
    return 0;
}

void cwasi_attribution_leave(void)
{
    slot_map *before = load_relaxed(&newest);
    if (!before || before == &nowhere)
        return;
    nowhere.before = before;
    store_release(&newest, &nowhere);   /* as in cwasi_attribution_map */
    look_for_map();
    leave_slot(before);
}

uint32_t cwasi_attribution_enter(uint32_t id)
{
    look_for_map();
    uint32_t before = load_relaxed(word());
    if (is_accounting())
        account_leave_function(before);
    store_relaxed(word(), id);
    return before;
}

uint32_t attribution_current(void)
{
    look_for_map();
    return load_relaxed(word());
}
