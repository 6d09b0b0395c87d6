/* No more threads spin than the process may afford, which a calibration leaves as it is; and a forked child, whose parent
 * was spinning, may spin too. */
#include "test.h"

#include <sched.h>

static int64_t cpu_ns(clockid_t of)
{
    struct timespec t;
    CHECK_EQ(clock_gettime(of, &t), 0);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A thread that waits, and has spun for 20 ms, on whatever share of a core it gets. Who sleeps never comes so far. */
typedef struct {
    pair p;
    pthread_t thread;
    call call;
} spinner;

static void start_spinner(spinner *s)
{
    clockid_t clock;
    s->p = ring_pair(4096);
    s->call = (call){.channel = s->p.rx, .length = 1, .timeout = FOREVER};
    s->thread = start(call_recv, &s->call);
    CHECK_EQ(pthread_getcpuclockid(s->thread, &clock), 0);
    while (cpu_ns(clock) < 20 * MS)
        sleep_ms(1);
}

static void stop_spinner(spinner *s)
{
    cwasi_channel_stop(s->p.rx);
    join(s->thread);
    free_pair(s->p);
}

static void check_spins(void)
{
    spinner s;
    start_spinner(&s);
    stop_spinner(&s);
}

static void check_sleeps(void)
{
    pair p = ring_pair(4096);
    int64_t before = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 100 * MS), -ETIMEDOUT);
    CHECK(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - before < 10 * MS);
    free_pair(p);
}

/* Without a thread, which not every sanitizer allows there. */
static void check_spins_in_a_child(void)
{
    pair p = ring_pair(4096);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(200);
        _exit((int)cwasi_channel_recv(p.rx, NULL, 0, FOREVER));
    }
    clockid_t clock;
    CHECK_EQ(clock_getcpuclockid(child, &clock), 0);
    while (cpu_ns(clock) < 200 * MS)
        sleep_ms(1);
    CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK_EQ(wait_for(child), 128 + SIGKILL);
    free_pair(p);
}

/* It keeps this thread to one core for a while: who counts the cores only then finds none to spin on. */
static void check_spins_after_calibration(void)
{
    cpu_set_t set;
    cwasi_costs costs;
    CHECK_EQ(sched_getaffinity(0, sizeof set, &set), 0);
    if (CPU_COUNT(&set) < 2)
        return;
    CHECK_EQ(cwasi_calibrate(&costs), 0);
    cwasi_wait_configure(-1, 600 * 1000 * MS);
    check_spins();
}

int main(void)
{
    test_begin(20);
    check_spins_after_calibration();
    cwasi_wait_configure(1, 600 * 1000 * MS);
    check_spins();
    check_spins();   /* the place was given back */

    spinner s;
    start_spinner(&s);
    check_sleeps();
    check_spins_in_a_child();
    stop_spinner(&s);
    check_spins();
    cwasi_wait_configure(0, 600 * 1000 * MS);
    check_sleeps();
    return 0;
}
