/* encode [jpg|png] - "edges" -> the last frame on stdout, and the CRC-32 of all rows of all frames on stderr. */
#define STAGE "encode"
#include "picture.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

enum { JPEG_QUALITY = 90 };

static uint32_t crc_table[8][256];

static void crc_prepare(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
        crc_table[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

/* Eight bytes a step; wasm is little-endian. */
static uint32_t crc_add(uint32_t crc, const uint8_t *data, size_t size)
{
    uint32_t (*t)[256] = crc_table;
    for (crc = ~crc; size >= 8; size -= 8, data += 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= crc;
        crc = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24]
            ^ t[3][high & 255] ^ t[2][high >> 8 & 255] ^ t[1][high >> 16 & 255] ^ t[0][high >> 24];
    }
    for (; size; size--, data++)
        crc = crc >> 8 ^ t[0][(crc ^ *data) & 255];
    return ~crc;
}

static void write_stdout(void *user, void *data, int size)
{
    (void)user;
    fwrite(data, 1, (size_t)size, stdout); /* main looks at ferror */
}

int main(int argc, char **argv)
{
    int png = argc > 1 && !strcmp(argv[1], "png");
    if (argc > 2 || (argc == 2 && !png && strcmp(argv[1], "jpg")))
        die("usage: encode [jpg|png] >picture");
    struct input in = open_input("edges", 1);
    uint8_t *picture = NULL;
    uint32_t crc = 0;
    crc_prepare();
    for (const struct band *b; (b = receive_band(&in));) {
        size_t size = (size_t)b->width * b->rows;
        if (!picture && !(picture = malloc((size_t)b->width * b->height)))
            die("out of memory: a frame of %ux%u", b->width, b->height);
        memcpy(picture + (size_t)b->row * b->width, b->pixels, size);
        crc = crc_add(crc, b->pixels, size);
    }
    if (!picture)
        die("the stream ended before the first frame");

    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    int width = (int)in.width, height = (int)in.height;
    int written = png ? stbi_write_png_to_func(write_stdout, NULL, width, height, 1, picture, width)
                      : stbi_write_jpg_to_func(write_stdout, NULL, width, height, 1, picture, JPEG_QUALITY);
    if (!written)
        die("out of memory: cannot encode a frame of %dx%d", width, height);
    if (fflush(stdout) || ferror(stdout))
        die("cannot write the picture to stdout");
    fprintf(stderr, "encode: %u frames of %dx%d, crc32 %08x\n", in.frame, width, height, crc);
    return 0;
}
