/* observe.c - what many ends have counted, in one call: for who looks at all of them several times a second. */
#include "internal.h"

#include <string.h>

/* Whoever is kept from running while he reads has counters of different times: so they are read again while messages
 * are counted, a few times, as there may always be more. */
static cwasi_stats counted_at_once(cwasi_channel *end)
{
    cwasi_stats counted, again;
    cwasi_channel_stats(end, &counted);
    for (int tries = 0; tries < 4; tries++) {
        cwasi_channel_stats(end, &again);
        if (again.messages == counted.messages)
            break;
        counted = again;
    }
    return counted;
}

static cwasi_observed observed(cwasi_channel *end)
{
    cwasi_observed row;
    if (!end) {
        memset(&row, 0xff, sizeof row);
        return row;
    }
    cwasi_stats counted = counted_at_once(end);
    row = (cwasi_observed){
        counted.messages, counted.bytes, counted.waits, counted.parks, counted.timed, channel_timed_ns(end),
    };
    return row;
}

_Static_assert(sizeof(cwasi_observed) == 6 * sizeof(uint64_t), "no padding, which would be compared");

unsigned cwasi_observe(cwasi_channel *const *ends, unsigned count, cwasi_observed *rows, unsigned *changed)
{
    unsigned news = 0;
    for (unsigned i = 0; i < count; i++) {
        cwasi_observed row = observed(ends[i]);
        if (memcmp(&row, &rows[i], sizeof row) != 0) {
            rows[i] = row;
            changed[news++] = i;
        }
    }
    return news;
}

unsigned cwasi_peek(cwasi_channel *const *ends, unsigned count, uint64_t *sent, const double *most, double seconds)
{
    unsigned found = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!ends[i])
            continue;
        uint64_t messages = observed(ends[i]).messages, more = messages - sent[i];
        sent[i] = messages;
        if (more)
            found |= 1;
        if ((double)more > most[i] * seconds)
            found |= 2;
    }
    return found;
}
