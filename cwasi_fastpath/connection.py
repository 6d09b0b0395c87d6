"""A connection between two processes of a node: requests and answers with file descriptors, in both directions.

A SOCK_SEQPACKET unix socket; one JSON object a message, of MESSAGE_BYTES and FDS_MAX descriptors at most:

    {"ask": kind, "id": n, "channel": name or null, "body": {...}}
    {"answer": n, "body": {...}}        {"refused": n, "error": class, "message": text}        {"bye": true}

A kind without id wants no answer. The control thread reads; any thread may ask. A hang-up without a bye is a death.
Nothing that a peer sends, or does not read, holds up the thread: what is malformed is refused and ends the connection,
and so does what cannot be written at once.
"""

from __future__ import annotations

import array
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from . import errors
from .credentials import Credentials
from .request import TEXT, Answer, Body, Request, Waiting, close_all, refusal

MESSAGE_BYTES = 1 << 16
FDS_MAX = 64

_TURN = 16
"""Messages of one peer before others have their turn."""

_log = logging.getLogger(__name__)


class Connection:
    """One side of it. The control thread calls `read` when there is something, and closes the socket."""

    def __init__(self, sock: socket.socket, dispatch: Callable[[Request], None]) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._dispatch = dispatch
        self._lock = threading.RLock()   # never held while anything waits
        self._waiting: dict[int, Waiting] = {}
        self._last = 0
        self._over = False
        self._said_bye = False
        self._leaving = False
        self._reader = 0
        """The thread that reads."""
        self._gone: list[Callable[[bool], None]] = []
        self.peer = Credentials.of(sock)
        self.stranger = False
        """Whether somebody else made it, and it belongs to no channel: there may be few of these."""

    def __repr__(self) -> str:
        return f"<connection to {self.peer}>"

    def fileno(self) -> int:
        """-1 when it is closed."""
        return self._socket.fileno()

    # ---- asking, from any thread but the one that reads ----

    def request(
        self,
        kind: str,
        body: Body | None = None,
        fds: Sequence[int] = (),
        *,
        channel: str | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Asks the peer, whose handler for `kind` and `channel` answers. The descriptors stay the caller's.

        Not to be called on the control thread, which is the one that reads the answer.
        Raises Timeout, PeerDied, and what the peer refused it with.
        """
        if threading.get_ident() == self._reader:
            raise errors.BadSpec(f"{self!r}: a request on the control thread would wait for itself")
        until = None if timeout is None else time.monotonic() + timeout
        waiting = Waiting()
        number = self._number(waiting)
        try:
            self._send_patiently({"ask": kind, "id": number, "channel": channel, "body": body or {}}, fds, until)
            waiting.told.wait(None if until is None else max(0.0, until - time.monotonic()))
        except BaseException:
            self._forget(number)
            if waiting.answer is not None:
                close_all(waiting.answer.fds)
            raise
        self._forget(number)   # from here on it is told, or never will be
        if waiting.error is not None:
            raise waiting.error
        if waiting.answer is None:
            raise errors.Timeout(f"{self!r}: no answer to {kind!r} within {timeout:g} s")
        return waiting.answer

    def ask(self, kind: str, *, channel: str) -> Waiting | None:
        """The same without a wait: the answer, or the error, will be in what is returned. None where there is no room.
        Descriptors that come with it are closed: nobody may look any more.

        Raises PeerDied.
        """
        waiting = Waiting(descriptors=False)
        number, sent = self._number(waiting), False
        try:
            sent = self._sent({"ask": kind, "id": number, "channel": channel, "body": {}}, ())
        finally:
            if not sent:
                self._forget(number)
        return waiting if sent else None

    def _number(self, waiting: Waiting) -> int:
        with self._lock:
            if self._over or self._leaving:
                raise errors.PeerDied(f"{self!r} is closed")
            self._last += 1
            self._waiting[self._last] = waiting
            return self._last

    def _forget(self, number: int) -> None:
        with self._lock:
            self._waiting.pop(number, None)

    def tell(self, kind: str, body: Body | None = None, *, channel: str | None = None) -> None:
        """Says something that needs no answer."""
        self.send({"ask": kind, "channel": channel, "body": body or {}})

    def mention(self, kind: str, body: Body | None = None, *, channel: str | None = None) -> None:
        """Says something that the peer may miss: where it has no room for it, or is gone, nothing happens."""
        with suppress(errors.PeerDied):
            self._sent({"ask": kind, "channel": channel, "body": body or {}}, ())

    def _send_patiently(self, message: Body, fds: Sequence[int], until: float | None) -> None:
        while not self._sent(message, fds):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise errors.Timeout(f"{self!r}: the peer reads nothing")
            with suppress(ValueError):   # closed meanwhile
                poll = select.poll()
                poll.register(self.fileno(), select.POLLOUT)
                poll.poll(1000 * min(1.0, 1.0 if left is None else left))

    # ---- sending ----

    def send(self, message: Body, fds: Sequence[int] = ()) -> None:
        """Never waits: a peer that does not read what we say is dropped."""
        try:
            if self._sent(message, fds):
                return
            _log.warning("%r reads nothing, and is dropped", self)
        except errors.PeerDied:
            return
        self.hang_up()

    def _sent(self, message: Body, fds: Sequence[int]) -> bool:
        """Whether there was room. Raises PeerDied, BadSpec."""
        data = json.dumps(message).encode()
        if len(data) > MESSAGE_BYTES or len(fds) > FDS_MAX:
            raise errors.BadSpec(f"a message of {len(data):,} bytes with {len(fds)} descriptors is too long")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            with self._lock:   # or the descriptor might be closed meanwhile, and be another's
                self._socket.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            raise errors.PeerDied(f"{self!r}: {error.strerror}") from error
        return True

    # ---- reading, on the control thread ----

    def read(self) -> bool:
        """Handles what has come; false when the connection is over."""
        self._reader = threading.get_ident()
        for _ in range(_TURN):
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    MESSAGE_BYTES + 1, socket.CMSG_SPACE(4 * (FDS_MAX + 1)), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return True
            except OSError:
                return False
            fds = _descriptors(ancillary)
            try:
                if not data and not fds:
                    return False
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > FDS_MAX:
                    raise ValueError(f"longer than {MESSAGE_BYTES:,} bytes or {FDS_MAX} descriptors")
                self._handle(json.loads(data), fds)
            except (ValueError, RecursionError) as error:
                _log.warning("%r sends what is no message, and is dropped: %s", self, str(error)[:200])
                self.send({"refused": None, "error": "BadSpec", "message": f"no message: {error}"[:TEXT]})
                return False
            finally:
                close_all(fds)
        return True

    def _handle(self, message: Any, fds: list[int]) -> None:
        """Takes out of fds what has found an owner."""
        if not isinstance(message, dict):
            raise ValueError("no object")
        if "ask" in message:
            request = Request(self, message, fds[:])
            fds.clear()
            try:
                self._dispatch(request)
            finally:
                close_all(request.take_fds())
        elif "bye" in message:
            self._said_bye = True
        else:
            self._answered(message, fds)

    def _answered(self, message: Body, fds: list[int]) -> None:
        number = message.get("answer", message.get("refused", message))
        if not isinstance(number, int | None) or not isinstance(message.get("body", {}), dict):
            raise ValueError("neither a request nor an answer")
        with self._lock:
            waiting = self._waiting.pop(number, None) if number is not None else None
            if waiting is None:
                return   # too late, or never asked for
            if "answer" in message:
                waiting.answer = Answer(message.get("body", {}))
                if waiting.descriptors:
                    waiting.answer.fds, fds[:] = fds[:], []
            else:
                waiting.error = refusal(message)
            waiting.told.set()

    # ---- the end ----

    def when_gone(self, callback: Callable[[bool], None]) -> None:
        """Calls callback(whether it died) on the control thread when the peer is gone; at once if it is."""
        with self._lock:
            if not self._over:
                self._gone.append(callback)
                return
        callback(not self._said_bye)

    def close(self) -> None:
        """Leaves, with a bye; nobody here is told of that. Twice is safe, and from any thread."""
        self._leaving = True
        with suppress(errors.PeerDied):
            self._sent({"bye": True}, ())
        self.hang_up()

    def hang_up(self) -> None:
        """Leaves without a bye. Twice is safe, and from any thread."""
        with suppress(OSError), self._lock:
            self._socket.shutdown(socket.SHUT_RDWR)

    def over(self) -> None:
        """To be called by the control thread, which looks at the socket no more."""
        with self._lock:
            self._over = True
            waiting, self._waiting = list(self._waiting.values()), {}
            gone, self._gone = self._gone, []
            self._socket.close()
        for one in waiting:
            one.error = errors.PeerDied(f"{self!r}: it hung up")
            one.told.set()
        if not self._leaving:
            for callback in gone:
                callback(not self._said_bye)

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self._leaving = self._over = True
        self._lock = threading.RLock()
        self._socket.close()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)

