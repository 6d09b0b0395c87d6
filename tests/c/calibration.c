/* Measuring ends with plausible numbers, also for a user who has used up what the kernel grants him for pipes. */
#include "test.h"

#include <sys/resource.h>

enum { PIPES = 100, NOBODY = 65534 };

static void check_costs(void)
{
    cwasi_costs costs;
    CHECK_EQ(cwasi_calibrate(&costs), 0);
    CHECK(costs.syscall > 0 && costs.copy_byte > 0 && costs.pipe_message > 0);
    CHECK(costs.hop >= 0 && costs.wake >= 0);
    CHECK(costs.pipe_message < 1e7 && costs.pipe_byte > -10 && costs.pipe_byte < 1e4);
}

int main(void)
{
    test_begin(30);
    check_costs();
    pid_t child = fork();
    if (child == 0) {
        alarm(15);
        if (geteuid() == 0 && setuid(NOBODY) < 0)
            _exit(77);
        for (int i = 0; i < PIPES; i++) {
            int fds[2];
            CHECK_EQ(pipe(fds), 0);
            fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
        }
        check_costs();
        _exit(0);
    }
    int code = wait_for(child);
    if (code == 77)
        SKIP("cannot become another user");
    CHECK_EQ(code, 0);
    return 0;
}
