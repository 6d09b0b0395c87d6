/* merge COUNT SIZE SENDERS PORT... - receives on all of its ports, by cwasi_wait, what SENDERS times `source COUNT SIZE`
 * have sent there in all: each message SENDERS times. COUNT is 256 at most, which their first bytes tell apart. */
#include <cwasi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void want(int64_t got, int64_t wanted, const char *what)
{
    if (got == wanted)
        return;
    fprintf(stderr, "merge: %s is %lld, not %lld\n", what, (long long)got, (long long)wanted);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        want(argc, 5, "the number of arguments");
    int32_t count = atoi(argv[1]), size = atoi(argv[2]), senders = atoi(argv[3]), open = argc - 4, handles[8];
    int32_t seen[256] = {0};
    for (int32_t i = 0; i < open; i++) {
        handles[i] = cwasi_open(argv[4 + i], (uint32_t)strlen(argv[4 + i]), CWASI_RECEIVE);
        want(handles[i] < 0, 0, "the failure to open");
    }
    uint8_t *message = malloc((size_t)size + 1);
    while (open > 0) {
        int32_t ready = cwasi_wait(handles, (uint32_t)open, -1);
        want(ready >= 0 && ready < open, 1, "the wait");
        int32_t length = cwasi_recv(handles[ready], message, (uint32_t)size, 0);
        if (length == -CWASI_EPIPE) {
            handles[ready] = handles[--open];
            continue;
        }
        want(length, size, "the length");
        for (int32_t i = 1; i < size; i++)
            want(message[i], (uint8_t)(message[0] + i), "a byte");
        seen[message[0]]++;
    }
    for (int32_t k = 0; k < count; k++)
        want(seen[(uint8_t)(k * 31)], senders, "how often a message came");
    fprintf(stderr, "merge: %d messages ok\n", count * senders);
    return 0;
}
