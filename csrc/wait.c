/* wait.c - waiting for a peer: spin a little, then sleep, on a futex or on a bell.
 *
 * A hand-over between spinning cores takes a tenth of a microsecond, waking a sleeper some twenty: so spin about as
 * long as one wake costs. But spinners take cores from those who work, so a process has a budget of them; a thread
 * beyond the budget gives its core away (sched_yield) for a while before it sleeps. So does one whose peer ran last on
 * the same core: that peer cannot go on while we spin. Who is answered a little later each time spins that much longer;
 * who is answered much later spins less and less. Where others want the core, they may have it for a whole slice of the
 * scheduler's, milliseconds, once it is given away; who sleeps instead is run again soon after being woken. So who got
 * the core back late sleeps at once for a while.
 *
 * A bell is one end of a stream socket pair. It serves who waits for several things at once, and tells of the peer's
 * death: when its process ends, ours hangs up.
 */
#include "account.h"
#include "fault.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SPINS_PER_LOOK = 32 };   /* pauses between two looks at the clock */
/* Pauses before the core is given away, and none while the peer has it: long enough for a spinner that has got what it
 * waits for, as from us just now, to leave its place in the budget. */
enum { SPINS_OF_GRACE = 8 };

/* What a waiter learns stays between a 32nd of the budget of time and four times that. */
enum { SHORTEST_SPIN = 32, LONGEST_SPIN = 4 };

static const int64_t YIELD_NS = 4000;
/* Of the turns that others get as the core is given away, one in so many is timed, as long as they are short. */
enum { TURNS_PER_LOOK = 16 };
/* How long nobody yields after a long turn: at first, and at most. Each turn in vain takes about 3 ms. */
static const int64_t SHORTEST_HOLD_NS = 4000000, LONGEST_HOLD_NS = 128000000;
/* A turn that is longer is no peer's: not many messages take so long to work on that a sleep would matter. */
int64_t long_turn_ns = 500000;
/* A hostile peer can write 1 into the word again after a stop has cleared it: so no sleep is longer than this. */
int64_t longest_sleep_ns = 1000000000;
/* Who may be called off by a word looks at it that often. */
static const int64_t SLICE_NS = 20000000;
static _Thread_local const atomic_u32 *named;
static atomic_u32 spinners;
static _Atomic int spinner_budget = -1;
static _Atomic int64_t spin_budget_ns = 40000;

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

deadline deadline_after(int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return (deadline){INT64_MAX, 0};
    if (timeout_ns == 0)
        return (deadline){0, 0};
    int64_t now = now_ns();
    return (deadline){timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns, 0};
}

deadline deadline_interruptible(int64_t timeout_ns)
{
    deadline until = deadline_after(timeout_ns);
    until.interruptible = BY_SIGNAL;
    return until;
}

deadline deadline_by_word(int64_t timeout_ns, const atomic_u32 *word)
{
    deadline until = deadline_after(timeout_ns);
    until.interruptible = BY_WORD;
    named = word;
    return until;
}

int64_t wait_slice(deadline until)
{
    return until.interruptible == BY_WORD ? MIN(until.at, now_ns() + SLICE_NS) : until.at;
}

int wait_over(deadline until)
{
    if (until.interruptible == BY_WORD && load_relaxed(named))
        return -ECANCELED;
    return now_ns() >= until.at ? -ETIMEDOUT : 0;
}

/* Of the process, not of the thread that asks first: that one may be pinned. */
static int usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(getpid(), sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

void cwasi_wait_configure(int count, int64_t spin_ns)
{
    store_relaxed(&spinner_budget, count);
    if (spin_ns >= 0)
        store_relaxed(&spin_budget_ns, spin_ns);
}

/* A forked child has one thread, and that one does not spin. */
static void forget_spinners(void)
{
    store_relaxed(&spinners, 0);
}

__attribute__((constructor)) static void forget_spinners_in_children(void)
{
    pthread_atfork(NULL, NULL, forget_spinners);
}

static int default_budget(void)
{
    static _Atomic int known = -1;
    if (load_relaxed(&known) < 0)
        store_relaxed(&known, usable_cores() - 1);
    return load_relaxed(&known);
}

void wait_count_cores(void)
{
    default_budget();
}

static int may_spin(void)
{
    int budget = load_relaxed(&spinner_budget);
    if (budget < 0)
        budget = default_budget();
    if (add_relaxed(&spinners, 1) < (uint32_t)budget)
        return 1;
    sub_relaxed(&spinners, 1);
    return 0;
}

static int stop_spinning(void)
{
    sub_relaxed(&spinners, 1);
    return 0;
}

uint32_t current_core(void)
{
    return (uint32_t)sched_getcpu() + 1;
}

static int64_t spin_time(const waiter *w)
{
    return w->spin_ns ? w->spin_ns : load_relaxed(&spin_budget_ns);
}

/* Whether a spin of `w` that began at `start` has had its time. */
static int spun_enough(const waiter *w, int64_t start, int64_t now, int spinning)
{
    return now - start > (spinning ? spin_time(w) : YIELD_NS);
}

/* Whether the peer ran last where we run. */
static int together(const waiter *w)
{
    return w->peer_core && load_relaxed(w->peer_core) == current_core();
}

/* After a turn that others had. */
static void learn_turn(waiter *w, int64_t began)
{
    int64_t now = now_ns();
    if (now - began > long_turn_ns) {
        w->hold_ns = MIN(MAX(2 * w->hold_ns, SHORTEST_HOLD_NS), LONGEST_HOLD_NS);
        w->sleeps_until = now + w->hold_ns;
    } else {
        w->hold_ns -= w->hold_ns / 16;
        if (w->hold_ns < SHORTEST_HOLD_NS)
            w->hold_ns = 0;
    }
}

/* Gives the core away for a turn; false where others have had it for too long lately. */
static int give_turn(waiter *w)
{
    int timed = w->hold_ns || w->turns++ % TURNS_PER_LOOK == 0;
    int64_t began = timed ? now_ns() : 0;
    if (timed && began < w->sleeps_until)
        return 0;
    sched_yield();
    if (timed)
        learn_turn(w, began);
    return 1;
}

static void spin(int (*ready)(void *), void *arg, int pauses)
{
    for (; pauses && !ready(arg); pauses--)
        cpu_relax();
}

/* A spinner on the core that its peer needs would only keep it from its work: there, and beyond the budget of
 * spinners, the core is given away. */
int wait_spin(waiter *w, int (*ready)(void *), void *arg, int64_t start, deadline until)
{
    int spinning = 0, done = 0, grace = 1;
    int64_t counted_from = account_clock();
    for (int64_t now = start; now < until.at && !spun_enough(w, start, now, spinning); now = now_ns()) {
        int beside = together(w);
        if (spinning && beside)
            spinning = stop_spinning();
        else if (!spinning && !beside)
            spinning = may_spin();
        if (spinning || (grace && !beside)) {
            spin(ready, arg, spinning ? SPINS_PER_LOOK : SPINS_OF_GRACE);
            grace = spinning;
        } else if (!give_turn(w)) {
            break;
        }
        if ((done = ready(arg)))
            break;
    }
    if (spinning)
        stop_spinning();
    account_waited(counted_from);
    return done;
}

void wait_learn(waiter *w, int64_t began, int spun)
{
    if (spun && w->spin_ns == 0)
        return;   /* as expected, and no time is lost on clocks */
    int64_t budget = load_relaxed(&spin_budget_ns), waited = now_ns() - began;
    if (waited + waited / 4 <= budget)
        w->spin_ns = 0;
    else if (waited <= LONGEST_SPIN * budget)
        w->spin_ns = MIN(waited + waited / 4, LONGEST_SPIN * budget);
    else
        w->spin_ns = MAX(spin_time(w) / 2, budget / SHORTEST_SPIN);
}

int wait_sleep(atomic_u32 *parked, deadline until)
{
    struct timespec t = {until.at / 1000000000, until.at % 1000000000};
    int64_t counted_from = account_clock();
    /* FUTEX_WAIT_BITSET takes an absolute time. Not FUTEX_PRIVATE_FLAG: the peer may be another process. */
    long rc = syscall(SYS_futex, parked, FUTEX_WAIT_BITSET, ON_FUTEX, until.at == INT64_MAX ? NULL : &t, NULL,
                      FUTEX_BITSET_MATCH_ANY);
    int error = rc < 0 ? errno : 0;
    account_waited(counted_from);
    return error == ETIMEDOUT || error == EINTR ? -error : 0;
}

/* Sleeps until ready; 0, -ETIMEDOUT or -EINTR. */
static int park_until(waiter *w, int (*ready)(void *), void *arg, deadline until)
{
    for (int slept = 0;; slept = 1) {
        int rc = 0;
        /* Pairs with wake_parked: we say that we sleep, then look; the peer publishes, then looks whether we sleep. */
        store_ordered(w->parked, ON_FUTEX);
        FAULT_POINT(wait_parked);
        int done = ready(arg);
        if (!done) {
            rc = wait_sleep(w->parked, (deadline){MIN(wait_slice(until), now_ns() + longest_sleep_ns), 0});
            count_up(w->parks, !slept);
            FAULT_POINT(wait_slept);
        }
        store_relaxed(w->parked, AWAKE);
        if (done || ready(arg))
            return 0;
        /* By the clock: a peer that keeps changing the word keeps us from sleeping until then. */
        int over = wait_over(until);
        if (over < 0)
            return over;
        if (rc == -EINTR && until.interruptible == BY_SIGNAL)
            return -EINTR;
    }
}

int wait_until(waiter *w, int (*ready)(void *), void *arg, deadline until)
{
    if (ready(arg))
        return 0;
    if (until.at == 0)
        return -EAGAIN;
    /* Mostly that is enough, and no clock needs to be read. */
    if (together(w)) {
        int64_t counted_from = account_clock();
        int given = give_turn(w);
        account_waited(counted_from);
        if (given && ready(arg))
            return 0;
    }
    int64_t began = now_ns();
    int spun = wait_spin(w, ready, arg, began, until);
    int rc = spun ? 0 : park_until(w, ready, arg, until);
    wait_learn(w, began, spun);
    return rc;
}

int wake_parked(atomic_u32 *parked, int bell)
{
    /* Pairs with the stores of ON_FUTEX and ON_BELL by who parks. */
    if (load_ordered(parked) == AWAKE)
        return 0;
    uint32_t how = exchange_ordered(parked, AWAKE);
    FAULT_POINT(wake_begins);
    if (how == ON_FUTEX)
        syscall(SYS_futex, parked, FUTEX_WAKE, 1);
    else if (how == ON_BELL)
        bell_ring(bell);
    FAULT_POINT(wake_ends);
    return how != AWAKE;
}

void wait_wake(atomic_u32 *parked)
{
    store_ordered(parked, AWAKE);
    /* All: who else sleeps on the word must not take the wake from the thread that it is for. */
    syscall(SYS_futex, parked, FUTEX_WAKE, INT_MAX);
}

void bell_ring(int bell)
{
    /* A bell that is full has been rung often enough; one that has hung up has nobody to hear it. */
    ssize_t sent = send(bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent;
}

int bell_quiet(int bell)
{
    char rung[64];
    /* Once: who rings without end shall not keep us here. */
    return recv(bell, rung, sizeof rung, MSG_DONTWAIT) == 0 ? -ECONNRESET : 0;
}

void bell_wake_self(int bell)
{
    shutdown(bell, SHUT_RD);
}

void bell_hang_up(int bell)
{
    shutdown(bell, SHUT_RDWR);
}
