/* copy.c - copies into memory that another core reads next.
 *
 * Ordinary stores leave the lines in our cache, from where the reader's core fetches them: the best there is between
 * cores that share a cache. Where they do not, each line travels slowly, and stores past the caches can be several times
 * as fast. Which it is depends on where the hypervisor has put us, so it is measured (calibrate.c).
 */
#include "account.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { LARGE = 64 * 1024 };   /* bytes in a message; a smaller one is read from the cache in any case */

static atomic_u32 past_caches;

void copy_choose(int past)
{
    store_relaxed(&past_caches, (uint32_t)past);
}

#if defined(__x86_64__)
static void copy_past_caches(uint8_t *to, const uint8_t *from, uint64_t length)
{
    uint64_t head = MIN(-(uintptr_t)to & 15, length), done = head;
    memcpy(to, from, head);
    for (; done + 64 <= length; done += 64) {
        const __m128i *source = (const __m128i *)(from + done);
        __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
        __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
        __m128i *target = (__m128i *)(to + done);
        _mm_stream_si128(target, a);
        _mm_stream_si128(target + 1, b);
        _mm_stream_si128(target + 2, c);
        _mm_stream_si128(target + 3, d);
    }
    memcpy(to + done, from + done, length - done);
    _mm_sfence();   /* they are ordered by nothing else, not even by the publication that follows */
}
#else
static void copy_past_caches(uint8_t *to, const uint8_t *from, uint64_t length)
{
    memcpy(to, from, length);
}
#endif

void copy_to_reader(uint8_t *to, const uint8_t *from, uint64_t length, uint64_t message)
{
    int64_t counted_from = account_clock_of_copy(length);
    if (message >= LARGE && load_relaxed(&past_caches))
        copy_past_caches(to, from, length);
    else
        memcpy(to, from, length);
    account_copied(counted_from);
}

void copy_here(void *to, const void *from, uint64_t length)
{
    int64_t counted_from = account_clock_of_copy(length);
    memcpy(to, from, length);
    account_copied(counted_from);
}

void copy_aside(uint8_t *to, const uint8_t *from, uint64_t length)
{
    int64_t counted_from = account_clock_of_copy(length);
    if (length >= LARGE)
        copy_past_caches(to, from, length);
    else
        memcpy(to, from, length);
    account_copied(counted_from);
}
