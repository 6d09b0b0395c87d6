/* filler COUNT SIZE copy|window [WINDOW]: sends COUNT messages to "out", each filled with numbers that a checker knows,
 * and prints how long that took, in ns. */
#include "numbers.h"

int main(int argc, char **argv)
{
    (void)argc;
    uint32_t count = number(argv[1]), size = number(argv[2]);
    uint32_t room = argc > 4 ? number(argv[4]) : 4 << 20;
    int windows = argv[3][0] == 'w';
    uint32_t alignment = room % (2 << 20) ? 65536 : 2 << 20;   /* so that huge pages fit */
    uint8_t *memory = aligned_alloc(alignment, room > size ? room : (size + 65535) / 65536 * 65536);
    int32_t out = must(cwasi_open("out", 3, CWASI_SEND));
    if (windows)
        must(cwasi_window_attach(out, memory, room));
    uint64_t begin = now();
    for (uint32_t i = 0; i < count; i++) {
        if (windows) {
            uint32_t at = (uint32_t)must(cwasi_window_acquire(out, size, -1));
            fill(memory + at, size, i);
            must(cwasi_window_commit(out, at, size));
        } else {
            fill(memory, size, i);
            must(cwasi_send(out, memory, size, -1));
        }
    }
    printf("%llu\n", (unsigned long long)(now() - begin));
    return 0;
}
