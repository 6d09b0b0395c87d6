/* A buffer that is too short, and a peek, leave the message where it is. */
#include "test.h"

int main(void)
{
    static uint8_t data[30000], back[30000];
    test_begin(20);
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        pair p = open_pair(transport);
        fill(data, sizeof data, 7);
        cwasi_channel_sample(p.tx, 1);
        CHECK_EQ(cwasi_channel_send(p.tx, data, sizeof data, 0), 0);
        CHECK_EQ(cwasi_channel_send(p.tx, NULL, 0, 0), 0);

        cwasi_frame frame;
        CHECK_EQ(cwasi_channel_peek(p.rx, NULL, 0), sizeof data);
        CHECK_EQ(cwasi_channel_peek(p.rx, &frame, 0), sizeof data);
        CHECK(frame.length == sizeof data && frame.seq == 0 && frame.stamp != 0);
        CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), -EMSGSIZE);
        CHECK_EQ(cwasi_channel_recv(p.rx, back, sizeof back - 1, 0), -EMSGSIZE);
        CHECK_EQ(cwasi_channel_recv(p.rx, back, sizeof back, 0), sizeof data);
        CHECK(filled(back, sizeof back, 7));
        CHECK_EQ(cwasi_channel_peek(p.rx, &frame, 0), 0);
        CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), 0);
        CHECK_EQ(cwasi_channel_recv(p.rx, back, sizeof back, 0), -EAGAIN);

        CHECK_EQ(cwasi_channel_send(p.tx, data, UINT64_C(1) + CWASI_MESSAGE_MAX, 0), -EMSGSIZE);
        CHECK_EQ(cwasi_channel_send(p.tx, data, UINT64_MAX, 0), -EMSGSIZE);
        CHECK_EQ(cwasi_channel_send(p.tx, NULL, 1, 0), -EFAULT);
        CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 1, 0), -EFAULT);
        CHECK_EQ(cwasi_channel_recv(p.tx, back, 1, 0), -EINVAL);
        CHECK_EQ(cwasi_channel_send(p.rx, data, 1, 0), -EINVAL);
        CHECK_EQ(cwasi_channel_sample(p.tx, 3), -EINVAL);
        free_pair(p);
    }
    return 0;
}
