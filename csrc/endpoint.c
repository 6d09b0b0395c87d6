/* endpoint.c - what every transport's end has in common. */
#include "internal.h"
#include "frame.h"

#include <errno.h>

void endpoint_init(endpoint *e, const endpoint_ops *ops, int role)
{
    *e = (endpoint){.ops = ops, .role = role};
}

int endpoint_stopped(endpoint *e)
{
    /* Pairs with the store in cwasi_channel_stop. */
    return -(int)load_ordered(&e->stop);
}

int endpoint_cancelled(endpoint *e)
{
    int stop = endpoint_stopped(e);
    return e->role == CWASI_RECEIVER && stop == -ECONNRESET ? 0 : stop;
}

int frame_check(const cwasi_frame *frame)
{
    if (frame->length == FRAME_FINISHED)
        return -EPIPE;
    if (frame->length == FRAME_FAILED)
        return -ECONNRESET;
    return frame->length > CWASI_MESSAGE_MAX ? -EBADMSG : 0;
}
