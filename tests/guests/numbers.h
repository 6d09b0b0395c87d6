/* numbers.h - messages of numbers, which filler sends and summer checks. */
#include <cwasi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint32_t number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 10);
}

static int32_t must(int32_t rc)
{
    if (rc < 0) {
        fprintf(stderr, "failed with %d\n", rc);
        exit(1);
    }
    return rc;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* The sum tells which message it was and that all of it is there. */
__attribute__((unused)) static void fill(uint8_t *to, uint32_t size, uint32_t seed)
{
    uint64_t *words = (uint64_t *)to;
    for (uint32_t i = 0; i < size / 8; i++)
        words[i] = i + seed;
    for (uint32_t i = size / 8 * 8; i < size; i++)
        to[i] = (uint8_t)(seed + 1);
}

__attribute__((unused)) static uint64_t sum(const uint8_t *from, uint32_t size)
{
    const uint64_t *words = (const uint64_t *)from;
    uint64_t total = 0;
    for (uint32_t i = 0; i < size / 8; i++)
        total += words[i];
    for (uint32_t i = size / 8 * 8; i < size; i++)
        total += from[i];
    return total;
}

__attribute__((unused)) static uint64_t expected_sum(uint32_t size, uint32_t seed)
{
    uint64_t n = size / 8, words = n ? n * (n - 1) / 2 + n * seed : 0;
    return words + size % 8 * (uint8_t)(seed + 1);
}
