"""Gives back the memory of rings that were busy and are not any more, and what is left of transports from which an end
has gone on: one thread of the process looks now and then.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .sender import Sender

THREAD = "cwasi tidy"
"""The name of the thread."""

_SHORTEST = 2.0
_LONGEST = 30.0
"""Seconds between two looks; the longer, the longer nothing has changed."""

_seen: WeakKeyDictionary[Sender, tuple[int, bool]] = WeakKeyDictionary()
"""Of each sender, how many messages it had sent at the last look, and whether it was tidied since."""
_gone_on: WeakSet[Endpoint] = WeakSet()
_lock = threading.RLock()
_started = False


def tidy(sender: Sender) -> None:
    """From now on the memory of its ring is given back when it is idle."""
    with _lock:
        _seen[sender] = 0, True
        _start()


def tidy_switches(end: Endpoint) -> None:
    """From now on what it leaves behind in a switch is freed."""
    with _lock:
        _gone_on.add(end)
        _start()


def _start() -> None:
    global _started
    if not _started:
        threading.Thread(target=_run, name=THREAD, daemon=True).start()
        _started = True


def look() -> bool:
    """Tidies the senders that have been idle since the last look; whether any was not."""
    with _lock:
        senders, ends = list(_seen.items()), list(_gone_on)
    for end in ends:
        with _lock:
            if end in _gone_on:   # there was no fork
                end.tidy()
    busy = False
    for sender, (before, tidied) in senders:
        with _lock:
            if sender not in _seen:
                continue   # there was a fork
            messages = sender.messages
            idle = messages == before
            _seen[sender] = messages, idle and (tidied or sender.trim())
        busy |= not idle
    return busy


def _run() -> None:
    pause = _SHORTEST
    while True:
        time.sleep(pause)
        pause = _SHORTEST if look() else min(2 * pause, _LONGEST)


# After a fork either process may be the one that goes on with an end, and only that one knows what is in its ring. And
# it must not come in the middle of a look, or the child would find the end occupied for ever.
def _before_fork() -> None:
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _seen.clear()
    _gone_on.clear()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock, _started
    _lock, _started = threading.RLock(), False
    _seen.clear()
    _gone_on.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
