/* What a window does to the memory of its guest, and to nobody else's: memories that move, that belong to another
 * instance, that are locked, or for which mmap fails; and what is left behind. */
#include "hosted.h"

#include <dirent.h>
#include <sys/syscall.h>

enum { SIZE = 6 * WASM_PAGE, AT = 2 * WASM_PAGE, WINDOW = 2 * WASM_PAGE, LENGTH = 10000 };

/* mmap fails where the test wants it. 1: nothing has changed; 2: what was there is gone, as on older kernels. */
static int mmap_fails;

static void *real_mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
}

#ifndef __SANITIZE_THREAD__   /* which needs its own */
void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (mmap_fails && !(flags & MAP_FIXED_NOREPLACE) && length == WINDOW) {
        if (mmap_fails == 2 && flags & MAP_FIXED)
            munmap(at, length);
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return real_mmap(at, length, prot, flags, fd, offset);
}
#endif

static pair both;
static instance tx, rx;

static void begin(void)
{
    both = ring_pair(WASM_PAGE);
    tx = instance_with(both.tx, SIZE);
    rx = instance_with(both.rx, SIZE);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    CHECK_EQ(attach(&rx, 0, AT, WINDOW), 0);
}

static void end(void)
{
    free_instance(&tx);
    free_instance(&rx);
    free_pair(both);
}

/* The receiver's memory moves while it holds a record: what is now where the record was keeps its content. */
static void receiver_moves(void)
{
    begin();
    send_in_place(&tx, AT, LENGTH, 1);
    send_in_place(&tx, AT, LENGTH, 2);
    record held = take_checked(&rx, AT, LENGTH, 1);
    rx.memory[AT + held.offset] ^= 1;
    uint8_t *old = move_memory(&rx, SIZE + WASM_PAGE);
    CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_BUSY);   /* or what it has written to the first would be lost */
    rx.memory[AT + held.offset] ^= 1;
    CHECK(filled(rx.memory + AT + held.offset, LENGTH, 1));
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    CHECK(all_strange(old, SIZE));
    held = take_checked(&rx, AT, LENGTH, 2);
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    /* And again, without a record: the mapping is made where the memory is. */
    old = move_memory(&rx, SIZE + 2 * WASM_PAGE);
    for (uint64_t seed = 3; seed < 100; seed++) {
        send_in_place(&tx, AT, LENGTH, seed);
        held = take_checked(&rx, AT, LENGTH, seed);
        memset(rx.memory + AT + held.offset, 255, LENGTH);
        CHECK_EQ(release(&rx, 0, held.offset), 0);
    }
    CHECK(all_strange(old, SIZE));
    old = move_memory(&rx, SIZE + 3 * WASM_PAGE);
    CHECK_EQ(ask(&rx, "channel_close", 0, 0, 0), 0);
    CHECK(all_strange(old, SIZE));
    end();
}

/* The sender's moves between acquire and commit, and before it closes. */
static void sender_moves(void)
{
    begin();
    for (uint64_t seed = 0; seed < 30; seed++) {
        int32_t at = acquire(&tx, 0, LENGTH, -1);
        CHECK(at >= 0);
        fill(tx.memory + AT + at, LENGTH / 2, seed);
        uint8_t *old = move_memory(&tx, tx.size + WASM_PAGE);
        fill(tx.memory + AT + at, LENGTH, seed);
        CHECK_EQ(commit(&tx, 0, (uint32_t)at, LENGTH), 0);
        CHECK(all_strange(old, SIZE));
        record held = take_checked(&rx, AT, LENGTH, seed);
        CHECK_EQ(release(&rx, 0, held.offset), 0);
        send_in_place(&tx, AT, LENGTH, seed);
        held = take_checked(&rx, AT, LENGTH, seed);
        CHECK_EQ(release(&rx, 0, held.offset), 0);
    }
    uint8_t *old = move_memory(&tx, tx.size + WASM_PAGE);
    CHECK_EQ(ask(&tx, "channel_close", 0, 0, 0), 0);
    CHECK(all_strange(old, SIZE));
    end();
}

/* Another instance of the store, whose memory has no room for the window; it may even lie where the first one was. */
static void another_instance(void)
{
    begin();
    instance small = {tx.guest, place_memory(NULL, WASM_PAGE), WASM_PAGE};
    send_in_place(&tx, AT, LENGTH, 1);
    send_in_place(&tx, AT, LENGTH, 2);
    CHECK_EQ(acquire(&small, 0, LENGTH, 0), E_FAULT);
    int32_t at = acquire(&tx, 0, LENGTH, 0);
    CHECK_EQ(commit(&small, 0, (uint32_t)at, LENGTH), E_FAULT);
    small.guest = rx.guest;
    CHECK_EQ(take(&small, 0, RECORD_AT, 0), E_FAULT);
    record held = take_checked(&rx, AT, LENGTH, 1);
    CHECK_EQ(release(&small, 0, held.offset), E_FAULT);
    check_around(&small);
    free_memory(&small);

    uint8_t *old = move_memory(&rx, SIZE + WASM_PAGE);
    small = (instance){rx.guest, place_memory(old, WASM_PAGE), WASM_PAGE};
    memset(old + WASM_PAGE, STRANGER, SIZE - WASM_PAGE);
    CHECK_EQ(release(&small, 0, held.offset), E_FAULT);
    CHECK_EQ(ask(&small, "channel_close", 0, 0, 0), 0);
    CHECK(all_strange(old + WASM_PAGE, SIZE - WASM_PAGE));
    end();
}

/* One with room for it: the window is there, too. */
static void a_large_instance(void)
{
    begin();
    instance other = {rx.guest, place_memory(NULL, SIZE), SIZE};
    for (uint64_t seed = 0; seed < 50; seed++) {
        instance *one = seed % 3 ? &rx : &other;
        send_in_place(&tx, AT, LENGTH, seed);
        record held = take_checked(one, AT, LENGTH, seed);
        memset(one->memory + AT + held.offset, 255, LENGTH);
        CHECK_EQ(release(seed % 2 ? &rx : &other, 0, held.offset), 0);
    }
    check_around(&other);
    free_memory(&other);
    end();
}

__attribute__((unused)) static void mmap_refuses(int how)
{
    begin();
    send_in_place(&tx, AT, LENGTH, 1);
    mmap_fails = how;
    CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_IO);
    memset(rx.memory, 1, SIZE);   /* it is all there */
    mmap_fails = 0;
    record held = take_checked(&rx, AT, LENGTH, 1);
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    fill(tx.memory, 100, 2);
    CHECK_EQ(send_copy(&tx, 0, 0, 100, 0), 0);
    mmap_fails = how;
    CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_IO);
    memset(rx.memory, 1, AT);
    mmap_fails = 0;
    held = take_checked(&rx, AT, 100, 2);
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    mmap_fails = how;
    move_memory(&tx, SIZE + WASM_PAGE);
    CHECK_EQ(acquire(&tx, 0, 1, 0), E_IO);
    CHECK_EQ(ask(&rx, "channel_close", 0, 0, 0), 0);
    CHECK_EQ(ask(&tx, "channel_close", 0, 0, 0), 0);
    memset(rx.memory, 1, SIZE);
    mmap_fails = 0;
    end();

    both = ring_pair(4096);
    tx = instance_with(both.tx, SIZE);
    rx = instance_with(both.rx, SIZE);
    mmap_fails = how;
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), E_IO);
    memset(tx.memory, 1, SIZE);
    mmap_fails = 0;
    CHECK_EQ(acquire(&tx, 0, 1, 0), E_INVAL);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    end();
}

/* No memory for the view that copies are made from: the message stays, and of several senders none counts as dead. */
__attribute__((unused)) static void no_view(int several)
{
    static uint8_t buffer[LENGTH];
    pair p[2] = {belled_pair(4096), belled_pair(4096)};
    cwasi_channel *all = p[0].rx, *sources[] = {p[0].rx, p[1].rx};
    if (several)
        CHECK_EQ(cwasi_channel_gather(sources, 2, &all), 0);
    tx = instance_with(p[0].tx, SIZE);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    send_in_place(&tx, AT, LENGTH, 1);
    mmap_fails = 1;
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_recv(all, buffer, LENGTH, 0), -ENOMEM);
    mmap_fails = 0;
    CHECK_EQ(cwasi_channel_recv(all, buffer, LENGTH, 0), LENGTH);
    CHECK(filled(buffer, LENGTH, 1));
    CHECK_EQ(cwasi_channel_recv(all, buffer, LENGTH, 0), -EAGAIN);
    free_instance(&tx);
    cwasi_channel_free(all);
    cwasi_channel_free(p[0].tx);
    cwasi_channel_free(p[1].tx);
    if (!several)
        cwasi_channel_free(p[1].rx);
}

/* A host that locks its memory: the kernel refuses to drop the receiver's own copies of pages like others. */
static void locked(void)
{
    begin();
    send_in_place(&tx, AT, LENGTH, 0);
    record held = take_checked(&rx, AT, LENGTH, 0);
    int locks = mlock(rx.memory + AT, WINDOW) == 0;
    for (uint64_t seed = 1; locks && seed < 100; seed++) {
        memset(rx.memory + AT + held.offset, 255, LENGTH);
        CHECK_EQ(release(&rx, 0, held.offset), 0);
        send_in_place(&tx, AT, LENGTH, seed);
        held = take_checked(&rx, AT, LENGTH, seed);
    }
    end();
}

static int entries(const char *path, const char *with)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen(path, "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps))
        count += strstr(line, with) != NULL;
    fclose(maps);
    return count;
}

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

/* Without the memory going: what close leaves is ordinary. */
static void nothing_is_left(void)
{
    pair p[2];
    tx = new_instance(SIZE);
    rx = new_instance(SIZE);
    int before = 0;
    for (int n = 0; n < 300; n++) {
        char name[16];
        int length = snprintf(name, sizeof name, "c%d", n);
        both = p[n % 2] = ring_pair(4096);
        CHECK_EQ(cwasi_guest_grant(tx.guest, name, both.tx), 0);
        CHECK_EQ(cwasi_guest_grant(rx.guest, name, both.rx), 0);
        memcpy(tx.memory, name, (size_t)length);
        memcpy(rx.memory, name, (size_t)length);
        CHECK_EQ(ask(&tx, "channel_open", 0, (uint32_t)length, CWASI_SENDER), n);
        CHECK_EQ(ask(&rx, "channel_open", 0, (uint32_t)length, CWASI_RECEIVER), n);
        CHECK_EQ(attach(&tx, (uint32_t)n, AT, WINDOW), 0);
        CHECK_EQ(attach(&rx, (uint32_t)n, AT, WINDOW), 0);
        int32_t at = acquire(&tx, (uint32_t)n, LENGTH, 0);
        CHECK_EQ(at, 0);
        fill(tx.memory + AT, LENGTH, (uint64_t)n);
        CHECK_EQ(commit(&tx, (uint32_t)n, 0, LENGTH), 0);
        CHECK_EQ(take(&rx, (uint32_t)n, RECORD_AT, 0), 0);
        CHECK(filled(rx.memory + AT, LENGTH, (uint64_t)n));
        if (n % 3)
            CHECK_EQ(release(&rx, (uint32_t)n, 0), 0);
        CHECK_EQ(ask(&tx, "channel_close", (uint32_t)n, 0, 0), 0);
        CHECK_EQ(ask(&rx, "channel_close", (uint32_t)n, 0, 0), 0);
        CHECK(tx.memory[AT + 8] == 0 && rx.memory[AT + 8] == 0);
        memset(tx.memory + AT, 1, WINDOW);   /* nobody else's */
        memset(rx.memory + AT, 1, WINDOW);
        CHECK_EQ(entries("/proc/self/maps", "cwasi-ring"), 4);   /* twice the ring */
        free_pair(both);
        if (n == 10)
            before = descriptors();
    }
    CHECK_EQ(descriptors(), before);
    CHECK_EQ(entries("/proc/self/maps", "cwasi-ring"), 0);
    free_instance(&tx);
    free_instance(&rx);
}

/* The memory goes first, as a store may; then the state, then the channels. */
static void memory_first(void)
{
    begin();
    send_in_place(&tx, AT, LENGTH, 1);
    take_checked(&rx, AT, LENGTH, 1);
    free_memory(&tx);
    free_memory(&rx);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    uint8_t *other = real_mmap(rx.memory, rx.size, PROT_READ | PROT_WRITE, flags, -1, 0);
    memset(other, STRANGER, rx.size);
    cwasi_guest_free(tx.guest);
    cwasi_guest_free(rx.guest);
    free_pair(both);
    CHECK(all_strange(other, rx.size));
    munmap(other, rx.size);
}

int main(void)
{
    test_begin(20);
    receiver_moves();
    sender_moves();
    another_instance();
    a_large_instance();
#ifndef __SANITIZE_THREAD__
    mmap_refuses(1);
    mmap_refuses(2);
    no_view(0);
    no_view(1);
#endif
    locked();
    nothing_is_left();
    memory_first();
    return 0;
}
