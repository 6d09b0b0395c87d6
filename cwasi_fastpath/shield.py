"""Keeps other processes of the same user out of this one."""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE = 4


def shield() -> None:
    """From now on other processes of this user can neither read our memory nor take our descriptors, by /proc or by
    tracing us; there are no core dumps any more. Those of root can. A process that we start is not shielded by it.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
