/* picture.h - what the stages of the picture pipeline share: the band message, and how to receive, send and fail.
 *
 * A frame travels as bands of whole rows from top to bottom. One message is one band: the header, then the pixels.
 * A file that includes this defines STAGE, its name in messages, first. */
#ifndef PICTURE_H
#define PICTURE_H

#include <cwasi.h>

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 16384 };                 /* a whole frame of RGB then fits in one message and in an int */
enum { BAND_MAGIC = 0x31646e62 };          /* "bnd1" */

struct band {
    uint32_t magic, frame, width, height;
    uint32_t row, rows;                    /* the first row, and how many */
    uint32_t channels;                     /* bytes a pixel */
    uint8_t pixels[];
};
_Static_assert(sizeof(struct band) == 28, "no padding: this is what is sent");

struct input {
    int32_t handle;
    uint32_t channels;                     /* what every band must have */
    uint32_t width, height;                /* of the first band: a stream has one size */
    uint32_t frame, row;                   /* where the next band must start */
    struct band *band;
    uint32_t room;
};

struct output {
    int32_t handle;
    struct band *band;
    uint32_t room;
};

__attribute__((format(printf, 1, 2))) static inline _Noreturn void die(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, STAGE ": %s\n", text);
    exit(1);
}

static inline const char *errno_name(int32_t error)
{
    switch (error < 0 ? -error : error) {
    case CWASI_EAGAIN: return "EAGAIN";
    case CWASI_EBADF: return "EBADF";
    case CWASI_EBUSY: return "EBUSY";
    case CWASI_ECANCELED: return "ECANCELED";
    case CWASI_ECONNRESET: return "ECONNRESET";
    case CWASI_EFAULT: return "EFAULT";
    case CWASI_EINVAL: return "EINVAL";
    case CWASI_EIO: return "EIO";
    case CWASI_EMSGSIZE: return "EMSGSIZE";
    case CWASI_EPIPE: return "EPIPE";
    case CWASI_ETIMEDOUT: return "ETIMEDOUT";
    case CWASI_ENOTCAPABLE: return "ENOTCAPABLE";
    default: return "an unknown error";
    }
}

/* The number that an argument is, or a clear end. */
static inline uint32_t number(const char *text, const char *what, uint32_t least, uint32_t most)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < least || value > most)
        die("%s must be a number from %u to %u, not '%.40s'", what, least, most, text);
    return (uint32_t)value;
}

static inline int32_t open_channel(const char *name, uint32_t flags)
{
    int32_t handle = cwasi_open(name, (uint32_t)strlen(name), flags);
    if (handle < 0)
        die("cannot open channel '%s' to %s: %s", name, flags == CWASI_SEND ? "send" : "receive", errno_name(handle));
    return handle;
}

static inline struct input open_input(const char *name, uint32_t channels)
{
    return (struct input){.handle = open_channel(name, CWASI_RECEIVE), .channels = channels};
}

static inline struct output open_output(const char *name)
{
    return (struct output){.handle = open_channel(name, CWASI_SEND)};
}

/* Room for `size` bytes; what was in the buffer is lost. */
static inline void make_room(struct band **band, uint32_t *room, uint32_t size)
{
    if (size <= *room)
        return;
    free(*band);
    *band = malloc(size);
    if (!*band)
        die("out of memory: a band of %u bytes", size);
    *room = size;
}

/* The sender may be hostile: nothing of the header is used before it agrees with the length, the frame and the order. */
static inline void check_band(const struct input *in, uint32_t length)
{
    const struct band *b = in->band;
    if (length < sizeof *b)
        die("not a band: a message of %u bytes is shorter than the header", length);
    if (b->magic != BAND_MAGIC)
        die("not a band: magic %08x", b->magic);
    if (b->width < 1 || b->width > MAX_SIDE || b->height < 1 || b->height > MAX_SIDE)
        die("bad band: a frame of %ux%u", b->width, b->height);
    if (b->channels != in->channels)
        die("bad band: %u bytes a pixel, not %u", b->channels, in->channels);
    if (b->rows < 1 || b->rows > b->height || b->row > b->height - b->rows)
        die("bad band: %u rows from row %u in a frame of %u rows", b->rows, b->row, b->height);
    uint64_t pixels = (uint64_t)b->width * b->rows * b->channels;
    if (pixels != length - sizeof *b)
        die("bad band: %u bytes of pixels, not %llu", length - (uint32_t)sizeof *b, (unsigned long long)pixels);
    if (b->frame != in->frame || b->row != in->row)
        die("bad band: frame %u row %u, not frame %u row %u", b->frame, b->row, in->frame, in->row);
    if (in->width && (b->width != in->width || b->height != in->height))
        die("bad band: a frame of %ux%u in a stream of %ux%u", b->width, b->height, in->width, in->height);
}

/* The next band, valid until the next call; NULL when the stream ended after a whole frame. */
static inline const struct band *receive_band(struct input *in)
{
    int32_t length;
    while ((length = cwasi_recv(in->handle, in->band, in->room, -1)) == -CWASI_EMSGSIZE) {
        if ((length = cwasi_peek(in->handle, -1)) < 0)
            break;
        make_room(&in->band, &in->room, (uint32_t)length);
    }
    if (length == -CWASI_EPIPE && in->row == 0)
        return NULL;
    if (length == -CWASI_EPIPE)
        die("the stream ended inside frame %u, before row %u of %u", in->frame, in->row, in->height);
    if (length < 0)
        die("cannot receive frame %u row %u: %s", in->frame, in->row, errno_name(length));
    check_band(in, (uint32_t)length);
    in->width = in->band->width;
    in->height = in->band->height;
    in->row += in->band->rows;
    if (in->row == in->height) {
        in->row = 0;
        in->frame++;
    }
    return in->band;
}

/* An outgoing band, to be filled with pixels and given to send_band. */
static inline struct band *start_band(struct output *out, struct band header)
{
    header.magic = BAND_MAGIC;
    make_room(&out->band, &out->room, (uint32_t)sizeof header + header.width * header.rows * header.channels);
    *out->band = header;
    return out->band;
}

/* A receiver that closes between two frames has had enough: that is a good end, and the end of this stage. */
static inline void send_band(const struct output *out)
{
    const struct band *b = out->band;
    int32_t error = cwasi_send(out->handle, b, (uint32_t)sizeof *b + b->width * b->rows * b->channels, -1);
    if (error == -CWASI_EPIPE && b->row == 0)
        exit(0);
    if (error < 0)
        die("cannot send frame %u row %u: %s", b->frame, b->row, errno_name(error));
}

#endif
