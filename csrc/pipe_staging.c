/* pipe_staging.c - the memory from which a sender lends pages to its pipes.
 *
 * A lent page is the very page that the readers read: written again too early, it would change what was sent. The rule:
 * a page is written again only when every reader has read all bytes up to it, which the kernel tells (FIONREAD). Where
 * one has not, the whole staging is left to who still reads it, and a new one is used. That takes a pipe which somebody
 * privileged has made larger: the staging is larger than what a pipe of ours holds, so no reader can bring it about.
 *
 * That proves nothing about a reader that duplicates what is in its pipe (tee) and lets go of it. Such a reader can see
 * in its copy what is staged later; but only what is then sent to it as well. For when it has left, the staging that it
 * knows is given up. And what is staged belongs to a message that has begun, since the sender waits for room before it
 * copies: one that gives up waiting has shown nothing. The guest's own pages are never lent.
 */
#include "pipe.h"
#include "fault.h"

#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* Pages that are still in a pipe have references of their own; unmapping them changes nothing that a reader reads. */
void staging_close(pipe_sender *p)
{
    if (p->staging)
        munmap(p->staging, STAGING_SIZE);
    p->staging = NULL;
}

/* Aligned, so that it can be one huge page: fewer page references to take. Works without. */
static uint8_t *map_aligned(void)
{
    uint8_t *map = mmap(NULL, 2 * STAGING_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    size_t before = -(uintptr_t)map & (STAGING_SIZE - 1);
    if (before)
        munmap(map, before);
    munmap(map + before + STAGING_SIZE, STAGING_SIZE - before);
    madvise(map + before, STAGING_SIZE, MADV_HUGEPAGE);
    return map + before;
}

static int staging_renew(pipe_sender *p)
{
    staging_close(p);
    memset(p->until, 0, sizeof p->until);
    p->at = 0;
    p->keeper = 0;
    FAULT_POINT(pipe_staging_given_up);
    p->staging = map_aligned();
    return p->staging != NULL;
}

/* How much of what was put all readers have taken out of their pipes. */
static uint64_t all_consumed(const pipe_sender *p)
{
    uint64_t least = p->put;
    for (unsigned i = 0; i < p->peers; i++) {
        int unread = 0;
        if (p->peer[i].gone)
            continue;
        if (ioctl(p->peer[i].fd, FIONREAD, &unread) < 0 || unread < 0 || (uint64_t)unread > p->put)
            return 0;
        least = MIN(least, p->put - (uint64_t)unread);
    }
    return least;
}

static int is_free(pipe_sender *p, unsigned pages)
{
    uint64_t until = 0;
    for (unsigned i = p->at; i < p->at + pages; i++)
        until = MAX(until, p->until[i]);
    if (until > p->consumed)
        p->consumed = all_consumed(p);
    return until <= p->consumed;
}

uint8_t *staging_chunk(pipe_sender *p, size_t length)
{
    unsigned pages = (unsigned)(whole_pages(length) / PAGE);
    if (p->at + pages > STAGING_PAGES)
        p->at = 0;
    if ((!p->staging || p->keeper || !is_free(p, pages)) && !staging_renew(p))
        return NULL;
    return p->staging + (size_t)p->at * PAGE;
}

void staging_lent(pipe_sender *p, size_t length)
{
    for (unsigned left = (unsigned)(whole_pages(length) / PAGE); left > 0; left--)
        p->until[p->at++] = p->put;
}
