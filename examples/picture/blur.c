/* blur - "grey" -> "blurred": a gaussian of 5x5, (1 4 6 4 1) both ways, in 1/256. */
#define STAGE "blur"
#include "stencil.h"

static void across(uint16_t *restrict kept, const uint8_t *padded, uint32_t width)
{
    const uint8_t *a = padded, *b = SHIFTED(a, 1), *c = SHIFTED(a, 2), *d = SHIFTED(a, 3), *e = SHIFTED(a, 4);
    for (uint32_t x = 0; x < width; x++)
        kept[x] = (uint16_t)(a[x] + 4 * b[x] + 6 * c[x] + 4 * d[x] + e[x]);
}

static void down(uint8_t *restrict pixels, const uint16_t *const *kept, uint32_t width)
{
    const uint16_t *a = kept[0], *b = kept[1], *c = kept[2], *d = kept[3], *e = kept[4];
    for (uint32_t x = 0; x < width; x++) { /* at most 256 * 255 + 128: it fits */
        uint16_t sum = (uint16_t)(a[x] + 4 * b[x] + 6 * c[x] + 4 * d[x] + e[x] + 128);
        pixels[x] = (uint8_t)(sum >> 8);
    }
}

int main(void)
{
    run_stencil("grey", "blurred", (struct stencil){2, across, down});
    return 0;
}
