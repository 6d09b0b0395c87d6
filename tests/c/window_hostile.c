/* Windows against those who lie: a peer that writes what it likes into the words and the pages that it shares, and a
 * guest that asks for what it likes. Nothing but errors, and nobody's memory but the guest's own. */
#include "hosted.h"

#include "frame.h"
#include "ring.h"

enum { CAPACITY = 4096, WINDOW = 2 * WASM_PAGE, AT = WASM_PAGE, BUFFER = AT + WINDOW, SIZE = BUFFER + WINDOW };
#ifdef __SANITIZE_THREAD__   /* which is slow, and of no use to a single thread */
enum { ROUNDS = 20, STEPS = 60, CALLS = 2000 };
#else
enum { ROUNDS = 300, STEPS = 60, CALLS = 30000 };
#endif

static uint64_t rng = 1;

/* The hostile peer's view of everything. */
static uint8_t *shared;
static int memfd;

static ring_control *control(void)
{
    return (ring_control *)shared;
}

static uint64_t nasty(const ring *r)
{
    const uint64_t near[] = {
        0, r->published, r->cursor, r->window_end, r->window_start, r->window_end + WINDOW, r->window_end - WINDOW,
        UINT64_MAX, UINT64_C(1) << 63, SHM_WINDOW, WINDOW, WASM_PAGE,
    };
    uint64_t pick = next_random(&rng);
    switch (pick % 4) {
    case 0: return next_random(&rng);
    case 1: return near[pick / 4 % 12] + next_random(&rng) % 3 * PAGE - PAGE;
    case 2: return near[pick / 4 % 12];
    default: return next_random(&rng) % (4 * WINDOW);
    }
}

/* A frame where the victim will look for it, of a record that may be anywhere. */
static void announce(const ring *r)
{
    struct {
        cwasi_frame frame;
        uint64_t start;
    } said = {{load_relaxed(&r->base.stats.messages), 0, FRAME_WINDOW, 0}, nasty(r)};
    said.frame.length |= (uint32_t)(next_random(&rng) % 4 ? next_random(&rng) % (2 * WINDOW) : nasty(r));
    if (next_random(&rng) % 2)
        said.start = r->window_end + next_random(&rng) % 64 * PAGE;
    if (next_random(&rng) % 16 == 0)
        said.frame.seq = nasty(r);
    for (size_t i = 0; i < sizeof said; i++)
        shared[SHM_CONTROL + (r->cursor - r->start + i) % CAPACITY] = ((uint8_t *)&said)[i];
    uint64_t more = next_random(&rng) % 16 ? sizeof said : sizeof said.frame;
    store_relaxed(&control()->sender.position, r->cursor + more);
}

static void scribble(const ring *r)
{
    uint64_t pick = next_random(&rng);
    switch (pick % 8) {
    case 0: store_relaxed(&control()->window, nasty(r)); break;
    case 1: store_relaxed(&control()->reader[0].window_position, nasty(r)); break;
    case 2: store_relaxed(&control()->sender.window_position, nasty(r)); break;
    case 3: store_relaxed(&control()->sender.position, nasty(r)); break;
    case 4: store_relaxed(&control()->reader[0].position, nasty(r)); break;
    case 5: store_relaxed(&control()->sender.base, nasty(r)); break;
    case 6:   /* holes: what stood there is gone, and nobody dies of it */
        CHECK_EQ(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->map.window, WINDOW), 0);
        break;
    default:   /* as it should be */
        store_relaxed(&control()->sender.position, r->base.role == CWASI_SENDER ? r->published : r->cursor);
        store_relaxed(&control()->reader[0].position, r->published);
        store_relaxed(&control()->reader[0].window_position, r->window_end - next_random(&rng) % 2 * PAGE);
    }
}

static int known(int32_t rc)
{
    return rc >= 0 || rc == E_AGAIN || rc == E_PIPE || rc == E_CONNRESET || rc == E_IO || rc == E_MSGSIZE ||
           rc == E_INVAL || rc == E_BUSY || rc == E_TIMEDOUT;
}

/* One end with its guest; the other end is we. */
static instance open_victim(int role, cwasi_channel **c)
{
    memfd = cwasi_ring_create(CAPACITY, 1);
    CHECK_EQ(cwasi_channel_open_ring(memfd, role, 0, NULL, c), 0);
    shared = mmap(NULL, SHM_CONTROL + CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    CHECK(shared != MAP_FAILED);
    if (next_random(&rng) % 4 == 0)
        store_relaxed(&control()->window, nasty(*(ring **)*c));
    return instance_with(*c, SIZE);
}

static void close_victim(instance *i, cwasi_channel *c)
{
    free_instance(i);
    cwasi_channel_free(c);
    munmap(shared, SHM_CONTROL + CAPACITY);
    close(memfd);
}

static uint64_t attack_sender(void)
{
    cwasi_channel *c;
    uint64_t sent = 0;
    instance tx = open_victim(CWASI_SENDER, &c);
    const ring *r = *(ring **)c;
    int windows = attach(&tx, 0, AT, WINDOW) == 0;
    for (int step = 0; step < STEPS && windows; step++) {
        scribble(r);
        uint32_t length = (uint32_t)(next_random(&rng) % (WINDOW + 5000));
        int32_t at = acquire(&tx, 0, length, 0);
        CHECK(known(at) && (at < 0 || (uint32_t)at + length <= WINDOW));
        if (at < 0)
            continue;
        memset(tx.memory + AT + at, step, length);
        scribble(r);
        if (next_random(&rng) % 2)
            continue;
        /* An honest reader would make room. */
        store_relaxed(&control()->reader[0].position, r->published);
        int32_t rc = commit(&tx, 0, (uint32_t)at, length);
        CHECK(known(rc));
        sent += rc == 0;
    }
    close_victim(&tx, c);
    return sent;
}

static uint64_t attack_receiver(void)
{
    static uint8_t buffer[WINDOW];
    cwasi_channel *c;
    uint64_t taken = 0;
    instance rx = open_victim(CWASI_RECEIVER, &c);
    const ring *r = *(ring **)c;
    int windows = attach(&rx, 0, AT, WINDOW) == 0;
    for (int step = 0; step < STEPS && windows; step++) {
        announce(r);
        if (next_random(&rng) % 4 == 0)
            scribble(r);
        store_relaxed(&control()->sender.state, next_random(&rng) % 8 ? OPEN : FINISHED);
        if (next_random(&rng) % 8 == 0) {
            store_relaxed(&control()->sender.state, FAILED);   /* so that no wait for the rest is right */
            int64_t got = cwasi_channel_recv(c, buffer, sizeof buffer, 0);
            CHECK(got <= (int64_t)sizeof buffer);
            continue;
        }
        int32_t rc = next_random(&rng) % 2 ? take(&rx, 0, RECORD_AT, 0) : take(&rx, 0, RECORD_AT, 1);
        CHECK(known(rc));
        if (rc < 0)
            continue;
        record told = record_told(&rx);
        CHECK((uint64_t)told.offset + told.length <= WINDOW);
        memset(rx.memory + AT + told.offset, step, told.length);
        taken++;
        if (next_random(&rng) % 3)
            CHECK(known(release(&rx, 0, told.offset)));
    }
    close_victim(&rx, c);
    return taken;
}

/* The size of the area is what was agreed on, whatever the word says later. */
static void size_that_changes(void)
{
    pair p = ring_pair(CAPACITY);
    instance tx = instance_with(p.tx, SIZE), rx = instance_with(p.rx, SIZE);
    ring_control *words = (*(ring **)p.tx)->control;
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    CHECK_EQ(attach(&rx, 0, AT, WINDOW), 0);
    static const uint64_t sizes[] = {0, PAGE, SHM_WINDOW, UINT64_MAX, 1};
    for (uint64_t seed = 0; seed < 25; seed++) {
        store_relaxed(&words->window, sizes[seed % 5]);
        send_in_place(&tx, AT, 50000, seed);
        record held = take_checked(&rx, AT, 50000, seed);
        CHECK_EQ(release(&rx, 0, held.offset), 0);
    }
    free_instance(&tx);
    free_instance(&rx);
    free_pair(p);
    for (int i = 0; i < 5; i++) {
        p = ring_pair(CAPACITY);
        tx = instance_with(p.tx, SIZE);
        words = (*(ring **)p.tx)->control;
        store_relaxed(&words->window, sizes[i] ? sizes[i] : PAGE + 1);
        CHECK_EQ(attach(&tx, 0, AT, WINDOW), i == 1 ? 0 : i == 2 ? E_MSGSIZE : E_IO);
        free_instance(&tx);
        free_pair(p);
    }
}

typedef struct {
    instance *guest;
    cwasi_channel *channel;
    atomic_u32 stop, leave;
} attack;

static void *scribble_on(void *arg)
{
    attack *a = arg;
    uint64_t state = 5;
    while (!load_relaxed(&a->stop)) {
        uint64_t r = next_random(&state);
        store_relaxed(&control()->reader[0].window_position, r % 3 ? 0 : r);
        store_relaxed(&control()->window, r % 7 ? WINDOW : r);
        store_relaxed(&control()->reader[0].parked, (uint32_t)r % 3);
        store_relaxed(&control()->sender.parked, (uint32_t)r % 3);
        store_relaxed((atomic_u64 *)(shared + SHM_CONTROL + r % CAPACITY / 8 * 8), r);
        if (r % 16 == 0)
            store_relaxed(&control()->sender.position, (r >> 8) % 256 * 32);
        if (r % 16 == 1)
            store_relaxed(&control()->reader[0].position, (r >> 8) % 256 * 32);
    }
    return NULL;
}

static void *use_on(void *arg)
{
    attack *a = arg;
    int sends = channel_role(a->channel) == CWASI_SENDER;
    /* A word of its own that was forged is an error also after a stop. */
    for (int32_t rc = 0; rc != E_CANCELED && !load_relaxed(&a->leave);) {
        rc = sends ? acquire(a->guest, 0, 5000, 2) : take(a->guest, 0, RECORD_AT, 2);
        CHECK(known(rc) || rc == E_CANCELED);
        if (rc >= 0 && sends)
            rc = commit(a->guest, 0, (uint32_t)rc, 5000);
        else if (rc >= 0)
            rc = release(a->guest, 0, record_told(a->guest).offset);
        CHECK(known(rc) || rc == E_CANCELED);
    }
    return NULL;
}

static void attack_at_once(int role)
{
    for (int i = 0; i < 15; i++) {
        attack a = {0};
        instance one = open_victim(role, &a.channel);
        store_relaxed(&control()->window, WINDOW);
        a.guest = &one;
        if (attach(&one, 0, AT, WINDOW) == 0) {
            pthread_t scribbling = start(scribble_on, &a), using = start(use_on, &a);
            sleep_ms(20);
            cwasi_channel_stop(a.channel);
            store_relaxed(&a.leave, 1);
            join(using);
            store_relaxed(&a.stop, 1);
            join(scribbling);
        }
        close_victim(&one, a.channel);
    }
}

/* ---- the guest ---- */

static uint32_t nasty_number(uint32_t size)
{
    static const uint32_t near[] = {
        0, 1, AT, WINDOW, WASM_PAGE, SIZE, BUFFER, UINT32_MAX, UINT32_C(1) << 31, SHM_WINDOW, 4096,
    };
    uint64_t pick = next_random(&rng);
    switch (pick % 6) {
    case 0: return (uint32_t)next_random(&rng);
    case 1: return near[pick / 8 % 11] + (uint32_t)(next_random(&rng) % 3) - 1;
    case 2: return near[pick / 8 % 11];
    case 3: return (uint32_t)(next_random(&rng) % size);
    default: return (uint32_t)(next_random(&rng) % 6) * WASM_PAGE;
    }
}

/* Where a memory was. */
typedef struct {
    uint8_t *at;
    size_t size;
} span_left;

static void leave(span_left old)
{
    CHECK(all_strange(old.at, old.size));
    if (old.at)
        munmap(old.at - AROUND, old.size + 2 * AROUND);
}

/* Two guests with two channels to each other, one a pipe, ask for anything; now and then a memory moves. */
static void any_call(void)
{
    static const char *const calls[] = {
        "window_attach", "window_acquire", "window_commit", "window_take", "window_release", "channel_peek",
        "window_acquire", "window_commit", "window_take", "window_release",
    };
    pair p = ring_pair(CAPACITY), q = ring_pair(CAPACITY), pipe = pipe_pair();
    instance guest[2] = {new_instance(SIZE), new_instance(SIZE)};
    cwasi_channel *ends[2][3] = {{p.tx, q.rx, pipe.tx}, {p.rx, q.tx, pipe.rx}};
    for (int g = 0; g < 2; g++) {
        for (int c = 0; c < 3; c++) {
            char name[2] = {(char)('a' + c)};
            CHECK_EQ(cwasi_guest_grant(guest[g].guest, name, ends[g][c]), 0);
            CHECK_EQ(open_port(&guest[g], name, channel_role(ends[g][c])), c);
        }
    }
    uint32_t offset[2] = {0};
    span_left left = {0};
    for (int n = 0; n < CALLS; n++) {
        uint64_t pick = next_random(&rng);
        instance *one = &guest[pick % 2];
        const char *name = calls[pick / 2 % 10];
        uint32_t h = (uint32_t)(pick / 32 % 4), a = nasty_number(SIZE), b = nasty_number(SIZE);
        if (pick / 128 % 2)
            a = name[7] == 'c' || name[7] == 'r' ? offset[pick % 2] : (uint32_t)(pick >> 20) % WINDOW;
        if (strcmp(name, "window_attach") == 0 && n % 50)
            continue;
        if (strcmp(name, "window_commit") == 0 && h == 2 && channel_role(ends[pick % 2][2]) == CWASI_SENDER)
            continue;   /* it could wait for room */
        if (strcmp(name, "window_acquire") == 0 || strcmp(name, "window_take") == 0)
            b = n % 64 ? 0 : UINT32_MAX - 5;
        if (strcmp(name, "channel_peek") == 0)
            a = 0;
        int32_t rc = strcmp(name, "window_commit") == 0 && n % 4 ? ask(one, name, h, a, (uint32_t)(pick >> 30) % 3000)
                                                               : ask(one, name, h, a, b);
        CHECK(known(rc) || rc == E_BADF || rc == E_FAULT);
        if (rc >= 0 && strcmp(name, "window_acquire") == 0)
            offset[pick % 2] = (uint32_t)rc;
        if (rc >= 0 && strcmp(name, "window_take") == 0 && (uint64_t)a + 8 <= one->size)
            memcpy(&offset[pick % 2], one->memory + a, 4);
        if (n % 100 == 0)
            recv_copy(one, h, nasty_number(SIZE), nasty_number(SIZE), 0);
        if (n % 3000 == 0) {
            leave(left);
            left = (span_left){move_memory(one, one->size + WASM_PAGE), one->size - WASM_PAGE};
        }
    }
    leave(left);
    free_instance(&guest[0]);
    free_instance(&guest[1]);
    free_pair(p);
    free_pair(q);
    free_pair(pipe);
}

int main(void)
{
    test_begin(40);
    size_that_changes();
    uint64_t sent = 0, taken = 0;
    for (int i = 0; i < ROUNDS; i++) {
        sent += attack_sender();
        taken += attack_receiver();
    }
    /* Else the attacker was so crude that it never got past the door. */
    CHECK(sent > ROUNDS / 2 && taken > ROUNDS / 2);
    attack_at_once(CWASI_SENDER);
    attack_at_once(CWASI_RECEIVER);
    for (int i = 0; i < 4; i++)
        any_call();
    return 0;
}
