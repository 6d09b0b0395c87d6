"""Gives back the memory of rings that were busy and are not any more: one thread of the process looks now and then."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from .endpoint import Sender

THREAD = "cwasi tidy"
"""The name of the thread."""

_SHORTEST = 2.0
_LONGEST = 30.0
"""Seconds between two looks; the longer, the longer nothing has changed."""

_seen: WeakKeyDictionary[Sender, tuple[int, bool]] = WeakKeyDictionary()
"""Of each sender, how many messages it had sent at the last look, and whether it was tidied since."""
_lock = threading.Lock()
_started = False


def tidy(sender: Sender) -> None:
    """From now on the memory of its ring is given back when it is idle."""
    global _started
    with _lock:
        _seen[sender] = 0, True
        if not _started:
            threading.Thread(target=_run, name=THREAD, daemon=True).start()
            _started = True


def look() -> bool:
    """Tidies the senders that have been idle since the last look; whether any was not."""
    with _lock:
        senders = list(_seen.items())
    busy = False
    for sender, (before, tidied) in senders:
        messages = sender.messages
        idle = messages == before
        busy |= not idle
        with _lock:
            if sender in _seen:   # no fork since
                _seen[sender] = messages, idle and (tidied or sender.trim())
    return busy


def _run() -> None:
    pause = _SHORTEST
    while True:
        time.sleep(pause)
        pause = _SHORTEST if look() else min(2 * pause, _LONGEST)


def _after_fork_in_child() -> None:
    global _lock, _started
    _lock, _started = threading.Lock(), False
    _forget_all()


def _forget_all() -> None:
    """After a fork either process may go on with an end, and only that one knows what is in its ring."""
    with _lock:
        _seen.clear()


os.register_at_fork(after_in_child=_after_fork_in_child, after_in_parent=_forget_all)
