/* Random cases where there is no libFuzzer: standalone CASES [SEED]. A case that takes seconds is one that hangs. */
#include "fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LONGEST = 400, PATIENCE = 10 };

static uint64_t state, seed, cases;

static void tell_where(int signal)
{
    (void)signal;
    fprintf(stderr, "case %llu of seed %llu hangs\n", (unsigned long long)cases, (unsigned long long)seed);
    _exit(1);
}

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

int main(int argc, char **argv)
{
    uint64_t wanted = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    uint8_t data[LONGEST];
    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    state = seed * 2 + 1;
    signal(SIGALRM, tell_where);
    signal(SIGPIPE, SIG_IGN);
    LLVMFuzzerInitialize(&argc, &argv);
    for (; cases < wanted; cases++) {
        size_t length = next_random() % (LONGEST + 1);
        for (size_t i = 0; i < length; i++)
            data[i] = (uint8_t)(next_random() >> 24);
        if (cases % 1024 == 0)
            alarm(PATIENCE);
        LLVMFuzzerTestOneInput(data, length);
    }
    return 0;
}
