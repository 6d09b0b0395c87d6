/* A peer that writes what it likes into the shared memory gets errors out of us, and nothing else: no crash, no hang,
 * no access out of bounds. */
#include "test.h"

#include "ring.h"

enum { CAPACITY = 4096, CASES = 4000, STEPS = 60, BUFFER = 9000 };

static uint64_t rng = 1;

/* A number that is likely to be at some boundary. */
static uint64_t nasty(const ring *r)
{
    const uint64_t near[] = {0, r->published, r->cursor, r->seen, r->published + CAPACITY, UINT64_MAX, 1u << 30, 1u << 31};
    uint64_t pick = next_random(&rng);
    switch (pick % 4) {
    case 0: return next_random(&rng);
    case 1: return near[pick / 4 % 8] + next_random(&rng) % 65 - 32;
    case 2: return r->published + (next_random(&rng) % (CAPACITY + 64) & ~UINT64_C(7));
    default: return next_random(&rng) % (2 * CAPACITY);
    }
}

static uint32_t nasty_state(void)
{
    uint64_t pick = next_random(&rng) % 8;
    return pick < 4 ? OPEN : pick < 7 ? (uint32_t)pick - 4 : (uint32_t)next_random(&rng);
}

/* r: the victim; control and data: the attacker's own mapping. */
static void scribble(const ring *r, ring_control *control, uint8_t *data)
{
    for (uint64_t n = next_random(&rng) % 4; n > 0; n--) {
        switch (next_random(&rng) % 9) {
        case 0: store_relaxed(&control->sender.position, nasty(r)); break;
        case 1: store_relaxed(&control->reader[0].position, nasty(r)); break;
        case 2: store_relaxed(&control->sender.state, nasty_state()); break;
        case 3: store_relaxed(&control->reader[0].state, nasty_state()); break;
        case 4: store_relaxed(&control->sender.parked, (uint32_t)nasty(r)); break;
        case 5: store_relaxed(&control->reader[0].parked, (uint32_t)nasty(r)); break;
        case 6: store_relaxed(&control->sender.base, nasty(r)); break;
        case 7:   /* a frame where the victim will look for it, mostly with the right number */
            {
                cwasi_frame frame = {nasty(r), nasty(r), (uint32_t)nasty(r), 0};
                if (next_random(&rng) % 4)
                    frame.seq = load_relaxed(&r->base.stats.messages);
                if (next_random(&rng) % 2)
                    frame.length = (uint32_t)(next_random(&rng) % (CAPACITY / 2));
                for (size_t i = 0; i < sizeof frame; i++)
                    data[(r->cursor - r->start + i) % CAPACITY] = ((uint8_t *)&frame)[i];
            }
            break;
        default:   /* put the victim's own word back, or nothing would get past its first check */
            store_relaxed(r->base.role == CWASI_SENDER ? &control->sender.position : &control->reader[0].position, r->published);
            store_relaxed(r->base.role == CWASI_SENDER ? &control->reader[0].position : &control->sender.position, r->published);
        }
    }
}

static int known(int64_t rc)
{
    return rc >= 0 || rc == -EAGAIN || rc == -ETIMEDOUT || rc == -EPIPE || rc == -ECONNRESET || rc == -EBADMSG ||
           rc == -EMSGSIZE || rc == -ECANCELED || rc == -EREMCHG;
}

static void check_sane(const ring *r)
{
    if (r->base.role == CWASI_SENDER)
        CHECK(r->cursor - r->seen <= CAPACITY);
    else
        CHECK(r->cursor - r->published <= CAPACITY && r->seen - r->cursor <= CAPACITY);
}

typedef struct {
    cwasi_channel *channel;
    ring *victim;
    uint8_t *memory;
} target;

static target open_target(int role)
{
    target t;
    int fd = cwasi_ring_create(CAPACITY, 1);
    CHECK_EQ(cwasi_channel_open_ring(fd, role, 0, NULL, &t.channel), 0);
    t.memory = mmap(NULL, SHM_CONTROL + CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(t.memory != MAP_FAILED);
    close(fd);
    t.victim = *(ring **)t.channel;   /* a channel begins with its end */
    return t;
}

static void free_target(target t)
{
    munmap(t.memory, SHM_CONTROL + CAPACITY);
    cwasi_channel_free(t.channel);
}

static uint64_t attack_sender(uint8_t *buffer)
{
    uint64_t sent = 0;
    target t = open_target(CWASI_SENDER);
    for (int step = 0; step < STEPS; step++) {
        scribble(t.victim, (ring_control *)t.memory, t.memory + SHM_CONTROL);
        int rc = cwasi_channel_send(t.channel, buffer, next_random(&rng) % BUFFER, 0);
        CHECK(known(rc));
        check_sane(t.victim);
        sent += rc == 0;
    }
    free_target(t);
    return sent;
}

static uint64_t attack_receiver(uint8_t *buffer)
{
    uint64_t received = 0;
    target t = open_target(CWASI_RECEIVER);
    ring_control *control = (ring_control *)t.memory;
    for (int step = 0; step < STEPS; step++) {
        scribble(t.victim, control, t.memory + SHM_CONTROL);
        int64_t rc = cwasi_channel_peek(t.channel, NULL, 0);
        CHECK(known(rc));
        scribble(t.victim, control, t.memory + SHM_CONTROL);
        /* An open sender may take its time within a message: a wait without end would be right. */
        if (load_relaxed(&control->sender.state) == OPEN)
            store_relaxed(&control->sender.state, next_random(&rng) % 2 ? FINISHED : FAILED);
        rc = cwasi_channel_recv(t.channel, buffer, next_random(&rng) % 8 ? BUFFER : 16, 0);
        CHECK(known(rc) && rc <= BUFFER);
        check_sane(t.victim);
        received += rc >= 0;
    }
    free_target(t);
    return received;
}

/* Meanwhile, from another thread. */
typedef struct {
    target t;
    atomic_u32 stop;
} attack;

static void *scribble_on(void *arg)
{
    attack *a = arg;
    ring_control *control = (ring_control *)a->t.memory;
    uint64_t state = 5;
    for (uint64_t n = 0; !load_relaxed(&a->stop); n++) {
        uint64_t r = next_random(&state);
        store_relaxed(&control->sender.position, r % 3 ? n * 8 : r);
        store_relaxed(&control->reader[0].position, r % 5 ? 0 : r);
        store_relaxed(&control->sender.base, r);
        store_relaxed(&control->reader[0].parked, (uint32_t)r % 3);
        store_relaxed(&control->sender.parked, (uint32_t)r % 3);
        store_relaxed(&control->reader[0].state, r % 64 ? OPEN : (uint32_t)r % 4);
        store_relaxed(&control->sender.state, r % 64 ? OPEN : (uint32_t)r % 4);
        store_relaxed((atomic_u64 *)(a->t.memory + SHM_CONTROL + r % CAPACITY / 8 * 8), r >> 8 & 1 ? 0 : r % 5000);
    }
    return NULL;
}

static void attack_at_once(int role, uint8_t *buffer)
{
    for (int i = 0; i < 20; i++) {
        attack a = {.t = open_target(role)};
        pthread_t thread = start(scribble_on, &a);
        for (int64_t until = now_ns() + 10 * MS; now_ns() < until;) {
            int64_t rc = role == CWASI_SENDER ? cwasi_channel_send(a.t.channel, buffer, (uint64_t)i * 100, 1 * MS)
                                              : cwasi_channel_peek(a.t.channel, NULL, 1 * MS);
            CHECK(known(rc));
            check_sane(a.t.victim);
        }
        call r = {.channel = a.t.channel, .length = BUFFER, .timeout = FOREVER};
        pthread_t inside = start(role == CWASI_SENDER ? call_send : call_recv, &r);
        sleep_ms(3);
        cwasi_channel_stop(a.t.channel);
        join(inside);
        CHECK(known(r.result));
        store_relaxed(&a.stop, 1);
        join(thread);
        free_target(a.t);
    }
}

/* Two of three readers write what they like into their own words. They are dropped, at the latest when they lie, and the
 * third gets every message. */
static uint64_t attack_beside_an_honest_reader(uint8_t *buffer)
{
    static uint8_t received[BUFFER];
    cwasi_channel *tx, *honest;
    int fd = cwasi_ring_create(CAPACITY, 3);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_SENDER, 0, NULL, &tx), 0);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 2, NULL, &honest), 0);
    ring_control *control = mmap(NULL, SHM_CONTROL, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(control != MAP_FAILED);
    close(fd);
    const ring *victim = *(ring **)tx;
    uint64_t sent = 0;
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < 2; i++) {
            ring_side *own = &control->reader[i];
            switch (next_random(&rng) % 8) {
            case 0: store_relaxed(&own->position, nasty(victim)); break;
            case 1: store_relaxed(&own->state, nasty_state()); break;
            case 2: store_relaxed(&own->parked, (uint32_t)nasty(victim)); break;
            case 3: store_relaxed(&own->messages, nasty(victim)); break;
            case 4: store_relaxed(&own->core, (uint32_t)nasty(victim)); break;
            case 5: store_relaxed(&own->base, nasty(victim)); break;
            default: store_relaxed(&own->position, victim->published);
            }
        }
        size_t length = next_random(&rng) % (CAPACITY / 2);
        fill(buffer, length, sent);
        int rc = cwasi_channel_send(tx, buffer, length, 0);
        CHECK(rc == 0 || rc == -EAGAIN);
        check_sane(victim);
        sent += rc == 0;
        if (rc == 0 && next_random(&rng) % 8) {
            CHECK_EQ(cwasi_channel_recv(honest, received, BUFFER, 0), length);
            CHECK(filled(received, length, sent - 1));
        } else if (rc == 0) {
            CHECK_EQ(cwasi_channel_peek(honest, NULL, 0), length);
            CHECK_EQ(cwasi_channel_recv(honest, received, BUFFER, 0), length);
        }
        CHECK_EQ(cwasi_channel_recv(honest, received, BUFFER, 0), -EAGAIN);
    }
    munmap(control, SHM_CONTROL);
    cwasi_channel_free(tx);
    cwasi_channel_free(honest);
    return sent;
}

int main(void)
{
    test_begin(50);
    uint8_t *buffer = calloc(1, BUFFER);
    uint64_t sent = 0, received = 0;
    for (int i = 0; i < CASES; i++) {
        sent += attack_sender(buffer);
        received += attack_receiver(buffer);
    }
    /* Else the attacker was so crude that it never got past the door. */
    CHECK(sent > CASES && received > CASES);
    sent = 0;
    for (int i = 0; i < CASES; i++)
        sent += attack_beside_an_honest_reader(buffer);
    CHECK(sent > CASES);
    attack_at_once(CWASI_SENDER, buffer);
    attack_at_once(CWASI_RECEIVER, buffer);
    free(buffer);
    return 0;
}
