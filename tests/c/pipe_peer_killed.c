/* A sender that is killed in the middle of a message: what it had sent whole arrives, then the receiver learns it. */
#include "test.h"

int main(void)
{
    test_begin(30);
    for (int round = 0; round < 10; round++) {
        int fds[2];
        CHECK_EQ(pipe(fds), 0);
        pid_t child = fork();
        if (child == 0) {
            cwasi_channel *tx;
            close(fds[0]);
            CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], NULL, 1, &tx), 0);
            close(fds[1]);
            uint8_t *data = malloc(5 << 20);
            fill(data, 1000, 0);
            CHECK_EQ(cwasi_channel_send(tx, data, 1000, FOREVER), 0);
            memset(data, 0x55, 5 << 20);
            CHECK_EQ(cwasi_channel_send(tx, data, 5 << 20, FOREVER), 0);
            _exit(1);   /* not reached: nobody reads all of it */
        }
        cwasi_channel *rx;
        CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 1, &rx), 0);
        close(fds[0]);
        close(fds[1]);
        uint8_t *data = malloc(5 << 20);
        CHECK_EQ(cwasi_channel_recv(rx, data, 5 << 20, FOREVER), 1000);
        CHECK(filled(data, 1000, 0));
        CHECK_EQ(cwasi_channel_peek(rx, NULL, FOREVER), 5 << 20);
        sleep_ms(5);
        kill(child, SIGKILL);
        CHECK_EQ(wait_for(child), 128 + SIGKILL);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cwasi_channel_recv(rx, data, 5 << 20, FOREVER), -ECONNRESET);
        free(data);
        cwasi_channel_free(rx);
    }
    return 0;
}
