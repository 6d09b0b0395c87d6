/* observe.c - what many ends have counted, in one call: for who looks at all of them several times a second. */
#include "internal.h"

enum { STEPS = 16 };   /* of an octave of the histogram */

/* The times of all messages that were timed, each as the middle of its bucket. */
static double sum_of_times(const cwasi_channel *c)
{
    uint64_t histogram[CWASI_HISTOGRAM_BUCKETS];
    cwasi_channel_histogram(c, histogram);
    double sum = 0, octave = 1;
    for (int i = 0; i < CWASI_HISTOGRAM_BUCKETS; i += STEPS, octave *= 2) {
        for (int step = 0; step < STEPS; step++)
            sum += (double)histogram[i + step] * octave * (1 + (step + 0.5) / STEPS);
    }
    return sum;
}

void cwasi_observe(cwasi_channel **ends, unsigned count, cwasi_observed *out)
{
    for (unsigned i = 0; i < count; i++) {
        cwasi_stats counted;
        cwasi_channel_stats(ends[i], &counted);
        double times = counted.timed ? sum_of_times(ends[i]) : 0;
        out[i] = (cwasi_observed){
            counted.messages, counted.bytes, counted.waits, counted.parks, counted.timed, times,
        };
    }
}
