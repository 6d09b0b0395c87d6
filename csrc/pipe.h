/* pipe.h - what the parts of a pipe share: pipe.c, pipe_sender.c, pipe_staging.c and pipe_reader.c. */
#ifndef CWASI_PIPE_H
#define CWASI_PIPE_H

#include "internal.h"

enum {
    PIPE_CAPACITY = 1 << 20,        /* bytes that are wanted in each; a smaller pipe works too */
    PIPE_CHUNK = 128 * 1024,        /* bytes of a large message that are lent at a time */
    STAGING_SIZE = 2 << 20,         /* bytes, one huge page: as much as a pipe holds, and what is being filled */
    STAGING_PAGES = STAGING_SIZE / PAGE,
    FINISHED = 'f',                 /* what a reader says when it leaves in order */
};

/* A reader, as its sender knows it. */
typedef struct {
    int fd;                 /* the pipe to it; -1 once it is left behind */
    int back;               /* what it says when it leaves, and a hang-up when it ends; -1: opened without */
    int gone;               /* 0, or the error that it left with */
    atomic_u32 died;        /* somebody has said so */
} pipe_peer;

typedef struct {
    endpoint base;
    int wake_fd;            /* readable once there is news: the end was stopped, or a reader died */
    int begun;              /* bytes of the frame that is being sent have gone */
    uint64_t put;           /* bytes that each of the readers has been given */
    uint8_t *staging;       /* NULL while there is none */
    unsigned at;            /* the page that is used next */
    int keeper;             /* a reader has left that may have kept pages of it */
    uint64_t consumed;      /* of the bytes put, how many all are known to have read */
    uint64_t until[STAGING_PAGES];  /* what `put` was when the page had been lent */
    unsigned peers;
    pipe_peer peer[];
} pipe_sender;

/* ---- pipe.c ---- */
/* Waits until `fd` may go on, or there is news; 0 or -errno. */
int pipe_wait(endpoint *e, int fd, int wake_fd, deadline until);

/* ---- pipe_sender.c ---- */
/* peers: with fd, the rest 0 or -1. */
int pipe_sender_new(const pipe_peer *peers, unsigned count, endpoint **out);

/* ---- pipe_staging.c ---- */
/* Memory for a chunk of so many bytes, that nobody has to read any more; NULL: no memory. */
uint8_t *staging_chunk(pipe_sender *p, size_t length);
/* It was lent to all readers, and counts in `put`. */
void staging_lent(pipe_sender *p, size_t length);
void staging_close(pipe_sender *p);

/* ---- pipe_reader.c ---- */
int pipe_reader_new(int fd, int back, endpoint **out);

#endif
