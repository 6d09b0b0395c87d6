/* window_pages.h - what window.c has the kernel do with the pages of a window. */
#ifndef CWASI_WINDOW_PAGES_H
#define CWASI_WINDOW_PAGES_H

#include "internal.h"

/* Forgets the private copies of these pages. */
void pages_drop(uint8_t *at, uint64_t length);
/* The same, but only of those that there are: a page that the receiver wrote to is its private copy, and would hide
 * every later message there. */
void pages_drop_written(uint8_t *at, uint64_t length);
/* Puts what is from there on into one huge page: 0, or -errno, and nothing has changed. */
int pages_enlarge(uint8_t *at);

#endif
