/* What a guest may ask for: each pointer, length, name and handle at its extremes, with a runtime of our own in the
 * place of wasmtime. The guest's memory is exactly as long as it says, so that a byte too many is seen. */
#include "test.h"

enum { SIZE = 3 * 4096 };
enum { E_AGAIN = -6, E_BADF = -8, E_FAULT = -21, E_INVAL = -28, E_MSGSIZE = -35, E_PIPE = -64, E_NOTCAPABLE = -76 };

typedef struct {
    union {
        uint32_t i32;
        uint64_t i64;
        uint8_t bytes[16];
    };
} value;

typedef void *(*callback)(void *env, void *caller, void *values, size_t count);

static uint8_t *memory;
static size_t memory_size;
static int exported = 1, kind = 3, trapped, context, other_context;

static void *caller_context(void *caller)
{
    return caller;
}

static _Bool export_get(void *caller, const char *name, size_t length, void *item)
{
    (void)caller;
    CHECK(length == 6 && memcmp(name, "memory", 6) == 0);
    memset(item, 0, 32);
    *(uint8_t *)item = (uint8_t)kind;
    return (_Bool)exported;
}

static uint8_t *data_of(void *c, const void *m)
{
    (void)m;
    CHECK(c == &context);
    return memory;
}

static size_t size_of(void *c, const void *m)
{
    (void)c;
    (void)m;
    return memory_size;
}

static void *trap_new(const char *message, size_t length)
{
    CHECK(strlen(message) == length);
    return &trapped;
}

static const cwasi_wasmtime RUNTIME = {caller_context, export_get, data_of, size_of, trap_new};
static cwasi_guest *guest;

static int32_t ask_from(void *caller, const char *name, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    for (const cwasi_import *i = cwasi_imports(); i->name; i++) {
        if (strcmp(i->name, name) != 0)
            continue;
        /* The upper halves of raw values are not ours to trust. */
        value v[4] = {{{.i64 = a}}, {{.i64 = b}}, {{.i64 = c}}, {{.i64 = d}}};
        for (int n = 0; n < 4; n++)
            v[n].i64 |= UINT64_C(0xdead) << 32;
        void *trap = ((callback)i->callback)(guest, caller, v, (size_t)MAX(i->parameters, 1));
        if (trap == &trapped)
            return INT32_MIN;
        CHECK(trap == NULL && v[0].i64 <= UINT32_MAX);
        return (int32_t)v[0].i32;
    }
    CHECK(!"no such import");
    return 0;
}

static int32_t ask(const char *name, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    return ask_from(&context, name, a, b, c, d);
}

static int32_t open_name(const char *name, uint32_t flags)
{
    memcpy(memory + 100, name, strlen(name));
    return ask("channel_open", 100, (uint32_t)strlen(name), flags, 0);
}

static void check_names(const char *longest)
{
    CHECK_EQ(open_name("in", CWASI_SENDER), E_NOTCAPABLE);
    CHECK_EQ(open_name("ou", CWASI_SENDER), E_NOTCAPABLE);
    CHECK_EQ(open_name("outer", CWASI_SENDER), E_NOTCAPABLE);
    CHECK_EQ(open_name("", CWASI_SENDER), E_INVAL);
    CHECK_EQ(open_name("out", 0), E_INVAL);
    CHECK_EQ(open_name("out", 3), E_INVAL);
    CHECK_EQ(open_name("out", UINT32_MAX), E_INVAL);
    CHECK_EQ(ask("channel_open", 0, CWASI_NAME_MAX + 1, 1, 0), E_INVAL);
    CHECK_EQ(ask("channel_open", SIZE - 2, 3, 1, 0), E_FAULT);
    CHECK_EQ(ask("channel_open", UINT32_MAX, 3, 1, 0), E_FAULT);
    CHECK_EQ(ask("channel_open", 0, UINT32_MAX, 1, 0), E_FAULT);
    memset(memory, 0, 64);
    CHECK_EQ(ask("channel_open", 0, 3, 1, 0), E_NOTCAPABLE);   /* zeroes are no name */
    /* Not yet opened, though granted. */
    for (uint32_t h = 0; h < 5; h++)
        CHECK_EQ(ask("channel_send", h, 0, 0, 0), E_BADF);
    CHECK_EQ(open_name("out", CWASI_SENDER), 0);
    CHECK_EQ(open_name("in", CWASI_RECEIVER), 1);
    CHECK_EQ(open_name(longest, CWASI_SENDER), 2);
    CHECK_EQ(open_name("out", CWASI_SENDER), 0);
}

static void check_handles(void)
{
    static const uint32_t bad[] = {3, 4, 1000, INT32_MAX, UINT32_C(1) << 31, UINT32_MAX};
    for (size_t i = 0; i < 6; i++) {
        CHECK_EQ(ask("channel_send", bad[i], 0, 0, 0), E_BADF);
        CHECK_EQ(ask("channel_recv", bad[i], 0, 0, 0), E_BADF);
        CHECK_EQ(ask("channel_peek", bad[i], 0, 0, 0), E_BADF);
        CHECK_EQ(ask("channel_mode", bad[i], 0, 0, 0), E_BADF);
        CHECK_EQ(ask("channel_close", bad[i], 0, 0, 0), E_BADF);
    }
    CHECK_EQ(ask("channel_send", 1, 0, 0, 0), E_BADF);   /* the other direction */
    CHECK_EQ(ask("channel_recv", 0, 0, 0, 0), E_BADF);
    CHECK_EQ(ask("channel_peek", 0, 0, 0, 0), E_BADF);
    CHECK_EQ(ask("channel_mode", 0, 0, 0, 0), 1);
    CHECK_EQ(ask("channel_mode", 1, 0, 0, 0), 0);
}

static void check_pointers(void)
{
    static const uint32_t bad[][2] = {
        {0, SIZE + 1}, {SIZE, 1}, {SIZE - 1, 2}, {SIZE + 1, 0}, {UINT32_MAX, 0}, {UINT32_MAX, 1}, {UINT32_MAX, UINT32_MAX},
        {1, UINT32_MAX}, {UINT32_C(1) << 31, UINT32_C(1) << 31}, {UINT32_MAX - 7, 8}, {8, UINT32_MAX - 7},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(ask("channel_send", 0, bad[i][0], bad[i][1], 0), E_FAULT);
        CHECK_EQ(ask("channel_recv", 1, bad[i][0], bad[i][1], 0), E_FAULT);
    }
    CHECK_EQ(ask("channel_send", 0, SIZE, 0, 0), 0);
    CHECK_EQ(ask("channel_peek", 1, 0, 0, 0), 0);
    CHECK_EQ(ask("channel_recv", 1, SIZE, 0, 0), 0);
    fill(memory, SIZE, 1);
    CHECK_EQ(ask("channel_send", 0, 0, SIZE, 0), 0);
    memset(memory, 0, SIZE);
    CHECK_EQ(ask("channel_recv", 1, 1, SIZE - 1, 0), E_MSGSIZE);
    CHECK_EQ(ask("channel_peek", 1, 0, 0, 0), SIZE);
    CHECK_EQ(ask("channel_recv", 1, 0, SIZE, 0), SIZE);
    CHECK(filled(memory, SIZE, 1));
    CHECK_EQ(ask("channel_recv", 1, 0, SIZE, 0), E_AGAIN);
    CHECK_EQ(ask("channel_recv", 1, 0, SIZE, (uint32_t)-2), E_INVAL);
    CHECK_EQ(ask("channel_peek", 1, UINT32_C(1) << 31, 0, 0), E_INVAL);
    CHECK_EQ(ask("channel_send", 0, 0, 1, (uint32_t)-2), E_INVAL);
}

static void check_memories(void)
{
    /* It moved and grew; it shrank to nothing; it is no memory; it is not there. */
    free(memory);
    memory = calloc(1, memory_size = 2 * SIZE);
    CHECK_EQ(ask("channel_send", 0, 2 * SIZE - 4, 4, 0), 0);
    CHECK_EQ(ask("channel_recv", 1, 2 * SIZE - 4, 4, 0), 4);
    memory_size = 0;
    CHECK_EQ(ask("channel_send", 0, 0, 1, 0), E_FAULT);
    memory_size = 2 * SIZE;
    kind = 0;
    CHECK_EQ(ask("channel_send", 0, 0, 1, 0), E_FAULT);
    kind = 3;
    exported = 0;
    CHECK_EQ(ask("channel_recv", 1, 0, 1, 0), E_FAULT);
    CHECK_EQ(ask("channel_open", 0, 1, 1, 0), E_FAULT);
    uint64_t handle[3] = {1, 2, 3};
    CHECK_EQ(cwasi_guest_set_memory(guest, handle), 0);
    CHECK_EQ(ask("channel_recv", 1, 0, 1, 0), E_AGAIN);
    CHECK_EQ(ask_from(&other_context, "channel_recv", 1, 0, 1, 0), INT32_MIN);
}

int main(void)
{
    char longest[CWASI_NAME_MAX + 2] = {0};
    test_begin(20);
    pair p = ring_pair(64 * 1024), q = ring_pair(4096);
    memory = calloc(1, memory_size = SIZE);
    CHECK_EQ(cwasi_guest_new(&RUNTIME, &context, &guest), 0);
    memset(longest, 'x', CWASI_NAME_MAX + 1);
    CHECK_EQ(cwasi_guest_grant(guest, longest, q.tx, 0), -EINVAL);
    CHECK_EQ(cwasi_guest_grant(guest, "", q.tx, 0), -EINVAL);
    longest[CWASI_NAME_MAX] = 0;
    CHECK_EQ(cwasi_guest_grant(guest, "out", p.tx, 1), 0);
    CHECK_EQ(cwasi_guest_grant(guest, "in", p.rx, 0), 0);
    CHECK_EQ(cwasi_guest_grant(guest, longest, q.tx, 0), 0);
    check_names(longest);
    check_handles();
    check_pointers();
    check_memories();
    exported = 1;
    CHECK_EQ(ask("channel_close", 0, 0, 0, 0), 0);
    CHECK_EQ(ask("channel_close", 0, 0, 0, 0), E_BADF);
    CHECK_EQ(ask("channel_send", 0, 0, 0, 0), E_BADF);
    CHECK_EQ(open_name("out", CWASI_SENDER), E_PIPE);
    CHECK_EQ(ask("channel_recv", 1, 0, 1, 0), E_PIPE);
    cwasi_guest_free(guest);
    cwasi_guest_free(NULL);
    free(memory);
    free_pair(p);
    free_pair(q);
    return 0;
}
