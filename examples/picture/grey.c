/* grey - "rgb" -> "grey": the luma of BT.601, in 1/256. */
#define STAGE "grey"
#include "picture.h"

static void luma(uint8_t *restrict grey, const uint8_t *restrict rgb, uint32_t count)
{
#pragma clang loop vectorize(disable) /* gathering every third byte into vectors costs more than it saves */
    for (uint32_t i = 0; i < count; i++)
        grey[i] = (uint8_t)((77 * rgb[3 * i] + 150 * rgb[3 * i + 1] + 29 * rgb[3 * i + 2] + 128) >> 8);
}

int main(void)
{
    struct input in = open_input("rgb", 3);
    struct output out = open_output("grey");
    for (const struct band *b; (b = receive_band(&in));) {
        struct band header = *b;
        header.channels = 1;
        luma(start_band(&out, header)->pixels, b->pixels, b->width * b->rows);
        send_band(&out);
    }
    cwasi_close(out.handle);
    return 0;
}
