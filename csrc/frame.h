/* frame.h - what stands before each payload on a transport. Fields are in host byte order: a ring or a pipe never
 * leaves its machine. */
#ifndef CWASI_FRAME_H
#define CWASI_FRAME_H

#include "cwasi_fastpath.h"

/* Lengths that no message has: the sender is done, or failed. */
#define FRAME_FINISHED UINT32_C(0xffffffff)
#define FRAME_FAILED UINT32_C(0xfffffffe)
/* No more comes here: the channel goes on by the transport of the epoch that this frame names. */
#define FRAME_SWITCH UINT32_C(0xfffffffd)

/* Set in the length of a frame on a ring whose payload is in the window area; behind the frame is its position there. */
#define FRAME_WINDOW UINT32_C(0x80000000)

/* Set in the stamp of a frame on a ring whose payload went from buffer to buffer (handover.h). */
#define FRAME_HANDED (UINT64_C(1) << 63)

_Static_assert(sizeof(cwasi_frame) == 24, "the frame is part of the format that two processes share");

static inline uint64_t frame_record(uint64_t length)
{
    return (sizeof(cwasi_frame) + length + 7) & ~UINT64_C(7);
}

#endif
