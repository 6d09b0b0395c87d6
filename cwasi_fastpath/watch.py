"""Watches for the death of peers: one thread of the process sleeps until a bell hangs up, and then tells the end."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakSet, ref

if TYPE_CHECKING:
    from .endpoint import Endpoint

THREAD = "cwasi watch"
"""The name of the thread."""

_all: WeakSet[Endpoint] = WeakSet()
"""Every end of this process; after a fork their peers may be in another one."""
_lock = threading.Lock()
_watched: dict[int, ReferenceType[Endpoint]] = {}
"""By the descriptor of the bell, the end, which others keep alive or not."""
_wanted: WeakSet[Endpoint] = WeakSet()
"""Those that are watched, whatever bells they have."""
_epoll: select.epoll | None = None


def know(end: Endpoint) -> None:
    """To be told of every end that is made."""
    _all.add(end)


def ends() -> list[Endpoint]:
    """Those that are there now."""
    return list(_all)


def watch(end: Endpoint) -> None:
    """From now on `end` learns of the death of its peers' processes, within milliseconds."""
    with _lock:
        _wanted.add(end)
        for bell in end.bells():
            _watched[bell] = ref(end)
            # One that exists is watched already; one that does not has been left for another transport. Else the
            # descriptor is new, though its number may not be.
            with suppress(OSError):
                _started().register(bell, select.EPOLLONESHOT)   # hang-ups are always reported


def watch_more(end: Endpoint) -> None:
    """To be called when `end` has got other bells: if it is watched, they are, too."""
    if end in _wanted:
        watch(end)


def forget(end: Endpoint) -> None:
    """To be called before the end is freed."""
    with _lock:
        for bell in end.bells():
            found = _watched.pop(bell, None)
            # Else it was the bell of an end that went without a word, and never this one.
            if found is not None and found() is end and _epoll is not None:
                with suppress(FileNotFoundError):   # that one was closed, and the number is another's
                    _epoll.unregister(bell)


def _started() -> select.epoll:
    global _epoll
    if _epoll is None:
        _epoll = select.epoll()
        threading.Thread(target=_run, args=(_epoll,), name=THREAD, daemon=True).start()
    return _epoll


def _run(epoll: select.epoll) -> None:
    while True:
        for bell, _ in epoll.poll():
            _tell(bell)


def _tell(bell: int) -> None:
    with _lock:
        # Asked again: the descriptor may belong to another bell by now.
        found = _watched[bell] if bell in _watched and _hung_up(bell) else None
    end = found() if found else None
    if end is not None:
        end.hung_up(bell)


def _hung_up(bell: int) -> bool:
    poll = select.poll()
    poll.register(bell, 0)
    return bool(poll.poll(0))


def _after_fork_in_child() -> None:
    global _epoll, _lock
    _lock = threading.Lock()
    _watched.clear()
    if _epoll is not None:
        _epoll.close()
        _epoll = None
    for end in list(_all):
        end.after_fork()
    _watch_all()


def _watch_all() -> None:
    for end in list(_all):
        if not end.closed:
            watch(end)


os.register_at_fork(after_in_child=_after_fork_in_child, after_in_parent=_watch_all)
