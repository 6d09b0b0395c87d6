/* Who passed us our end of a pipe may have kept a descriptor of the same open file: it cannot make us block. */
#include "test.h"

int main(void)
{
    int fds[2];
    cwasi_channel *rx, *tx;
    test_begin(20);
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 1, &rx), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], NULL, 1, &tx), 0);
    if (access("/proc/self/fd/0", F_OK) < 0)
        SKIP("without /proc the open file is shared");
    fcntl(fds[0], F_SETFL, 0);
    fcntl(fds[1], F_SETFL, 0);

    CHECK_EQ(cwasi_channel_recv(rx, NULL, 0, 0), -EAGAIN);
    call r = {.channel = rx, .length = 1, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    sleep_ms(20);
    cwasi_channel_stop(rx);
    join(thread);
    CHECK_EQ(r.result, -ECANCELED);

    fill_up(tx);
    call s = {.channel = tx, .length = 4000, .timeout = 20 * MS};
    call_send(&s);
    CHECK_EQ(s.result, -ETIMEDOUT);
    close(fds[0]);
    close(fds[1]);
    cwasi_channel_free(tx);
    cwasi_channel_free(rx);
    return 0;
}
