/* edges - "blurred" -> "edges": the size of Sobel's gradient, |gx| + |gy|, at most 255. */
#define STAGE "edges"
#include "stencil.h"

static void widen(uint16_t *restrict kept, const uint8_t *restrict padded, uint32_t width)
{
    for (uint32_t x = 0; x < width + 2; x++)
        kept[x] = padded[x];
}

static void sobel(uint8_t *restrict pixels, const uint16_t *const *kept, uint32_t width)
{
    const uint16_t *a = kept[0], *b = SHIFTED(a, 1), *c = SHIFTED(a, 2); /* above */
    const uint16_t *d = kept[1], *f = SHIFTED(d, 2);
    const uint16_t *g = kept[2], *h = SHIFTED(g, 1), *i = SHIFTED(g, 2); /* below */
    for (uint32_t x = 0; x < width; x++) { /* 16 bits, so that twice as many fit in a vector */
        int16_t gx = (int16_t)(c[x] + 2 * f[x] + i[x] - a[x] - 2 * d[x] - g[x]);
        int16_t gy = (int16_t)(g[x] + 2 * h[x] + i[x] - a[x] - 2 * b[x] - c[x]);
        int16_t size = (int16_t)((gx < 0 ? -gx : gx) + (gy < 0 ? -gy : gy));
        pixels[x] = (uint8_t)(size < 255 ? size : 255);
    }
}

int main(void)
{
    run_stencil("blurred", "edges", (struct stencil){1, widen, sobel});
    return 0;
}
