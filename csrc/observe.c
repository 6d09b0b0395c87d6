/* observe.c - what many ends have counted, in one call: for who looks at all of them several times a second. */
#include "internal.h"

void cwasi_observe(cwasi_channel **ends, unsigned count, cwasi_observed *out)
{
    for (unsigned i = 0; i < count; i++) {
        cwasi_stats counted;
        cwasi_channel_stats(ends[i], &counted);
        out[i] = (cwasi_observed){
            counted.messages, counted.bytes, counted.waits, counted.parks, counted.timed, channel_timed_ns(ends[i]),
        };
    }
}
