/* account.h - what the time goes into, counted while somebody traces: else each of these costs one branch that is never
 * taken, and no clock is read. */
#ifndef CWASI_ACCOUNT_H
#define CWASI_ACCOUNT_H

#include "internal.h"

enum { SHORT_COPY = 1024 };   /* bytes; a shorter copy takes less time than to look at the clock */

/* Which trace it is of those that this process has seen, 0 while nobody does. */
extern atomic_u32 accounting;

/* A call into the data plane; began is 0 where it is not counted. */
typedef struct {
    int64_t began;
    uint64_t waited, copied;   /* what the thread had spent before, in ns */
} account;

static inline int is_accounting(void)
{
    return __builtin_expect(load_relaxed(&accounting) != 0, 0);
}

/* Now, or 0 where nothing is counted. */
static inline int64_t account_clock(void)
{
    return is_accounting() ? now_ns() : 0;
}

static inline int64_t account_clock_of_copy(uint64_t length)
{
    return length >= SHORT_COPY ? account_clock() : 0;
}

/* This thread has waited, or copied, since then; 0 is no time. */
void account_waited(int64_t since);
void account_copied(int64_t since);

account account_open(void);
/* The call is over: for the function that made it, unless it is part of a hostcall, which is one call in all. */
void account_close(const account *a, cwasi_channel *c);
/* A hostcall begins and ends, on this thread. */
account account_open_hostcall(void);
void account_close_hostcall(const account *a);
/* The function on this thread, which is another one from now on. */
void account_leave_function(uint32_t id);

/* ---- statistics.c: the file in which a tracer finds it ---- */
/* Where an end of a channel stands in it: its number from 1 on, and above that which table of this process, since a
 * forked child has another; 0: nowhere. Set by who describes the end, while others may use it. */
typedef atomic_u64 statistics_row;

/* Adds to a function; nothing where there is no table. */
void statistics_add_time(uint32_t id, uint64_t ns);
void statistics_add_call(uint32_t id, uint64_t ns, uint64_t waited, uint64_t copied);
/* Adds to an end of a channel, and says what it has counted. */
void statistics_tell(uint64_t row, uint32_t id, uint64_t ns, uint64_t waited, uint64_t copied, cwasi_channel *c);

/* ---- attribution.c ---- */
/* The function on this thread, of which the newest tracer is told, too. */
uint32_t attribution_current(void);

/* ---- channel.c ---- */
statistics_row *channel_row(cwasi_channel *c);

#endif
