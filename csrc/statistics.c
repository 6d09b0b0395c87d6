/* statistics.c - the file in which a tracer finds what the functions and the ends of channels of this process counted.
 *
 * Its layout is cwasi_statistics. Written by us, read by the tracer, which believes none of it: what stands there may
 * misname what we did, and nobody else.
 */
#include "account.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

static _Atomic(cwasi_statistics *) shared;
static int table_fd = -1;
static uint32_t tables;   /* that this process, and who forked it, had before */
static uint32_t traces;   /* likewise */
static pthread_mutex_t rows = PTHREAD_MUTEX_INITIALIZER;   /* for who describes ends */

_Static_assert(sizeof(cwasi_function_statistics) % 8 == 0 && sizeof(cwasi_end_statistics) % 8 == 0, "no padding");

/* Pairs with the store in cwasi_statistics_create: who sees it sees what is in it. Kept until the process ends. */
static cwasi_statistics *find_table(void)
{
    return load_acquire(&shared);
}

/* The numbers have several writers, and readers that may come at any time. */
static void add(uint64_t *counter, uint64_t value)
{
    add_relaxed((atomic_u64 *)counter, value);
}

static void set(uint64_t *counter, uint64_t value)
{
    store_relaxed((atomic_u64 *)counter, value);
}

/* A forked child has our parent's file: it is not for it to write there. */
static void forget(void)
{
    pthread_mutex_init(&rows, NULL);   /* another thread may have had it */
    store_relaxed(&accounting, 0);
    if (find_table())
        munmap(find_table(), sizeof(cwasi_statistics));
    store_relaxed(&shared, NULL);
    if (table_fd >= 0)
        close(table_fd);
    table_fd = -1;
}

static int create_table(void)
{
    static int watches_forks;
    int fd = memfd_create("cwasi-statistics", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    void *memory = MAP_FAILED;
    if (ftruncate(fd, sizeof(cwasi_statistics)) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0)
        memory = mmap(NULL, sizeof(cwasi_statistics), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        int error = errno;
        close(fd);
        return -error;
    }
    cwasi_statistics *table = memory;
    table->magic = CWASI_STATISTICS_MAGIC;
    table->version = CWASI_STATISTICS_VERSION;
    tables++;
    if (!watches_forks)
        pthread_atfork(NULL, NULL, forget);
    watches_forks = 1;
    store_release(&shared, table);   /* pairs with find_table */
    table_fd = fd;
    return 0;
}

int cwasi_statistics_create(void)
{
    int rc = find_table() ? 0 : create_table();
    if (rc < 0)
        return rc;
    int fd = fcntl(table_fd, F_DUPFD_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

void cwasi_statistics_begin(void)
{
    store_relaxed(&accounting, ++traces);
}

void cwasi_statistics_stop(void)
{
    store_relaxed(&accounting, 0);
}

static void put_text(char *to, size_t room, const char *text)
{
    size_t length = strnlen(text, room - 1);
    memcpy(to, text, length);
    memset(to + length, 0, room - length);
}

static void put_counts(cwasi_end_statistics *end, cwasi_channel *c)
{
    cwasi_stats counted;
    cwasi_channel_stats(c, &counted);
    set(&end->messages, counted.messages);
    set(&end->bytes, counted.bytes);
    set(&end->copied_bytes, counted.copied_bytes);
    set(&end->waits, counted.waits);
    set(&end->parks, counted.parks);
    set(&end->wakes, counted.wakes);
    set(&end->timed, counted.timed);
    set(&end->timed_ns, channel_timed_ns(c));
}

static int describe(cwasi_statistics *table, cwasi_channel *c, const char *channel, const char *peers,
                    const char *transport)
{
    statistics_row *row = channel_row(c);
    uint64_t now = load_relaxed(row);
    int fresh = now >> 32 != tables;
    if (fresh && table->ends == CWASI_ENDS_MAX) {
        table->missed++;
        return -ENOSPC;
    }
    uint32_t number = fresh ? table->ends + 1 : (uint32_t)now;
    cwasi_end_statistics *end = &table->end[number - 1];
    put_text(end->channel, sizeof end->channel, channel);
    put_text(end->peers, sizeof end->peers, peers);
    put_text(end->transport, sizeof end->transport, transport);
    end->role = (uint32_t)channel_role(c);
    end->mode = cwasi_channel_mode(c);
    if (is_accounting() && !fresh)
        return 0;
    /* Else a tracer that comes now would take for new what was counted before, or while nobody traced. */
    put_counts(end, c);
    if (!fresh)
        return 0;
    table->ends = number;
    store_relaxed(row, (uint64_t)tables << 32 | number);
    return 0;
}

int cwasi_statistics_end(cwasi_channel *c, const char *channel, const char *peers, const char *transport)
{
    cwasi_statistics *table = find_table();
    if (!table)
        return -EINVAL;
    pthread_mutex_lock(&rows);
    int rc = describe(table, c, channel, peers, transport);
    pthread_mutex_unlock(&rows);
    return rc;
}

void statistics_add_time(uint32_t id, uint64_t ns)
{
    cwasi_statistics *table = find_table();
    if (table)
        add(&table->functions[id % CWASI_FUNCTIONS_MAX].ns, ns);
}

void statistics_add_call(uint32_t id, uint64_t ns, uint64_t waited, uint64_t copied)
{
    cwasi_statistics *table = find_table();
    if (!table)
        return;
    cwasi_function_statistics *f = &table->functions[id % CWASI_FUNCTIONS_MAX];
    add(&f->calls, 1);
    add(&f->calls_ns, ns);
    add(&f->waited_ns, waited);
    add(&f->copying_ns, copied);
}

void statistics_tell(uint64_t row, uint32_t id, uint64_t ns, uint64_t waited, uint64_t copied, cwasi_channel *c)
{
    cwasi_statistics *table = find_table();
    if (!table || row >> 32 != tables)
        return;
    cwasi_end_statistics *end = &table->end[(uint32_t)row - 1];
    /* One thread at a time is inside an end. */
    end->function = id;
    end->mode = cwasi_channel_mode(c);
    set(&end->calls, end->calls + 1);
    set(&end->calls_ns, end->calls_ns + ns);
    set(&end->waited_ns, end->waited_ns + waited);
    set(&end->copying_ns, end->copying_ns + copied);
    put_counts(end, c);
}
