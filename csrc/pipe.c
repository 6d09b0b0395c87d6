/* pipe.c - frames over pipes: no memory is shared with a peer that it could write, or that it could read later on.
 *
 * From the sender a pipe leads to each reader. Beside it, the other way, is a second small one, the back: a reader says
 * there that it leaves in order, and it hangs up when the reader's process ends.
 *
 * SIGPIPE must be ignored in the process, as Python does.
 */
#include "account.h"
#include "pipe.h"
#include "fault.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int timeout_ms(deadline until)
{
    int64_t at = wait_slice(until);
    if (at == INT64_MAX)
        return -1;
    int64_t left = at - now_ns();
    return left <= 0 ? 0 : (int)MIN((left + 999999) / 1000000, INT32_MAX);
}

int pipe_wait(endpoint *e, int fd, int wake_fd, deadline until)
{
    int stop = endpoint_stopped(e);
    if (stop)
        return stop;
    if (until.at == 0)
        return -EAGAIN;
    FAULT_POINT(pipe_wait_begins);
    struct pollfd fds[2] = {{fd, e->role == CWASI_SENDER ? POLLOUT : POLLIN, 0}, {wake_fd, POLLIN, 0}};
    count_up(&e->stats.waits, 1);
    count_up(&e->stats.parks, 1);
    int64_t counted_from = account_clock();
    int rc = poll(fds, 2, timeout_ms(until)), error = errno;
    account_waited(counted_from);
    if (rc < 0)
        return error == EINTR && until.interruptible != BY_SIGNAL ? 0 : -error;
    if (rc == 0)
        return wait_over(until);
    if (fds[0].revents)
        return 0;   /* room, data or a hang-up: the next write or read tells which */
    stop = endpoint_stopped(e);
    eventfd_t news;
    if (stop == 0)   /* who stops us after this look says so after it, too */
        eventfd_read(wake_fd, &news);
    return endpoint_stopped(e);
}

/* fd's pipe as a file of our own where that is possible: who shares ours could make it blocking, out of reach of wake. */
static int own_file(int fd, int access)
{
    char path[32];
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    if ((flags & O_ACCMODE) != access || fcntl(fd, F_GETPIPE_SZ) < 0)
        return -EINVAL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own = open(path, access | O_NONBLOCK | O_CLOEXEC);
    if (own < 0 && (own = fcntl(fd, F_DUPFD_CLOEXEC, 0)) >= 0 && fcntl(own, F_SETFL, access | O_NONBLOCK) < 0) {
        close(own);
        own = -1;
    }
    return own < 0 ? -errno : own;
}

/* Files of our own for one pipe and its back. */
static int open_peer(pipe_peer *peer, int role, int fd, const int *back)
{
    int rc = own_file(fd, role == CWASI_SENDER ? O_WRONLY : O_RDONLY);
    *peer = (pipe_peer){.fd = rc, .back = -1};
    if (rc >= 0 && back)
        rc = peer->back = own_file(*back, role == CWASI_SENDER ? O_RDONLY : O_WRONLY);
    return MIN(rc, 0);
}

static void close_peers(const pipe_peer *peers, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (peers[i].fd >= 0)
            close(peers[i].fd);
        if (peers[i].back >= 0)
            close(peers[i].back);
    }
}

int pipe_open(int role, const int *pipes, const int *backs, unsigned readers, endpoint **out)
{
    pipe_peer peers[CWASI_READERS_MAX];
    unsigned opened = 0;
    int rc = readers == 0 || readers > (role == CWASI_SENDER ? CWASI_READERS_MAX : 1) ? -EINVAL : 0;
    for (; rc == 0 && opened < readers; opened++)
        rc = open_peer(&peers[opened], role, pipes[opened], backs ? &backs[opened] : NULL);
    if (rc == 0)
        rc = role == CWASI_SENDER ? pipe_sender_new(peers, readers, out)
                                  : pipe_reader_new(peers[0].fd, peers[0].back, out);
    if (rc < 0) {
        close_peers(peers, opened);
        return rc;
    }
    for (unsigned i = 0; i < readers; i++)
        fcntl(peers[i].fd, F_SETPIPE_SZ, PIPE_CAPACITY);
    return 0;
}
