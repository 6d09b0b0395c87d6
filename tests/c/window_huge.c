/* Parts of a window that are wholly in use go into huge pages, where the guest has put it so that these fit and the
 * kernel has them; not before, never at the cost of memory, and nobody notices but by the time. */
#include "hosted.h"

#include "ring.h"

#include <sched.h>

enum { PARTS = 2, WINDOW = PARTS * HUGE_PAGE, AT = HUGE_PAGE, SIZE = AT + WINDOW, COLLAPSE = 25 };
enum { ASKED, REFUSED };

/* What the kernel is asked for, and says. The thread sanitizer needs the function to itself. */
static int asked, made;   /* made: and did */

#ifndef __SANITIZE_THREAD__
static int how;

#include <sys/syscall.h>

int madvise(void *at, size_t length, int advice)
{
    if (advice == COLLAPSE) {
        asked++;
        CHECK((uintptr_t)at % HUGE_PAGE == 0 && length == HUGE_PAGE);
        if (how == REFUSED) {
            errno = EINVAL;
            return -1;
        }
    }
    int rc = (int)syscall(SYS_madvise, at, length, advice);
    made += advice == COLLAPSE && rc == 0;
    return rc;
}
#endif

/* A memory that begins `beside` bytes behind a huge page, and never goes. */
static instance placed(cwasi_channel *c, size_t beside)
{
    uint8_t *all = mmap(NULL, SIZE + 3 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(all != MAP_FAILED);
    uint8_t *at = all + HUGE_PAGE + -(uintptr_t)all % HUGE_PAGE + beside;
    instance i = {.memory = place_memory(at, SIZE), .size = SIZE};
    CHECK_EQ(cwasi_guest_new(&HOSTED, &hosted_store, &i.guest), 0);
    CHECK_EQ(cwasi_guest_grant(i.guest, "lab", c), 0);
    CHECK_EQ(open_port(&i, "lab", channel_role(c)), 0);
    CHECK_EQ(attach(&i, 0, AT, WINDOW), 0);
    return i;
}

static pair both;
static instance tx, rx;

static void begin(size_t beside)
{
    asked = made = 0;
    both = ring_pair(16384);
    tx = placed(both.tx, beside);
    rx = placed(both.rx, beside);
}

static void end(void)
{
    free_instance(&tx);
    free_instance(&rx);
    free_pair(both);
}

/* Bytes of memory behind the channel. */
static int64_t taken(void)
{
    struct stat st;
    CHECK_EQ(fstat((*(ring **)both.tx)->memfd, &st), 0);
    return (int64_t)st.st_blocks * 512;
}

/* Bytes of a guest's window that are mapped by huge pages. */
static uint64_t huge(const instance *i)
{
    char line[512];
    uint64_t from, to, total = 0, size;
    int inside = 0;
    FILE *maps = fopen("/proc/self/smaps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from < (uintptr_t)i->memory + SIZE && to > (uintptr_t)i->memory + AT;
        else if (inside && sscanf(line, "ShmemPmdMapped: %lu kB", &size) == 1)
            total += size * 1024;
    }
    fclose(maps);
    return total;
}

static void pass(uint32_t length, uint64_t seed)
{
    send_in_place(&tx, AT, length, seed);
    CHECK_EQ(release(&rx, 0, take_checked(&rx, AT, length, seed).offset), 0);
}

static void only_what_is_used(void)
{
    begin(0);
    CHECK(taken() <= 65536);   /* an idle channel is a small one, with windows as well */
    for (uint64_t seed = 0; seed < 8; seed++)
        pass(WASM_PAGE + (uint32_t)seed, seed);
    CHECK(taken() <= 10 * WASM_PAGE);
    for (uint64_t seed = 0; seed < 4; seed++)
        pass(HUGE_PAGE - PAGE, seed);
    CHECK(asked == 0 && huge(&tx) == 0 && huge(&rx) == 0);
    end();
}

static void part_by_part(void)
{
    begin(0);
    pass(WINDOW, 0);
    int64_t before = taken();
    for (uint64_t seed = 1; seed < 6; seed++) {
        pass(WINDOW - (uint32_t)seed, seed);
        CHECK((uint64_t)asked <= seed && made <= PARTS && asked - made <= 4);
    }
    CHECK(taken() <= before + 2 * PAGE);   /* of the ring */
#ifndef __SANITIZE_THREAD__
    CHECK(how == ASKED ? huge(&tx) == (uint64_t)made * HUGE_PAGE : asked == 4);
#endif
    end();
}

/* What the receiver writes to in a huge page is its own, also while the sender makes one of it. */
static void written_to(void)
{
    begin(0);
    pass(WINDOW, 0);
    for (uint64_t seed = 1; seed < 40; seed += 2) {
        send_in_place(&tx, AT, WINDOW / 4, seed);
        record held = take_checked(&rx, AT, WINDOW / 4, seed);
        uint8_t *at = rx.memory + AT + held.offset;
        for (uint32_t page = 0; page < WINDOW / 4; page += 8 * PAGE)
            memset(at + page, 255, 100);
        send_in_place(&tx, AT, WINDOW / 2, seed + 1);
        for (uint32_t page = 0; page < WINDOW / 4; page += 8 * PAGE)
            CHECK(at[page] == 255 && at[page + 99] == 255);
        record next = take_checked(&rx, AT, WINDOW / 2, seed + 1);
        CHECK_EQ(release(&rx, 0, held.offset), 0);
        CHECK_EQ(release(&rx, 0, next.offset), 0);
    }
    end();
}

/* A window elsewhere than where huge pages fit. */
static void beside(void)
{
    begin(WASM_PAGE);
    for (uint64_t seed = 0; seed < 6; seed++)
        pass(WINDOW, seed);
    CHECK_EQ(asked, 0);
    end();
}

int main(void)
{
    cpu_set_t one;
    test_begin(30);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);   /* so that records begin at the start */
    only_what_is_used();
    part_by_part();
    written_to();
    beside();
#ifndef __SANITIZE_THREAD__
    how = REFUSED;
    part_by_part();
    written_to();
#endif
    return 0;
}
