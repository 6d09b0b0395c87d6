/* stencil.h - a filter that needs the rows above and below, over bands of any height.
 *
 * Pixels beyond the frame repeat the outermost ones, and the rows kept from band to band make the result independent of
 * the height of the bands. Outgoing bands lag behind by `radius` rows and end with the frame. */
#ifndef STENCIL_H
#define STENCIL_H

#include "picture.h"

enum { MAX_RADIUS = 2 };

struct stencil {
    uint32_t radius;
    /* Makes the row to be kept of an incoming row, which starts at padded[radius] with `radius` more pixels either side. */
    void (*keep)(uint16_t *kept, const uint8_t *padded, uint32_t width);
    /* Makes an outgoing row of the 2 * radius + 1 kept rows around it. */
    void (*combine)(uint8_t *pixels, const uint16_t *const *kept, uint32_t width);
};

/* The row `by` pixels on. Clang must not see that the two overlap, or it carries values from one turn of a loop to the next
 * instead of making vectors. */
#define SHIFTED(row, by) __extension__({ __typeof__(row) shifted_ = (row) + (by); __asm__("" : "+r"(shifted_)); shifted_; })

static inline void run_stencil(const char *from, const char *to, struct stencil filter)
{
    static uint16_t kept[2 * MAX_RADIUS + 1][MAX_SIDE + 2 * MAX_RADIUS];
    static uint8_t padded[MAX_SIDE + 2 * MAX_RADIUS];
    const uint32_t radius = filter.radius, window = 2 * radius + 1;
    struct input in = open_input(from, 1);
    struct output out = open_output(to);
    uint32_t next = 0; /* the next outgoing row */

    for (const struct band *b; (b = receive_band(&in));) {
        uint32_t width = b->width, height = b->height, first = next, end = b->row + b->rows;
        uint32_t last = end == height ? height : end > radius ? end - radius : 0;
        struct band header = *b;
        header.row = first;
        header.rows = last - first;
        uint8_t *pixels = start_band(&out, header)->pixels;

        for (uint32_t row = b->row; row < end; row++) {
            const uint8_t *incoming = b->pixels + (size_t)(row - b->row) * width;
            memset(padded, incoming[0], radius);
            memcpy(padded + radius, incoming, width);
            memset(padded + radius + width, incoming[width - 1], radius);
            filter.keep(kept[row % window], padded, width);

            uint32_t ready = row + 1 == height ? height : row + 1 > radius ? row + 1 - radius : 0;
            for (; next < ready; next++) {
                const uint16_t *around[2 * MAX_RADIUS + 1];
                for (uint32_t i = 0; i < window; i++) {
                    uint32_t y = next + i < radius ? 0 : next + i - radius;
                    around[i] = kept[(y < height ? y : height - 1) % window];
                }
                filter.combine(pixels + (size_t)(next - first) * width, around, width);
            }
        }
        if (last > first)
            send_band(&out);
        if (next == height)
            next = 0;
    }
    cwasi_close(out.handle);
}

#endif
