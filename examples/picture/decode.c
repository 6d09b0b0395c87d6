/* decode [frames [rows [interval_us]]] - the picture on stdin -> "rgb", `frames` times, in bands of `rows` rows.
 *
 * With an interval the bands leave at start + k * interval, so that latency can be measured without a queue. */
#define _POSIX_C_SOURCE 200809L /* clock_nanosleep, also with -std=c11 */
#define STAGE "decode"
#include "picture.h"

#include <time.h>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_PNM
#define STBI_NO_STDIO
#define STBI_NO_THREAD_LOCALS
#define STBI_FAILURE_USERMSG
#define STBI_MAX_DIMENSIONS MAX_SIDE
#include <stb/stb_image.h>

enum { STB_BUFFER = 128 };  /* stb_image reads this much ahead; a short read of more than that is a cut file */

static int cut_short;

static int read_stdin(void *user, char *data, int size)
{
    (void)user;
    int n = (int)fread(data, 1, (size_t)size, stdin);
    if (n < size && (n == 0 || size > STB_BUFFER))
        cut_short = 1;
    return n;
}

static void skip_stdin(void *user, int size)
{
    (void)user;
    while (size-- > 0 && getchar() != EOF)
        ;
}

static int end_of_stdin(void *user)
{
    (void)user;
    return feof(stdin) || ferror(stdin);
}

static const uint8_t *read_picture(int *width, int *height)
{
    static char buffer[1 << 16];
    setvbuf(stdin, buffer, _IOFBF, sizeof buffer);
    stbi_io_callbacks callbacks = {read_stdin, skip_stdin, end_of_stdin};
    int channels;
    const uint8_t *pixels = stbi_load_from_callbacks(&callbacks, NULL, width, height, &channels, 3);
    if (ferror(stdin))
        die("cannot read stdin");
    if (!pixels)
        die("stdin is not a picture that stb_image can read: %s", stbi_failure_reason());
    if (cut_short || *width < 1 || *height < 1) /* stb_image would show the missing rest as grey */
        die("stdin is not a picture that stb_image can read: the file is cut short or empty");
    if (*width > MAX_SIDE || *height > MAX_SIDE)
        die("the picture is %dx%d: the most is %dx%d", *width, *height, MAX_SIDE, MAX_SIDE);
    return pixels;
}

static void sleep_until(struct timespec start, uint64_t microseconds)
{
    uint64_t nanoseconds = (uint64_t)start.tv_nsec + microseconds % 1000000 * 1000;
    start.tv_sec += (time_t)(microseconds / 1000000 + nanoseconds / 1000000000);
    start.tv_nsec = (long)(nanoseconds % 1000000000);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &start, NULL);
}

int main(int argc, char **argv)
{
    if (argc > 4)
        die("usage: decode [frames [rows [interval_us]]] <picture");
    uint32_t frames = argc > 1 ? number(argv[1], "frames", 1, UINT32_MAX) : 1;
    uint32_t rows = argc > 2 ? number(argv[2], "rows", 1, MAX_SIDE) : 16;
    uint32_t interval = argc > 3 ? number(argv[3], "interval_us", 0, UINT32_MAX) : 0;
    struct output out = open_output("rgb");
    int width, height;
    const uint8_t *picture = read_picture(&width, &height);
    struct band header = {.width = (uint32_t)width, .height = (uint32_t)height, .channels = 3};
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);

    uint64_t sent = 0;
    for (header.frame = 0; header.frame < frames; header.frame++) {
        for (header.row = 0; header.row < header.height; header.row += header.rows, sent++) {
            header.rows = header.height - header.row < rows ? header.height - header.row : rows;
            size_t stride = (size_t)header.width * 3;
            memcpy(start_band(&out, header)->pixels, picture + header.row * stride, header.rows * stride);
            if (interval)
                sleep_until(start, sent * interval);
            send_band(&out);
        }
    }
    cwasi_close(out.handle);
    return 0;
}
