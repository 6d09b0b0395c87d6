"""The control thread: one a process, while the process holds ends that others can find. It listens in the runtime
directory, answers requests by their handlers, and learns of the death of peers by the hang-up of their connections.

    on("switch", handler)                   the process's handler of a kind of request
    on("offer", handler, channel="lab")     the one for this channel, which comes first
    connect(address).request("offer", body, fds, channel="lab", timeout=1.0)

A handler runs on the control thread and must not wait, nor take a lock that a fork takes: it calls request.answer() or
request.refuse(), or has another thread do so later. What it raises is refused. Two ends that met by name have a
connection already: meeting.named_end(channel, role).meeting.connection.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from . import errors, runtime
from .connection import Connection
from .request import Request

THREAD = "cwasi control"
"""The name of the thread."""

Handler = Callable[[Request], None]

_STRANGERS = 64
"""Connections that belong to no channel; more are refused."""
_PATIENCE = 1.0
"""Seconds for the thread to end."""
_PAUSE = 0.1
"""Seconds without a further connection when no descriptor is left."""

_log = logging.getLogger(__name__)

_lock = threading.RLock()
"""Held while anything is handled, so that a fork does not come in the middle of it."""
_handlers: dict[tuple[str, str | None], tuple[Handler, ...]] = {}
_present: set[Presence] = set()
_current: _Control | None = None
_wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
"""Wakes the thread. It is never closed: whoever rings it takes no lock."""
_calls: deque[Callable[[], None]] = deque()
"""To be done on the control thread."""


def on(kind: str, handler: Handler, channel: str | None = None) -> None:
    """Requests of that kind are the handler's, until off(): of one channel, or of all that have none of their own."""
    with _lock:
        _handlers[kind, channel] = (*_handlers.get((kind, channel), ()), handler)


def off(kind: str, handler: Handler, channel: str | None = None) -> None:
    """No more; the one that was on before it is on again. Twice is safe."""
    with _lock:
        left = list(_handlers.pop((kind, channel), ()))
        if handler in left:
            left.remove(handler)
        if left:
            _handlers[kind, channel] = tuple(left)


def rivals(kind: str, channel: str) -> int:
    """How many handlers there are for it."""
    return len(_handlers.get((kind, channel), ()))


class Presence:
    """As long as one of them is not left, the process can be found by others."""

    def __init__(self) -> None:
        """Raises RegistryUnavailable, OSError."""
        with _lock:
            self.address = _started().address
            _present.add(self)

    def leave(self) -> None:
        """Twice is safe, and from any thread. With the last one the thread ends; nothing is left in the directory."""
        _present.discard(self)
        later(lambda: None)
        control = _current
        if not _present and control is not None and threading.current_thread() is not control.thread:
            control.thread.join(_PATIENCE)


def later(call: Callable[[], None]) -> None:
    """Has the control thread do it. Takes no lock: to be used where any may be held."""
    _calls.append(call)
    os.eventfd_write(_wake, 1)


def connect(address: str) -> Connection:
    """A connection to the process with that address, which the control thread serves from now on.

    To be called while there is a Presence. Raises PeerDied where there is no such process, OSError.
    """
    with _lock:   # a fork in between would copy a descriptor that nobody knows
        return _started().connect(address)


class _Control:
    """The thread and what it watches."""

    def __init__(self) -> None:
        self._directory = runtime.directory()
        self._connections: dict[int, Connection] = {}
        self._resumes: float | None = None
        """When it listens again, where no descriptor was left."""
        self._epoll = select.epoll()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            runtime.sweep(self._directory)
            self._claim = runtime.entered(self._directory)
            self.address = self._claim.path.name
            self._listen()
        except OSError as error:
            self.forget()
            raise runtime.unusable(self._directory, error) from error
        self._epoll.register(_wake, select.EPOLLIN)
        self._epoll.register(self._listener, select.EPOLLIN)
        self.thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        try:
            self._listener.bind(str(runtime.socket_path(self._directory, self.address)))
            self._listener.listen(128)
        except OSError:
            self._clear()
            raise

    def connect(self, address: str) -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            if not runtime.ADDRESS.fullmatch(address):
                raise errors.PeerDied(f"{address!r} is no address of a process")
            sock.connect(str(runtime.socket_path(self._directory, address)))
            connection = self._adopt(sock)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            sock.close()
            raise errors.PeerDied(f"the process {address} is gone") from error
        except BaseException:
            sock.close()
            raise
        if not connection.peer.trusted:
            connection.close()
            raise errors.PeerDied(f"{address} is held by user {connection.peer.uid}, whom we do not trust")
        return connection

    def _adopt(self, sock: socket.socket) -> Connection:
        connection = Connection(sock, _dispatch)
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock, select.EPOLLIN)
        return connection

    # ---- on the thread ----

    def _run(self) -> None:
        while True:
            pause = None if self._resumes is None else max(0.0, self._resumes - time.monotonic())
            ready = self._epoll.poll(pause)
            with _lock:
                if _current is not self:
                    return
                for descriptor, _ in ready:
                    _safely(partial(self._handle, descriptor))
                self._listen_again()
                while _calls:
                    _safely(_calls.popleft())
                if not _present:
                    _stop()
                    return

    def _handle(self, descriptor: int) -> None:
        if descriptor == _wake:
            os.eventfd_read(descriptor)
        elif descriptor == self._listener.fileno():
            self._accept()
        elif (connection := self._connections.get(descriptor)) is not None and not connection.read():
            self._connections.pop(descriptor)
            self._epoll.unregister(descriptor)
            connection.over()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                _log.warning("%s: connections must wait", error.strerror)
                self._epoll.modify(self._listener, 0)
                self._resumes = time.monotonic() + _PAUSE
            return
        connection = self._adopt(sock)
        connection.stranger = True
        refusal = self._refusal(connection)
        if refusal is not None:
            connection.send({"refused": None, "error": "Error", "message": refusal})
            connection.close()

    def _refusal(self, connection: Connection) -> str | None:
        if not connection.peer.trusted:
            return f"user {connection.peer.uid} is not served here"
        if sum(other.stranger for other in self._connections.values()) > _STRANGERS:
            return "too many connections"
        return None

    def _listen_again(self) -> None:
        if self._resumes is not None and time.monotonic() >= self._resumes:
            self._resumes = None
            self._epoll.modify(self._listener, select.EPOLLIN)

    # ---- the end ----

    def close(self) -> None:
        """Nothing of it is left, here or in the directory."""
        self._clear()
        for connection in list(self._connections.values()):
            connection.over()   # without a bye: an end that is open now was never finished
        self.forget()

    def _clear(self) -> None:
        with suppress(OSError):
            runtime.socket_path(self._directory, self.address).unlink(missing_ok=True)
            self._claim.release()

    def forget(self) -> None:
        """In a forked child, all of it is the parent's."""
        for connection in self._connections.values():
            connection.forget()
        self._listener.close()
        self._epoll.close()


def _safely(call: Callable[[], None]) -> None:
    """The thread outlives all that goes wrong."""
    try:
        call()
    except Exception:
        _log.exception("in the control thread")


def _dispatch(request: Request) -> None:
    found = _handlers.get((request.kind, request.channel)) or _handlers.get((request.kind, None))
    if not found:
        request.refuse(errors.NoSuchChannel(f"nobody here answers {request.kind!r} for channel {request.channel!r}"))
        return
    handle(found[-1], request)


def handle(handler: Handler, request: Request) -> None:
    """Refuses what the handler raises."""
    try:
        handler(request)
    except Exception as error:
        if not isinstance(error, errors.Error):
            _log.exception("a request of %s failed", request.connection.peer)
        request.refuse(error)


def _started() -> _Control:
    global _current
    if _current is None:
        _current = _Control()
    return _current


def _stop() -> None:
    global _current
    with _lock:
        control, _current = _current, None
        if control is not None:
            control.close()


def _leave_all() -> None:
    """When the interpreter ends, nothing of ours may be left in the directory."""
    thread = _current.thread if _current is not None else None
    _present.clear()
    later(lambda: None)
    if thread is not None:
        thread.join(_PATIENCE)


def _before_fork() -> None:
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _lock.release()


def _after_fork_in_child() -> None:
    global _current, _lock, _wake
    _lock = threading.RLock()
    _calls.clear()
    os.close(_wake)
    _wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    _present.clear()
    for key in [key for key in _handlers if key[1] is not None]:
        del _handlers[key]
    control, _current = _current, None
    if control is not None:
        control.forget()


atexit.register(_leave_all)
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
