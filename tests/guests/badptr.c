/* badptr - hostile pointers, handles, names and flags. Needs "out" to send; tries "in" too if it was granted. */
#include <cwasi.h>
#include <stdio.h>

#define WANT(call, ...) want(#call, call, (const int[]){__VA_ARGS__, 0}) /* one of these errors */
#define AT(address) ((void *)(uintptr_t)(address))
static int failures;
static uint32_t at, len;

static void want(const char *what, int32_t got, const int *errors)
{
    while (*errors && got != -*errors)
        errors++;
    if (!*errors && ++failures)
        printf("badptr: %s gave %d (pointer %#x, length %#x)\n", what, got, at, len);
}

int main(void)
{
    enum { FAULT = CWASI_EFAULT, BADF = CWASI_EBADF, INVAL = CWASI_EINVAL };
    enum { SIZE = CWASI_EMSGSIZE, NOTCAP = CWASI_ENOTCAPABLE };
    static const char x64[] = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    static const struct { const char *name; uint32_t len; } names[] = {
        {x64, 64}, {"", 0}, {"Out", 3}, {"o/t", 3}, {"../out", 6}, {".out", 4}, {"-out", 4},
        {"o\033t", 3}, {"o\0t", 3}, {"out\n", 4}, {"out", 4}, {"o\xfft", 3}};
    const uint32_t top = 0xffffffff, end = (uint32_t)__builtin_wasm_memory_size(0) << 16;
    const uint32_t ranges[][2] = {
        {end, 1}, {end - 1, 2}, {end + 65536, 16}, {1, end}, {8, 1u << 31}, {1u << 31, 1}, {1u << 31, 1u << 31},
        {0, 1u << 30}, {top, 1}, {top, 2}, {top - 15, 32}, {8, top}, {top, top}, {end / 2, top - end / 2 + 2}};
    const int32_t out = cwasi_open("out", 3, CWASI_SEND), in = cwasi_open("in", 2, CWASI_RECEIVE);
    for (unsigned i = 0; out >= 0 && i < sizeof ranges / sizeof *ranges; i++) {
        at = ranges[i][0], len = ranges[i][1];
        WANT(cwasi_send(out, AT(at), len, 0), FAULT, len > 1u << 30 ? SIZE : FAULT);
        WANT(cwasi_recv(in < 0 ? out : in, AT(at), len, 0), in < 0 ? BADF : FAULT, FAULT);
        WANT(cwasi_open(AT(at), len, CWASI_SEND), FAULT, len > 63 ? INVAL : FAULT, len > 63 ? NOTCAP : FAULT);
    }
    const int32_t handles[] = {-1, 0x7fffffff, -0x7fffffff - 1, out + 1000, out}; /* the last one is closed by then */
    WANT(cwasi_recv(out, &at, 4, 0), BADF);
    WANT(cwasi_peek(out, 0), BADF);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        WANT(cwasi_open(names[i].name, len = names[i].len, CWASI_SEND), INVAL, NOTCAP);
    for (unsigned i = 0; i < 5; i++)
        WANT(cwasi_open("out", 3, (const uint32_t[]){0, 3, 4, 5, top}[i]), INVAL);
    WANT(cwasi_open("no-such-channel", 15, CWASI_SEND), NOTCAP);
    WANT(cwasi_open("out", 3, CWASI_RECEIVE), NOTCAP);
    if (out < 0 || cwasi_close(out) < 0)
        failures += printf("badptr: 'out' is %d, and cannot be closed\n", out) > 0;
    for (unsigned i = 0; i < sizeof handles / sizeof *handles; i++) {
        at = (uint32_t)handles[i];
        WANT(cwasi_send(handles[i], "x", 1, 0), BADF);
        WANT(cwasi_recv(handles[i], &len, 4, 0), BADF);
        WANT(cwasi_peek(handles[i], 0), BADF);
        WANT(cwasi_mode(handles[i]), BADF);
        WANT(cwasi_close(handles[i]), BADF);
    }
    return failures ? 1 : (puts("badptr: ok"), 0);
}
