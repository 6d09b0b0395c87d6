/* sink COUNT SIZE - receives on "in" exactly what `source COUNT SIZE` sends, then the end. */
#include <cwasi.h>
#include <stdio.h>
#include <stdlib.h>

static void want(int64_t got, int64_t wanted, const char *what, uint32_t message)
{
    if (got == wanted)
        return;
    fprintf(stderr, "sink: message %u: %s is %lld, not %lld\n", message, what, (long long)got, (long long)wanted);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fputs("usage: sink COUNT SIZE\n", stderr);
        return 1;
    }
    uint32_t count = (uint32_t)strtoul(argv[1], NULL, 10), size = (uint32_t)strtoul(argv[2], NULL, 10), k;
    int32_t in = cwasi_open("in", 2, CWASI_RECEIVE);
    want(in < 0 ? in : 0, 0, "open", 0);
    uint8_t *message = malloc(size + 1);
    want(!message, 0, "out of memory", 0);
    for (k = 0; k < count; k++) {
        want(cwasi_recv(in, message, size, -1), size, "the result of receive", k);
        for (uint32_t i = 0; i < size; i++)
            if (message[i] != (uint8_t)(k * 31 + i))
                want(message[i], (uint8_t)(k * 31 + i), "a byte", k);
    }
    want(cwasi_recv(in, message, size, -1), -CWASI_EPIPE, "the result of receive at the end", k);
    printf("sink: %u messages ok\n", count);
    return 0;
}
