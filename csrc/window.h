/* window.h - a guest's window on a channel, for hostcall.c. */
#ifndef CWASI_WINDOW_H
#define CWASI_WINDOW_H

#include "internal.h"

typedef struct window window;

/* memory: the base of the guest's memory as it is now, here and below; [at, at + length) lies in it. alone: only one
 * thread ever writes to it, which is the one that calls. -EINVAL: not whole pages, or too long; -EMSGSIZE: the other
 * side's window is longer. */
int window_attach(cwasi_channel *c, uint8_t *memory, uint32_t at, uint32_t length, int alone, window **out);
/* Makes the window ordinary memory again, and frees it. */
void window_detach(window *w, uint8_t *memory);
/* Frees it where the guest's memory may be gone. */
void window_forget(window *w);
/* Whether the guest has taken a record that it has not released. */
int window_holds(const window *w);

/* Waits for room for a message of up to `length` bytes; its offset in the window. */
int64_t window_acquire(window *w, uint8_t *memory, uint32_t length, deadline until);
int window_commit(window *w, uint8_t *memory, uint32_t offset, uint32_t length);
/* Waits for the next message. -EBUSY: the guest must release what it holds first. */
int window_take(window *w, uint8_t *memory, window_record *record, deadline until);
/* Gives back the record that was taken first; -EINVAL if that is not at `offset`. */
int window_release(window *w, uint8_t *memory, uint32_t offset);

#endif
