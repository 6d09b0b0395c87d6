/* source COUNT SIZE - COUNT messages of SIZE bytes on "out"; byte i of message k is (k * 31 + i) & 255. */
#include <cwasi.h>
#include <stdio.h>
#include <stdlib.h>

static int32_t need(int32_t result, const char *what)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "source: %s: %d\n", what, result);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        need(-1, "usage: source COUNT SIZE");
    uint32_t count = (uint32_t)strtoul(argv[1], NULL, 10), size = (uint32_t)strtoul(argv[2], NULL, 10);
    int32_t out = need(cwasi_open("out", 3, CWASI_SEND), "open out");
    uint8_t *message = malloc(size + 1);
    if (!message)
        need(-1, "out of memory");
    for (uint32_t k = 0; k < count; k++) {
        for (uint32_t i = 0; i < size; i++)
            message[i] = (uint8_t)(k * 31 + i);
        need(cwasi_send(out, message, size, -1), "send");
    }
    need(cwasi_close(out), "close");
    return 0;
}
