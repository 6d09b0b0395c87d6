/* attribution.c - tells a tracer which function runs on this thread, by one plain store into a map that it reads. */
#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_u32 *slots;
static _Atomic uint64_t slot_count;
static _Thread_local uint32_t untraced;       /* where the store goes while there is no tracer */
static _Thread_local atomic_u32 *my_slot;

/* A forked child is another thread, with another slot; it still runs what its parent ran. */
static void move_slot(void)
{
    if (!my_slot)
        return;
    untraced = load_relaxed(my_slot);
    my_slot = NULL;
    cwasi_attribution_enter(untraced);
}

int cwasi_attribution_map(int map_fd, uint64_t count)
{
    if (count == 0 || count > (UINT64_C(1) << 22))
        return -EINVAL;
    if (load_relaxed(&slot_count))
        return -EALREADY;
    void *memory = mmap(NULL, count * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    slots = memory;
    pthread_atfork(NULL, NULL, move_slot);
    /* Pairs with the load in cwasi_attribution_enter. Kept until the process ends: threads hold pointers into it. */
    store_release(&slot_count, count);
    return 0;
}

uint32_t cwasi_attribution_enter(uint32_t id)
{
    if (!my_slot) {
        uint64_t tid = (uint64_t)syscall(SYS_gettid);
        if (tid >= load_acquire(&slot_count)) {
            uint32_t before = untraced;
            untraced = id;
            return before;
        }
        my_slot = slots + tid;
        store_relaxed(my_slot, untraced);
    }
    uint32_t before = load_relaxed(my_slot);
    store_relaxed(my_slot, id);
    return before;
}
