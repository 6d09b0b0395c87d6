/* A message that broke off half-way ends the channel: no later call takes what follows for a message. */
#include "test.h"

static const int LENGTH = 3 << 20;
enum { HEAD = 128 };   /* where the ring has the sender's position */

/* A sender that is stopped in the middle of a large message, and closes as if nothing had been. */
static void sender_breaks_off(int transport)
{
    pair p = open_pair(transport);
    call s = {.channel = p.tx, .length = LENGTH, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    CHECK_EQ(cwasi_channel_peek(p.rx, NULL, FOREVER), LENGTH);
    sleep_ms(20);
    cwasi_channel_stop(p.tx);
    join(thread);
    CHECK_EQ(s.result, -ECANCELED);
    CHECK_EQ(cwasi_channel_send(p.tx, "next", 4, 0), -ECANCELED);
    CHECK_EQ(cwasi_channel_close(p.tx, 0, 100 * MS), 0);

    uint8_t *data = malloc(LENGTH);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(cwasi_channel_recv(p.rx, data, LENGTH, 0), -ECONNRESET);
    CHECK_EQ(cwasi_channel_peek(p.rx, NULL, 0), -ECONNRESET);
    free(data);
    free_pair(p);
}

/* A receiver that is stopped in the middle. */
static void receiver_breaks_off(void)
{
    int fd = cwasi_ring_create(4096, 1);
    cwasi_channel *rx;
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &rx), 0);
    uint8_t *memory = mmap(NULL, SHM_CONTROL + 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    close(fd);
    cwasi_frame frame = {.length = LENGTH};
    memcpy(memory + SHM_CONTROL, &frame, sizeof frame);
    store_release((atomic_u64 *)(memory + HEAD), sizeof frame);   /* head: a header, and nothing after it */
    call r = {.channel = rx, .length = LENGTH, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    cwasi_stats stats = {0};
    for (; stats.waits == 0; cwasi_channel_stats(rx, &stats))
        sleep_ms(1);   /* until it is inside the message */
    store_release((atomic_u64 *)(memory + HEAD), UINT64_C(1) << 40);
    cwasi_channel_peer_died(rx, 0);
    join(thread);
    CHECK_EQ(r.result, -EBADMSG);
    store_release((atomic_u64 *)(memory + HEAD), 4096);   /* an honest word again: too late */
    uint8_t *data = malloc(LENGTH);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(cwasi_channel_recv(rx, data, LENGTH, 0), -EBADMSG);
    free(data);
    munmap(memory, SHM_CONTROL + 4096);
    cwasi_channel_free(rx);
}

int main(void)
{
    test_begin(20);
    for (int transport = 0; transport < TRANSPORTS; transport++)
        sender_breaks_off(transport);
    receiver_breaks_off();
    return 0;
}
