/* attribution.c - tells a tracer which function runs on this thread, by one plain store into a map that it reads.
 *
 * The map is this process's own. A slot is claimed by who writes its thread id into it; the tracer frees it when the
 * thread ends.
 */
#include "account.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    atomic_u32 tid, id;
} slot;

static slot *slots;
static uint32_t probes;
static _Atomic uint64_t slot_count;
static int inherited;                         /* the map is our parent's */
static _Thread_local atomic_u32 untraced;     /* where the store goes while there is no tracer, or no slot */
static _Thread_local atomic_u32 *running;     /* the word in use, NULL before there is a tracer */

/* The slot of a thread, the first of its places that is its or, with free = 0, that nobody has; or NULL. */
static slot *claim_slot(uint64_t count, uint32_t tid)
{
    for (uint32_t n = 0; n < probes; n++) {
        slot *mine = &slots[(tid + n) & (count - 1)];
        if (load_relaxed(&mine->tid) == tid)
            return mine;
    }
    for (uint32_t n = 0; n < probes; n++) {
        slot *free = &slots[(tid + n) & (count - 1)];
        if (try_claim(&free->tid, 0, tid))
            return free;
    }
    return NULL;
}

/* A forked child is another thread, with another slot; it still runs what its parent ran. */
static void move_slot(void)
{
    inherited = 1;
    if (!running)
        return;
    uint32_t id = load_relaxed(running);
    store_relaxed(&untraced, id);
    running = NULL;
    cwasi_attribution_enter(id);
}

/* Frees our slot in the map of our parent, who would otherwise run out of them, and lets go of the map. */
static void leave_inherited(void)
{
    if (!load_relaxed(&slot_count))
        return;
    uint32_t id = load_relaxed(running ? running : &untraced);
    slot *mine = claim_slot(load_relaxed(&slot_count), (uint32_t)syscall(SYS_gettid));
    if (mine) {
        store_relaxed(&mine->id, 0);
        store_relaxed(&mine->tid, 0);
    }
    munmap(slots, load_relaxed(&slot_count) * sizeof *slots);
    running = NULL;
    store_relaxed(&untraced, id);
}

int cwasi_attribution_map(int map_fd, uint64_t count, uint32_t places)
{
    if (count == 0 || count > (UINT64_C(1) << 22) || (count & (count - 1)) != 0 || places == 0 || places > count)
        return -EINVAL;
    if (load_relaxed(&slot_count) && !inherited)
        return -EALREADY;
    void *memory = mmap(NULL, count * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    if (inherited)
        leave_inherited();
    else
        pthread_atfork(NULL, NULL, move_slot);
    inherited = 0;
    slots = memory;
    probes = places;
    /* Pairs with the load in cwasi_attribution_enter. Kept until the process ends: threads hold pointers into it. */
    store_release(&slot_count, count);
    cwasi_attribution_enter(load_relaxed(&untraced));
    return 0;
}

uint32_t cwasi_attribution_enter(uint32_t id)
{
    uint64_t count;
    if (!running && (count = load_acquire(&slot_count))) {
        slot *mine = claim_slot(count, (uint32_t)syscall(SYS_gettid));
        running = mine ? &mine->id : &untraced;
        store_relaxed(running, load_relaxed(&untraced));
    }
    atomic_u32 *word = running ? running : &untraced;
    uint32_t before = load_relaxed(word);
    if (is_accounting())
        account_leave_function(before);
    store_relaxed(word, id);
    return before;
}

uint32_t attribution_current(void)
{
    return load_relaxed(running ? running : &untraced);
}
