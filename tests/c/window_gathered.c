/* A guest's window on a channel of several senders, one of which dies inside the message that was found: the next one
 * comes in its place, with its own length, whether it is shorter or longer. */
#include "test.h"

#include "window.h"

enum { WINDOW = 1 << 20, LONG = 300000 };   /* longer than the rings */

static void dies_inside(uint64_t next)
{
    pair dying = belled_pair(64 * 1024), other = belled_pair(1 << 20);
    cwasi_channel *sources[] = {dying.rx, other.rx}, *rx;
    CHECK_EQ(cwasi_channel_gather(sources, 2, &rx), 0);
    uint8_t *memory = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *data = malloc(next);
    CHECK(memory != MAP_FAILED && data);
    window *w;
    window_record record;
    CHECK_EQ(window_attach(rx, memory, 0, WINDOW, 1, &w), 0);

    call s = {.channel = dying.tx, .length = LONG, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    CHECK_EQ(channel_find(rx, &record, deadline_after(-1)), 0);
    CHECK_EQ(record.length, LONG);
    fill(data, next, 7);
    CHECK_EQ(cwasi_channel_send(other.tx, data, next, 0), 0);
    cwasi_channel_stop(dying.tx);
    join(thread);
    CHECK_EQ(cwasi_channel_close(dying.tx, 1, 0), 0);
    CHECK_EQ(window_take(w, memory, &record, deadline_after(1000 * MS)), 0);
    CHECK_EQ(record.length, next);
    CHECK(filled(memory + record.offset, next, 7));
    CHECK_EQ(window_release(w, memory, (uint32_t)record.offset), 0);
    window_detach(w, memory);
    munmap(memory, WINDOW);
    free(data);
    cwasi_channel_free(dying.tx);
    cwasi_channel_free(other.tx);
    cwasi_channel_free(rx);
}

int main(void)
{
    test_begin(20);
    dies_inside(5);
    dies_inside(LONG - 1);
    dies_inside(LONG + 1000);
    return 0;
}
