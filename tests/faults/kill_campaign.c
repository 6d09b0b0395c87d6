/* Kills one process of a channel at every labelled point of the data plane, and looks at what the others do.
 *
 *   kill_campaign KILLS LABEL...     LABEL: every FAULT_POINT of csrc
 *
 * The processes are forked for each kill: a sender, and one or two receivers. What they have done so far they note in
 * memory that their parent shares, so that it outlives them. After each kill:
 * - the others end within a second, with the error that they should get, and get it again when they ask again;
 * - what was received was sent, once, in order, and to the byte; all that a dead sender had committed is received (not
 *   over tcp, where its kernel may take back what is under way);
 * - what a surviving sender finds unread is what the dead receiver has not received, or one message less: that one had
 *   been taken, and its receiver was killed before recv returned or before it could note it; over tcp it finds more
 *   unread, never less;
 * - nothing is left open or mapped, neither in the survivors nor here.
 */
#include "links.h"

#include <dirent.h>
#include <sys/prctl.h>

enum { LABELS_MAX = 128, NOBODY = -1, MESSAGES = 48, HELD = 3, WINDOW = 64 * PAGE, LONG = 1000, ROUNDS_MAX = 50 };
enum { LINKS = 3, BELLS = LINKS * ENDS };   /* a channel that switches goes from one to the next */

/* ns for the survivors to end in. A wake that got lost shows by a sleep of a second. */
static const int64_t NOTICE = INT64_C(950000000);

typedef struct {
    const char *name;
    int transport;
    uint64_t capacity, longest;
    int receivers;
    int send_window, receive_window;
    int switches;
    int then[LINKS - 1];        /* transports */
} scenario;

static const scenario scenarios[] = {
    {"a small ring", ON_RING, 4096, 15000, .receivers = 1},
    {"a ring", ON_RING, 65536, 200000, .receivers = 1},
    {"windows", ON_RING, 4096, 30000, .receivers = 1, .send_window = 1, .receive_window = 1},
    {"a window to copies", ON_RING, 4096, 30000, .receivers = 1, .send_window = 1},
    {"two receivers", ON_RING, 8192, 20000, .receivers = 2},
    {"two receivers of windows", ON_RING, 4096, 30000, .receivers = 2, .send_window = 1, .receive_window = 1},
    {"a pipe", ON_PIPE, 0, 3000, .receivers = 1},
    {"a pipe with large messages", ON_PIPE, 0, 500000, .receivers = 1},
    {"pipes to two receivers", ON_PIPE, 0, 500000, .receivers = 2},
    {"tcp", ON_TCP, 0, 30000, .receivers = 1},
    {"tcp with messages longer than its window", ON_TCP, 0, 3 << 20, .receivers = 1},
    {"tcp to two receivers", ON_TCP, 0, 30000, .receivers = 2},
    {"tcp to two receivers, longer than its windows", ON_TCP, 0, 3 << 20, .receivers = 2},
    {"from tcp to ring, two receivers", ON_TCP, 8192, 20000, .receivers = 2, .switches = 1, .then = {ON_RING}},
    {"from tcp to ring", ON_TCP, 8192, 20000, .receivers = 1, .switches = 1, .then = {ON_RING}},
    {"from ring to ring", ON_RING, 8192, 20000, .receivers = 1, .switches = 2, .then = {ON_RING, ON_RING}},
    {"from ring to pipe", ON_RING, 8192, 20000, .receivers = 1, .switches = 2, .then = {ON_PIPE, ON_RING}},
    {"from pipe to ring", ON_PIPE, 8192, 20000, .receivers = 1, .switches = 2, .then = {ON_RING, ON_PIPE}},
    {"from ring to pipes, two receivers", ON_RING, 8192, 20000, .receivers = 2, .switches = 2, .then = {ON_PIPE, ON_RING}},
    {"from pipes to ring, two receivers", ON_PIPE, 8192, 20000, .receivers = 2, .switches = 2, .then = {ON_RING, ON_PIPE}},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

/* What an end has done; only that end writes it. */
typedef struct {
    atomic_u64 begun, done;     /* messages */
    atomic_u64 closing, error, unread;
    atomic_u32 attached;        /* which of the links a receiver has been given, the first being 0 */
    atomic_u32 passed[LABELS_MAX];
} notes;

typedef struct {
    const scenario *of;
    uint64_t seed;
    int victim;
    int label;                  /* where it is killed, */
    uint32_t count;             /* when it comes there for that time; 0: never */
    link_made link[LINKS];
} plan;

static const char *const *labels;
static int label_count;
static notes *shared;           /* one an end */
static plan now_doing;
static int who = NOBODY;

/* ---- the point of it ---- */

static int label_index(const char *label)
{
    for (int i = 0; i < label_count; i++) {
        if (strcmp(labels[i], label) == 0)
            return i;
    }
    fprintf(stderr, "the campaign was not told of %s\n", label);
    _exit(1);
}

void fault_passed(const char *label)
{
    if (who == NOBODY)
        return;
    int index = label_index(label);
    uint32_t times = 1 + add_relaxed(&shared[who].passed[index], 1);
    if (who == now_doing.victim && index == now_doing.label && times == now_doing.count) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
}

/* ---- messages: the same for who sends and who checks ---- */

static uint64_t random_of(uint64_t seq, uint64_t salt)
{
    uint64_t state = now_doing.seed * 1000003 + seq * 8 + salt;
    return next_random(&state);
}

static uint64_t length_of(uint64_t seq)
{
    uint64_t pick = random_of(seq, 0);
    return pick % 4 ? pick / 4 % 700 : pick / 4 % now_doing.of->longest;
}

/* In a quarter of the runs the receivers are slow, in another the sender: then the others wait for them. */
enum { RECEIVERS_SLOW, SENDER_SLOW, LOCKSTEP, FULL_SPEED, PACES };

static void dawdle(int end, uint64_t seq)
{
    uint64_t slow = now_doing.seed % PACES;
    if (slow == (end == SENDER ? SENDER_SLOW : RECEIVERS_SLOW) && random_of(seq, 2) % 4 == 0)
        usleep(random_of(seq, 3) % 400);
}

/* Waits until the ring is empty, in which the sender then begins again; not for long: the receiver may be dead. */
static void keep_step(cwasi_channel *c)
{
    for (int i = 0; now_doing.seed % PACES == LOCKSTEP && i < 20 && cwasi_channel_unread(c) > 0; i++)
        usleep(200);
}

/* The number of messages after which the victim closes, where nothing kills it. */
static uint64_t limit_of(int end)
{
    int ends_it = end == now_doing.victim || (end == SENDER && now_doing.of->receivers > 1);
    return ends_it ? MESSAGES / (end == SENDER ? 1 : 2) : UINT64_MAX;
}

static uint8_t *map_window(cwasi_channel *c)
{
    uint64_t agreed, offset;
    uint32_t epoch;
    CHECK_EQ(channel_agree(c, WINDOW, &agreed, &epoch), 0);
    CHECK_EQ(agreed, WINDOW);
    int fd = channel_area(c, epoch, &offset);
    uint8_t *map = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    CHECK(map != MAP_FAILED);
    close(fd);
    return map;
}

/* ---- going to the next link ---- */

/* What a process has of the links that are not in use yet. */
static cwasi_channel *fresh[LINKS];

/* A bell that hung up before it was the channel's has told it nothing. */
static void look_at_bells(cwasi_channel *c)
{
    int bells[BELLS], count = cwasi_channel_bells(c, bells, BELLS);
    for (int i = 0; i < count; i++)
        cwasi_channel_hung_up(c, bells[i]);
}

static int all_attached(uint32_t number)
{
    for (int i = 1; i <= now_doing.of->receivers; i++) {
        if (load_acquire(&shared[i].attached) < number)
            return 0;
    }
    return 1;
}

/* When it is time, and if all receivers agree, for which it waits a little: one may be dead. */
static int go_on(cwasi_channel *c, uint64_t seq)
{
    uint32_t number = cwasi_channel_epoch(c, 0) + 1;
    if (number > (uint32_t)now_doing.of->switches || seq < 6 * number)
        return 0;
    for (int i = 0; i < 20 && !all_attached(number); i++)
        usleep(200);
    if (!all_attached(number))
        return 0;
    cwasi_channel *next = fresh[number];
    fresh[number] = NULL;
    int rc;
    do
        rc = cwasi_channel_switch(c, next, FOREVER);
    while (rc == -EINTR);
    if (rc == 0)
        CHECK_EQ(cwasi_channel_epoch(c, 0), number);
    look_at_bells(c);
    return rc;
}

/* A receiver is given the next link as soon as it has come to this one. */
static void attach_next(cwasi_channel *c, int end)
{
    uint32_t number = cwasi_channel_epoch(c, 0) + 1;
    if (number > (uint32_t)now_doing.of->switches || !fresh[number])
        return;
    cwasi_channel *next = fresh[number];
    fresh[number] = NULL;
    CHECK_EQ(cwasi_channel_attach(c, 0, next, number), 0);
    look_at_bells(c);
    store_release(&shared[end].attached, number);   /* pairs with all_attached */
}

/* ---- the sender ---- */

static int send_in_place(cwasi_channel *c, uint8_t *window, uint64_t length, uint64_t seq)
{
    int64_t offset = channel_acquire(c, 0, length, deadline_after(-1));
    if (offset < 0)
        return (int)offset;
    fill(window + offset, length, seq);
    return channel_commit(c, 0, (uint64_t)offset, length);
}

static int send_one(cwasi_channel *c, uint8_t *window, uint8_t *buffer, uint64_t seq)
{
    uint64_t length = length_of(seq);
    if (window && random_of(seq, 1) % 8)
        return send_in_place(c, window, length, seq);
    fill(buffer, length, seq);
    return cwasi_channel_send(c, buffer, length, FOREVER);
}

static int run_sender(cwasi_channel *c, uint8_t *window, uint8_t *buffer)
{
    notes *own = &shared[SENDER];
    int rc = 0;
    for (uint64_t seq = 0, limit = limit_of(SENDER); rc == 0 && seq < limit; seq++) {
        dawdle(SENDER, seq);
        keep_step(c);
        rc = go_on(c, seq);
        if (rc < 0)
            break;
        store_relaxed(&own->begun, seq + 1);
        rc = send_one(c, window, buffer, seq);
        if (rc == 0)
            store_relaxed(&own->done, seq + 1);
    }
    for (int again = 0; again < 2 && rc < 0; again++)
        CHECK_EQ(cwasi_channel_send(c, buffer, 1, FOREVER), rc);
    store_relaxed(&own->unread, cwasi_channel_unread(c));
    return rc;
}

/* ---- a receiver ---- */

typedef struct {
    cwasi_channel *channel;
    uint8_t *window, *buffer;
    window_record record[HELD];
    uint64_t number[HELD];      /* of the messages in them */
    unsigned held;              /* taken and not yet released, oldest first */
    uint64_t next;
} receiver;

static void release_oldest(receiver *r)
{
    /* Still what it was: nobody may write there while it is held. */
    CHECK(filled(r->window + r->record[0].offset, r->record[0].length, r->number[0]));
    CHECK_EQ(channel_release(r->channel, 0, r->record[0].end), 0);
    r->held--;
    for (unsigned i = 0; i < r->held; i++) {
        r->record[i] = r->record[i + 1];
        r->number[i] = r->number[i + 1];
    }
}

static int64_t receive_copy(receiver *r)
{
    uint64_t pick = random_of(r->next, 4) % 4;
    int64_t rc = 0;
    if (pick == 0 && length_of(r->next) > 0 && (rc = cwasi_channel_recv(r->channel, r->buffer, 0, FOREVER)) != -EMSGSIZE)
        return rc;
    if (pick == 1 && (rc = cwasi_channel_peek(r->channel, NULL, FOREVER)) < 0)
        return rc;
    if (pick == 2 && (rc = cwasi_channel_wait(&r->channel, 1, 0, FOREVER)) < 0)
        return rc;
    rc = cwasi_channel_recv(r->channel, r->buffer, now_doing.of->longest, FOREVER);
    if (rc >= 0)
        CHECK(filled(r->buffer, (size_t)rc, r->next));
    return rc;
}

static int64_t receive_in_place(receiver *r)
{
    window_record found;
    if (r->held == HELD)
        release_oldest(r);
    int rc = channel_find(r->channel, &found, deadline_after(-1));
    if (rc != 1)
        return rc < 0 ? rc : receive_copy(r);
    CHECK(filled(r->window + found.offset, found.length, r->next));
    CHECK_EQ(channel_take(r->channel, &found), 0);
    r->number[r->held] = r->next;
    r->record[r->held++] = found;
    return (int64_t)found.length;
}

static int run_receiver(cwasi_channel *c, uint8_t *window, uint8_t *buffer, int end)
{
    receiver r = {.channel = c, .window = window, .buffer = buffer};
    notes *own = &shared[end];
    int64_t rc = 0;
    for (uint64_t limit = limit_of(end); r.next < limit;) {
        dawdle(end, r.next);
        attach_next(c, end);
        rc = window ? receive_in_place(&r) : receive_copy(&r);
        if (rc < 0)
            break;
        CHECK_EQ(rc, length_of(r.next));
        store_relaxed(&own->done, ++r.next);
        while (r.held > 0 && random_of(r.next, 5) % 2)
            release_oldest(&r);
    }
    for (int again = 0; again < 2 && rc < 0; again++)
        CHECK_EQ(cwasi_channel_recv(c, buffer, now_doing.of->longest, FOREVER), rc);
    return rc < 0 ? (int)rc : 0;
}

/* ---- a process of the channel ---- */

typedef struct {
    cwasi_channel *channel;
    int bell;
    int own;                    /* of the same bell: the channel closes its own when it leaves that link */
    pthread_t thread;
} watched;

/* As a host does: tells the end when a bell hangs up. */
static void *watch_bell(void *arg)
{
    watched *w = arg;
    struct pollfd fd = {.fd = w->own, .events = 0};
    while (poll(&fd, 1, -1) < 1)
        continue;
    cwasi_channel_hung_up(w->channel, w->bell);
    return NULL;
}

/* The bells of one of the links, for what is or will be the channel. */
static int watch_bells(watched *list, cwasi_channel *link, cwasi_channel *channel)
{
    int bells[ENDS], count = cwasi_channel_bells(link, bells, ENDS);
    for (int i = 0; i < count; i++) {
        list[i] = (watched){.channel = channel, .bell = bells[i], .own = fcntl(bells[i], F_DUPFD_CLOEXEC, 0)};
        list[i].thread = start(watch_bell, &list[i]);
    }
    return count;
}

static int count_entries(const char *directory)
{
    int count = 0;
    DIR *dir = opendir(directory);
    CHECK(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static int count_rings_mapped(void)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps))
        count += strstr(line, "cwasi-ring") != NULL;
    fclose(maps);
    return count;
}

static void close_plan(const plan *p)
{
    for (int i = 0; i <= p->of->switches; i++)
        close_link(&p->link[i]);
}

static void run_end(int end)
{
    const scenario *of = now_doing.of;
    watched watching[BELLS];
    int watches = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cwasi_channel *c = open_end(&now_doing.link[0], end);
    for (int i = 1; i <= of->switches; i++)
        fresh[i] = open_end(&now_doing.link[i], end);
    close_plan(&now_doing);
    int windows = end == SENDER ? of->send_window : of->receive_window;
    /* The area has to have a size before anything is announced in it. */
    uint8_t *window = of->send_window ? map_window(c) : NULL, *buffer = malloc(of->longest);
    for (int i = 0; i <= of->switches; i++)
        watches += watch_bells(watching + watches, i ? fresh[i] : c, c);
    who = end;
    int rc = end == SENDER ? run_sender(c, windows ? window : NULL, buffer)
                           : run_receiver(c, windows ? window : NULL, buffer, end);
    store_relaxed(&shared[end].error, (uint64_t)-rc);
    store_relaxed(&shared[end].closing, 1);
    CHECK(cwasi_channel_close(c, 0, FOREVER) <= 0);
    who = NOBODY;
    for (int i = 1; i <= of->switches; i++)
        cwasi_channel_free(fresh[i]);
    for (int i = 0; i < watches; i++) {
        join(watching[i].thread);
        close(watching[i].own);
    }
    cwasi_channel_free(c);
    if (window)
        munmap(window, WINDOW);
    free(buffer);
    CHECK_EQ(count_rings_mapped(), 0);
    _exit(0);
}

/* ---- one run ---- */

static void tell_where(int signal)
{
    char line[300];
    const plan *p = &now_doing;
    int length = snprintf(line, sizeof line, "%s: end %d, %s for the %uth time, seed %llu: %s\n", p->of->name, p->victim,
                          p->count ? labels[p->label] : "never", p->count, (unsigned long long)p->seed,
                          signal ? "hangs" : "failed");
    if (write(2, line, (size_t)length) < 0 || signal)
        _exit(1);
}

/* CHECK, with the run in which it is not so. */
#define MUST(condition)         \
    do {                        \
        if (!(condition))       \
            tell_where(0);      \
        CHECK(condition);       \
    } while (0)

static void open_plan(plan *p)
{
    for (int i = 0; i <= p->of->switches; i++)
        make_link(&p->link[i], i ? p->of->then[i - 1] : p->of->transport, p->of->capacity, p->of->receivers);
}

static uint64_t noted(const atomic_u64 *note)
{
    return load_relaxed(note);
}

/* How many of its links are on that transport. */
static int links_on(int transport)
{
    int count = now_doing.of->transport == transport;
    for (int i = 0; i < now_doing.of->switches; i++)
        count += now_doing.of->then[i] == transport;
    return count;
}

static void check_receiver(int end, int killed)
{
    const notes *tx = &shared[SENDER], *rx = &shared[end];
    MUST(noted(&rx->done) <= noted(&tx->begun));
    if (end == now_doing.victim)
        return;
    if (!links_on(ON_TCP) || !killed)
        MUST(noted(&rx->done) >= noted(&tx->done));
    if (!killed || now_doing.victim != SENDER)
        MUST(noted(&rx->error) == EPIPE);
    else if (noted(&rx->error) != EPIPE || !noted(&tx->closing))
        MUST(noted(&rx->error) == ECONNRESET);
}

static void check_sender(int killed)
{
    const notes *tx = &shared[SENDER], *rx = &shared[now_doing.victim];
    uint64_t error = noted(&tx->error);
    if (now_doing.of->receivers > 1) {   /* goes on with the other one */
        MUST(error == 0);
        MUST(noted(&tx->done) == MESSAGES);
        return;
    }
    if (!killed)
        MUST(error == EPIPE);
    else if (error != EPIPE || !noted(&rx->closing))
        MUST(error == ECONNRESET);
    uint64_t left = noted(&tx->done) - noted(&rx->done);
    if (links_on(ON_RING) == 1 + now_doing.of->switches)
        MUST(noted(&tx->unread) == left || (killed && noted(&tx->unread) + 1 == left));
    /* What the sender was told to be received had been returned, and noted, before; but for one on a ring, as above. */
    uint64_t taken = killed && links_on(ON_RING);
    if (links_on(ON_TCP))
        MUST(noted(&tx->done) <= noted(&rx->done) + noted(&tx->unread) + taken);
}

static int64_t slowest;

/* Whether the victim was killed; it may have ended without coming to that point so often. */
static int run_once(void)
{
    pid_t ends[ENDS];
    int count = 1 + now_doing.of->receivers;
    memset(shared, 0, ENDS * sizeof *shared);
    open_plan(&now_doing);
    alarm(20);
    for (int i = 0; i < count; i++) {
        ends[i] = fork();
        CHECK(ends[i] >= 0);
        if (ends[i] == 0)
            run_end(i);
    }
    close_plan(&now_doing);
    int statuses = 0, status = wait_for(ends[now_doing.victim]);
    int64_t died = now_ns();
    MUST(status == 0 || status == 128 + SIGKILL);
    for (int i = 0; i < count; i++) {
        if (i != now_doing.victim)
            statuses |= wait_for(ends[i]);
    }
    MUST(statuses == 0);
    int killed = status != 0;
    slowest = MAX(slowest, now_ns() - died);
    MUST(now_ns() - died < NOTICE);
    for (int i = 1; i < count; i++)
        check_receiver(i, killed);
    if (now_doing.victim != SENDER)
        check_sender(killed);
    return killed;
}

/* ---- the campaign ---- */

/* How often an end comes to each point when nothing is done to it. */
static void rehearse(const scenario *of, int victim, uint32_t *passed)
{
    for (uint64_t seed = 1; seed <= PACES; seed++) {
        now_doing = (plan){.of = of, .victim = victim, .seed = seed};
        CHECK_EQ(run_once(), 0);
        for (int i = 0; i < label_count; i++)
            passed[i] = MAX(passed[i], load_relaxed(&shared[victim].passed[i]));
    }
}

static uint32_t passed[SCENARIOS][ENDS][LABELS_MAX], killed[LABELS_MAX], kills, missed;

/* Every end that comes to that point, in every scenario. */
static void kill_at(int label, uint32_t round, uint32_t wanted)
{
    static uint64_t rng = 7;
    for (int i = 0; i < SCENARIOS * ENDS; i++) {
        int s = i / ENDS, end = i % ENDS;
        uint32_t times = passed[s][end][label];
        /* The short form takes a third, once a label has had its kill. */
        if (times == 0 || (wanted < LONG && killed[label] && next_random(&rng) % 3))
            continue;
        uint32_t count = round % 4 == 0 ? 1 : 1 + (uint32_t)(next_random(&rng) % times);
        now_doing = (plan){.of = &scenarios[s], .seed = next_random(&rng), .victim = end, .label = label, .count = count};
        int hit = run_once();
        kills += (uint32_t)hit;
        killed[label] += (uint32_t)hit;
        missed += !hit;
    }
}

static int labels_left(void)
{
    int left = 0;
    for (int l = 0; l < label_count; l++)
        left += !killed[l];
    return left;
}

int main(int argc, char **argv)
{
    uint32_t wanted = argc > 1 ? (uint32_t)atoi(argv[1]) : 0, round = 0;
    labels = (const char *const *)argv + 2;
    label_count = argc - 2;
    CHECK(wanted > 0 && label_count > 0 && label_count <= LABELS_MAX);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, tell_where);
    shared = mmap(NULL, ENDS * sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    for (int s = 0; s < SCENARIOS; s++) {
        for (int end = 0; end <= scenarios[s].receivers; end++)
            rehearse(&scenarios[s], end, passed[s][end]);
    }
    int files = count_entries("/proc/self/fd");
    for (; kills < wanted || (labels_left() && round < ROUNDS_MAX); round++) {
        for (int l = 0; l < label_count; l++)
            kill_at(l, round, wanted);
    }
    alarm(0);
    for (int l = 0; l < label_count; l++) {
        if (!killed[l])
            fprintf(stderr, "nobody was killed at %s\n", labels[l]);
    }
    CHECK_EQ(labels_left(), 0);
    CHECK_EQ(count_entries("/proc/self/fd"), files);
    CHECK_EQ(count_rings_mapped(), 0);
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
    printf("%u kills at %d points, %u runs that did not get there; the survivors ended after %.1f ms at most\n", kills,
           label_count, missed, (double)slowest / 1e6);
    return 0;
}
