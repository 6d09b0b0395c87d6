/* account.c - what the time of a thread goes into: waiting, copying, and the rest of its calls into the data plane. */
#include "account.h"

atomic_u32 accounting;

static _Thread_local uint64_t waited, copied;   /* ns that this thread has spent */
static _Thread_local int in_hostcall;
static _Thread_local int64_t settled;           /* until when the time of its function is counted; 0: not yet */
static _Thread_local uint32_t settled_in;       /* which trace */

void account_waited(int64_t since)
{
    if (since)
        waited += (uint64_t)(now_ns() - since);
}

void account_copied(int64_t since)
{
    if (since)
        copied += (uint64_t)(now_ns() - since);
}

/* What has passed is that function's. So it is seen while the function runs, too. from: where nobody counted yet. */
static void settle(uint32_t id, int64_t from, int64_t now)
{
    uint32_t trace = load_relaxed(&accounting);
    if (settled_in != trace)   /* what lies between two traces is in none */
        settled = 0;
    settled_in = trace;
    if (id)
        statistics_add_time(id, (uint64_t)(now - (settled ? settled : from)));
    settled = now;
}

account account_open(void)
{
    if (!is_accounting())
        return (account){0};
    return (account){now_ns(), waited, copied};
}

static void count_call(const account *a, int64_t now)
{
    uint32_t id = attribution_current();
    settle(id, a->began, now);
    if (id)
        statistics_add_call(id, (uint64_t)(now - a->began), waited - a->waited, copied - a->copied);
}

void account_close(const account *a, cwasi_channel *c)
{
    int64_t now = now_ns();
    uint64_t row = load_relaxed(channel_row(c));
    if (row)
        statistics_tell(row, attribution_current(), (uint64_t)(now - a->began), waited - a->waited, copied - a->copied,
                        c);
    if (!in_hostcall)
        count_call(a, now);
}

account account_open_hostcall(void)
{
    account a = account_open();
    in_hostcall = a.began != 0;
    return a;
}

void account_close_hostcall(const account *a)
{
    in_hostcall = 0;
    count_call(a, now_ns());
}

void account_leave_function(uint32_t id)
{
    int64_t now = now_ns();
    settle(id, now, now);
}
