/* What a guest may ask for: each pointer, length, name and handle at its extremes, with a runtime of our own in the
 * place of wasmtime. The guest's memory is exactly as long as it says, so that a byte too many is seen. */
#include "test.h"

enum { SIZE = 3 * 4096 };
enum { E_AGAIN = -6, E_BADF = -8, E_BUSY = -10, E_FAULT = -21, E_INVAL = -28, E_MSGSIZE = -35, E_PIPE = -64, E_NOTCAPABLE = -76 };

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

static int32_t ask_all(void *caller, const char *name, const uint32_t *arguments, int count)
{
    for (const cwasi_import *i = cwasi_imports(); i->name; i++) {
        if (strcmp(i->name, name) != 0)
            continue;
        /* The upper halves of raw values are not ours to trust. */
        value v[6];
        for (int n = 0; n < 6; n++)
            v[n].i64 = (n < count ? arguments[n] : 0) | UINT64_C(0xdead) << 32;
        void *trap = ((callback)i->callback)(guest, caller, v, (size_t)MAX(i->parameters, 1));
        if (trap == &trapped)
            return INT32_MIN;
        CHECK(trap == NULL && v[0].i64 <= UINT32_MAX);
        return (int32_t)v[0].i32;
    }
    CHECK(!"no such import");
    return 0;
}

static int32_t ask_from(void *caller, const char *name, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    return ask_all(caller, name, (uint32_t[]){a, b, c, d}, 4);
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

static int32_t ask_call(uint32_t h, uint32_t data, uint32_t length, uint32_t buf, uint32_t cap, uint32_t ms)
{
    return ask_all(&context, "channel_call", (uint32_t[]){h, data, length, buf, cap, ms}, 6);
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

static int32_t wait_list(uint32_t count, const uint32_t *handles, uint32_t ms)
{
    memcpy(memory + SIZE - 4 * count, handles, 4 * count);   /* up to the last byte */
    return ask("channel_wait", SIZE - 4 * count, count, ms, 0);
}

/* Handles 3 (calls) and 4 (answers to two), and what a guest may do with them. */
static void check_calls(pair to, pair back, const pair *from, const pair *backs)
{
    static const uint32_t bad[][2] = {{0, SIZE + 1}, {SIZE, 1}, {SIZE + 1, 0}, {UINT32_MAX, 2}, {8, UINT32_MAX - 7}};
    uint8_t text[8];
    CHECK_EQ(open_name("ask", CWASI_SENDER), 3);
    CHECK_EQ(open_name("serve", CWASI_RECEIVER), 4);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(ask_call(3, bad[i][0], bad[i][1], 0, 1, 1), E_FAULT);
        CHECK_EQ(ask_call(3, 0, 1, bad[i][0], bad[i][1], 1), E_FAULT);
        CHECK_EQ(ask("channel_reply", bad[i][0], bad[i][1], 0, 0), E_FAULT);
        CHECK_EQ(ask("channel_wait", bad[i][0], 1 + bad[i][1] % 5, 0, 0), bad[i][0] > SIZE - 4 ? E_FAULT : E_BADF);
    }
    for (uint32_t h = 0; h < 6; h++)
        CHECK_EQ(ask_call(h, 0, 1, 0, 1, 0), h == 3 ? E_AGAIN : E_BADF);
    CHECK_EQ(ask_call(3, 0, 1, 0, 1, (uint32_t)-2), E_INVAL);
    CHECK_EQ(ask("channel_recv", 3, 0, 1, 0), E_INVAL);
    CHECK_EQ(cwasi_channel_recv(to.rx, text, 8, 0), -EAGAIN);

    /* The answer is there before the question. Buffers at the ends of the memory. */
    CHECK_EQ(cwasi_channel_send(back.tx, "answer", 6, 0), 0);
    memcpy(memory, "question", 8);
    CHECK_EQ(ask_call(3, 0, 8, SIZE - 6, 6, UINT32_MAX), 6);
    CHECK(memcmp(memory + SIZE - 6, "answer", 6) == 0);
    CHECK_EQ(cwasi_channel_recv(to.rx, text, 8, 0), 8);
    CHECK_EQ(cwasi_channel_send(back.tx, "answer", 6, 0), 0);
    CHECK_EQ(ask_call(3, 0, 8, SIZE - 5, 5, UINT32_MAX), E_MSGSIZE);
    CHECK_EQ(ask("channel_peek", 3, 0, 0, 0), 6);
    CHECK_EQ(ask("channel_recv", 3, SIZE - 6, 6, 0), 6);
    CHECK_EQ(ask("channel_recv", 3, SIZE - 6, 6, 0), E_INVAL);

    CHECK_EQ(ask("channel_reply", 0, 1, 0, 0), E_INVAL);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cwasi_channel_send(from[i].tx, i ? "b" : "a", 1, 0), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(ask("channel_recv", 4, SIZE - 1, 1, 0), 1);
        CHECK_EQ(ask("channel_recv", 4, SIZE - 1, 1, 0), E_BUSY);
        CHECK_EQ(ask("channel_reply", SIZE - 1, 1, 0, 0), 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(cwasi_channel_recv(backs[i].rx, text, 8, 0), 1);
        CHECK_EQ(*text, i ? 'b' : 'a');
    }
    CHECK_EQ(wait_list(3, (uint32_t[]){1, 3, 4}, 0), E_AGAIN);
    CHECK_EQ(wait_list(2, (uint32_t[]){1, 0}, 0), E_BADF);
    CHECK_EQ(wait_list(2, (uint32_t[]){4, 4}, 0), E_BUSY);
    CHECK_EQ(wait_list(1, (uint32_t[]){UINT32_MAX}, 0), E_BADF);
    CHECK_EQ(wait_list(1, (uint32_t[]){4}, (uint32_t)-2), E_INVAL);
    CHECK_EQ(ask("channel_wait", 0, 0, 0, 0), E_INVAL);
    CHECK_EQ(ask("channel_wait", 0, 6, 0, 0), E_INVAL);
    CHECK_EQ(ask("channel_wait", 0, UINT32_C(1) << 30, 0, 0), E_INVAL);
    CHECK_EQ(cwasi_channel_send(from[1].tx, "x", 1, 0), 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(wait_list(3, (uint32_t[]){3, 4, 1}, UINT32_MAX), 1);
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
    pair p = belled_pair(64 * 1024), q = ring_pair(4096);
    memory = calloc(1, memory_size = SIZE);
    CHECK_EQ(cwasi_guest_new(&RUNTIME, &context, &guest), 0);
    memset(longest, 'x', CWASI_NAME_MAX + 1);
    CHECK_EQ(cwasi_guest_grant(guest, longest, q.tx), -EINVAL);
    CHECK_EQ(cwasi_guest_grant(guest, "", q.tx), -EINVAL);
    longest[CWASI_NAME_MAX] = 0;
    cwasi_channel_set_mode(p.tx, 1);
    CHECK_EQ(cwasi_guest_grant(guest, "out", p.tx), 0);
    CHECK_EQ(cwasi_guest_grant(guest, "in", p.rx), 0);
    CHECK_EQ(cwasi_guest_grant(guest, longest, q.tx), 0);
    /* What has a way back; a second one for a sender, or one of the wrong role, is refused. */
    pair to = belled_pair(4096), back = belled_pair(4096), from[2], backs[2];
    cwasi_channel *serve, *sources[2];
    for (int i = 0; i < 2; i++) {
        from[i] = belled_pair(4096);
        backs[i] = belled_pair(4096);
        sources[i] = from[i].rx;
    }
    CHECK_EQ(cwasi_channel_gather(sources, 2, &serve), 0);
    CHECK_EQ(cwasi_guest_grant(guest, "ask", to.tx), 0);
    CHECK_EQ(cwasi_guest_grant_back(guest, back.tx), -EINVAL);
    CHECK_EQ(cwasi_guest_grant_back(guest, back.rx), 0);
    CHECK_EQ(cwasi_guest_grant_back(guest, back.rx), -EINVAL);
    CHECK_EQ(cwasi_guest_grant(guest, "serve", serve), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cwasi_guest_grant_back(guest, backs[i].tx), 0);
    check_names(longest);
    check_handles();
    check_pointers();
    check_calls(to, back, from, backs);
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
    free_pair(to);
    free_pair(back);
    for (int i = 0; i < 2; i++) {
        cwasi_channel_free(from[i].tx);
        free_pair(backs[i]);
    }
    cwasi_channel_free(serve);
    return 0;
}
