/* swell SIZE MODE ... - messages of SIZE bytes on "out" until the channel's mode is MODE, and so on; byte i of message k
 * is (k * 31 + i) & 255. Without arguments it receives them on "in", up to their end, and says how many came. */
#include <cwasi.h>
#include <stdio.h>
#include <stdlib.h>

enum { LONGEST = 1 << 20 };

static uint8_t message[LONGEST];

static void want(int right, const char *what, uint32_t k)
{
    if (right)
        return;
    fprintf(stderr, "swell: message %u: %s\n", k, what);
    exit(1);
}

static void receive(void)
{
    int32_t in = cwasi_open("in", 2, CWASI_RECEIVE), size;
    uint32_t k = 0;
    for (; (size = cwasi_recv(in, message, LONGEST, -1)) != -CWASI_EPIPE; k++) {
        want(size > 0, "receive", k);
        for (uint32_t i = 0; i < (uint32_t)size; i++)
            want(message[i] == (uint8_t)(k * 31 + i), "a byte", k);
    }
    printf("swell: %u messages ok\n", k);
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        receive();
        return 0;
    }
    int32_t out = cwasi_open("out", 3, CWASI_SEND);
    uint32_t k = 0;
    for (int step = 1; step + 1 < argc; step += 2) {
        uint32_t size = (uint32_t)strtoul(argv[step], NULL, 10);
        int32_t mode = atoi(argv[step + 1]);
        want(out >= 0 && size <= LONGEST, "usage: swell SIZE MODE ...", k);
        do {
            for (uint32_t i = 0; i < size; i++)
                message[i] = (uint8_t)(k * 31 + i);
            want(cwasi_send(out, message, size, -1) == 0, "send", k++);
        } while (cwasi_mode(out) != mode);
    }
    want(cwasi_close(out) == 0, "close", k);
    return 0;
}
