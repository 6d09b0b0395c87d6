/* summer COUNT SIZE copy|window [WINDOW [scribble|read]]: receives COUNT messages from "in", checks each, and prints how
 * long that took, in ns. scribble: writes over each message before it releases it; read: over every 40th, and what it
 * reads from the standard input. */
#include "numbers.h"

#include <string.h>
#include <unistd.h>

static void check(const uint8_t *at, uint32_t found, uint32_t size, uint32_t i)
{
    if (found != size || sum(at, size) != expected_sum(size, i)) {
        fprintf(stderr, "message %u is wrong\n", i);
        exit(2);
    }
}

static void write_over(uint8_t *at, uint32_t size, const char *how, uint32_t i)
{
    if (how[0] == 's')
        memset(at, 255, size);
    else if (i % 40 == 39 && read(0, at, size) <= 0)
        exit(3);
}

int main(int argc, char **argv)
{
    uint32_t count = number(argv[1]), size = number(argv[2]);
    uint32_t room = argc > 4 ? number(argv[4]) : 4 << 20;
    int windows = argv[3][0] == 'w';
    uint32_t alignment = room % (2 << 20) ? 65536 : 2 << 20;   /* so that huge pages fit */
    uint8_t *memory = aligned_alloc(alignment, room > size ? room : (size + 65535) / 65536 * 65536);
    int32_t in = must(cwasi_open("in", 2, CWASI_RECEIVE));
    if (windows)
        must(cwasi_window_attach(in, memory, room));
    uint64_t begin = now();
    for (uint32_t i = 0; i < count; i++) {
        cwasi_record record = {0, size};
        if (windows)
            must(cwasi_window_take(in, &record, -1));
        else
            record.len = (uint32_t)must(cwasi_recv(in, memory, size, -1));
        check(memory + record.offset, record.len, size, i);
        if (argc > 5)
            write_over(memory + record.offset, record.len, argv[5], i);
        if (windows)
            must(cwasi_window_release(in, record.offset));
    }
    printf("%llu\n", (unsigned long long)(now() - begin));
    return 0;
}
