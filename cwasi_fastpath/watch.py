"""Watches for the death of peers: one thread of the process sleeps until a bell hangs up, and then tells the end."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakSet, ref

if TYPE_CHECKING:
    from .endpoint import Endpoint

THREAD = "cwasi watch"
"""The name of the thread."""

_all: WeakSet[Endpoint] = WeakSet()
"""Every end of this process; after a fork their peers may be in another one."""
_lock = threading.Lock()
_watched: dict[int, tuple[ReferenceType[Endpoint], int]] = {}
"""By the descriptor of the bell, the end, which others keep alive or not, and the number of the peer."""
_epoll: select.epoll | None = None


def know(end: Endpoint) -> None:
    """To be told of every end that is made."""
    _all.add(end)


def watch(end: Endpoint) -> None:
    """From now on `end` learns of the death of its peers' processes, within milliseconds."""
    with _lock:
        for peer, bell in enumerate(end.bells()):
            if bell >= 0 and (bell not in _watched or _watched[bell][0]() is not end):
                _watched[bell] = (ref(end), peer)
                _started().register(bell, select.EPOLLONESHOT)   # hang-ups are always reported


def forget(end: Endpoint) -> None:
    """To be called before the end is freed."""
    with _lock:
        for bell in end.bells():
            found, _ = _watched.pop(bell, (None, 0))
            # Else it was the bell of an end that went without a word, and never this one.
            if found is not None and found() is end and _epoll is not None:
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
        found, peer = _watched[bell] if bell in _watched and _hung_up(bell) else (None, 0)
    end = found() if found else None
    if end is not None:
        end.peer_died(peer)


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
