/* echo - "in" -> "out", message by message, until the sender closes. */
#include <cwasi.h>
#include <stdio.h>
#include <stdlib.h>

static int32_t need(int32_t result, const char *what)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "echo: %s: %d\n", what, result);
    exit(1);
}

int main(void)
{
    int32_t in = need(cwasi_open("in", 2, CWASI_RECEIVE), "open in");
    int32_t out = need(cwasi_open("out", 3, CWASI_SEND), "open out");
    char *buffer = NULL;
    uint32_t room = 0;
    for (int32_t length; (length = cwasi_peek(in, -1)) != -CWASI_EPIPE;) {
        if ((uint32_t)need(length, "peek") > room) {
            free(buffer);
            if (!(buffer = malloc(room = (uint32_t)length)))
                need(-1, "out of memory");
        }
        need(cwasi_recv(in, buffer, room, -1), "receive");
        need(cwasi_send(out, buffer, (uint32_t)length, -1), "send");
    }
    need(cwasi_close(out), "close out");
    return 0;
}
