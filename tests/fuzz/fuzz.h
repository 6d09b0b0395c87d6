/* fuzz.h - a case is a string of bytes, taken from its front; after its end come zeros. */
#ifndef CWASI_FUZZ_H
#define CWASI_FUZZ_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const uint8_t *at, *end;
} bytes;

static inline uint64_t take(bytes *from, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count && from->at < from->end; i++)
        value |= (uint64_t)*from->at++ << 8 * i;
    return value;
}

/* What an end may answer, however its peer behaves; anything else ends the campaign. */
static inline void known_result(int64_t rc)
{
    if (rc >= 0 || rc == -EAGAIN || rc == -ETIMEDOUT || rc == -EPIPE || rc == -ECONNRESET || rc == -EBADMSG ||
        rc == -EMSGSIZE || rc == -EREMCHG)
        return;
    fprintf(stderr, "unknown result: %lld\n", (long long)rc);
    abort();
}

/* What libFuzzer calls, or standalone.c where there is none. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
