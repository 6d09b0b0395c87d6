"""Mail between two processes that share nothing but a Redis server: requests and answers, as over a connection, but
without descriptors.

Each process has a list in the server for each peer, a mailbox, whose key has the tokens of both leases in it, its own
first, and expires. One thread waits in it (BLPOP) as long as there is that peer. A message is a JSON object of
MESSAGE_BYTES at most, as of a connection, and says whose it is and which of them:

    {"from": token, "number": n, "ask": kind, "id": n, "channel": name, "body": {...}}
    {"from": token, "number": n, "answer": id, "body": {...}}    {..., "refused": id, "error": class, "message": text}

Messages come once and in order, or not at all: the network may keep one back that was given up and sent anew, and what
is older than the last one read counts no more.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import errors
from .lease import SERVER_SECONDS, Server
from .request import Answer, Body, Waiting, refusal

THREAD = "cwasi mail"
"""The name of the thread."""

MESSAGE_BYTES = 1 << 16
_MOST = 64
"""Messages that may wait in a mailbox."""
_BLOCK = 1.0
"""Seconds for which the thread waits in the server at once."""
_PAUSE = 0.5
"""Seconds until it asks a server again that did not answer."""
_FULL = (0.01, 0.25)
"""Seconds until a mailbox that is full is tried again, at first and at last."""
_PATIENCE = 1.0
"""Seconds for the thread to end."""

_log = logging.getLogger(__name__)


class Mail:
    """One side of it."""

    def __init__(self, server: Server, mine: str, theirs: str, who: str) -> None:
        """mine, theirs: the tokens of the two. who: the peer, for messages."""
        self._server = server
        self._mine, self._theirs = mine, theirs
        self._who = who
        self._lock = threading.Lock()   # never held while anything waits, but for _sending
        self._sending = threading.Lock()
        """Or a later message might be there before an earlier one."""
        self._waiting: dict[int, Waiting] = {}
        self._last_sent = self._last_read = 0
        self._over = threading.Event()
        self._why = f"the mail with {who} is closed"
        self._thread: threading.Thread | None = None
        self._warned = False
        self._owner = os.getpid()

    @staticmethod
    def _key(to: str, by: str) -> str:
        return f"cwasi:registry:mail:{to}:{by}"

    def start(self, asked: Callable[[Body], None]) -> None:
        """asked: called with each request, on the thread that reads."""
        self._thread = threading.Thread(target=self._run, args=(asked,), name=THREAD, daemon=True)
        self._thread.start()

    # ---- asking, from any thread but the one that reads ----

    def request(self, kind: str, body: Body, *, channel: str, timeout: float | None) -> Answer:
        """Raises Timeout, PeerDied, RedisUnavailable, BadSpec, and what the peer refused it with."""
        if self._owner != os.getpid():
            raise errors.PeerDied(f"the mail with {self._who} is that of the process that was forked")
        if threading.current_thread() is self._thread:
            raise errors.BadSpec(f"{kind!r} to {self._who}: asked on the thread that reads the answer")
        until = None if timeout is None else time.monotonic() + timeout
        waiting = Waiting()
        number = self._number(waiting)
        message = {"ask": kind, "id": number, "channel": channel, "body": body}
        try:
            self._send_patiently(message, until)
            waiting.told.wait(None if until is None else max(0.0, until - time.monotonic()))
        finally:
            with self._lock:
                self._waiting.pop(number, None)   # from here on it is told, or never will be
        if waiting.error is not None:
            raise waiting.error
        if waiting.answer is None:
            raise errors.Timeout(f"{self._who} has not answered {kind!r} within {timeout:g} s")
        return waiting.answer

    def _number(self, waiting: Waiting) -> int:
        with self._lock:
            if self._over.is_set():
                raise errors.PeerDied(self._why)
            self._last_sent += 1
            self._waiting[self._last_sent] = waiting
            return self._last_sent

    def _send_patiently(self, message: Body, until: float | None) -> None:
        pause, last = _FULL
        while not self.send(message):
            left = pause if until is None else until - time.monotonic()
            if left <= 0:
                raise errors.Timeout(f"{self._who} reads nothing")
            if self._over.wait(min(pause, left)):
                raise errors.PeerDied(self._why)
            pause = min(2 * pause, last)

    def send(self, message: Body) -> bool:
        """Whether there was room. Raises RedisUnavailable, BadSpec."""
        with self._sending:
            with self._lock:
                self._last_sent += 1
                whole = {"from": self._mine, "number": self._last_sent, **message}
            data = json.dumps(whole).encode()
            if len(data) > MESSAGE_BYTES:
                raise errors.BadSpec(f"a message of {len(data):,} bytes is too long")
            return self._server.push(self._key(self._theirs, self._mine), data, _MOST)

    # ---- reading ----

    def _run(self, asked: Callable[[Body], None]) -> None:
        server = Server(self._server.url, seconds=SERVER_SECONDS + _BLOCK, check=False)   # one that only we close
        key = self._key(self._mine, self._theirs)
        try:
            while not self._over.is_set():
                try:
                    data = server.pop(key, _BLOCK)
                except errors.RedisUnavailable as error:
                    self._tell(error)   # what comes now may be lost
                    self._over.wait(_PAUSE)
                    continue
                if data is not None and not self._over.is_set():
                    self._read(data, asked)
            server.drop(key)
        except errors.RedisUnavailable:
            pass   # it expires
        finally:
            server.close()

    def _read(self, data: bytes, asked: Callable[[Body], None]) -> None:
        """The thread outlives all that is in the server."""
        try:
            message: Any = json.loads(data) if len(data) <= MESSAGE_BYTES else None
            match message:
                case {"from": self._theirs, "number": int(number)}:
                    if number > self._last_read:
                        self._last_read = number
                        self._handle(message, asked)
                    return
            reason = "it is not from our peer"
        except (ValueError, RecursionError) as error:
            reason = str(error)[:200]
        if not self._warned:
            self._warned = True
            _log.warning("in our mailbox, beside what %s sends, is what is no message: %s", self._who, reason)

    def _handle(self, message: Body, asked: Callable[[Body], None]) -> None:
        """Raises ValueError."""
        if "ask" in message:
            asked(message)
            return
        number, body = message.get("answer", message.get("refused")), message.get("body", {})
        if not isinstance(number, int) or not isinstance(body, dict):
            raise ValueError("neither a request nor an answer")
        with self._lock:
            waiting = self._waiting.pop(number, None)
        if waiting is None:
            return   # too late, or never asked for
        if "answer" in message:
            waiting.answer = Answer(body)
        else:
            waiting.error = refusal(message)
        waiting.told.set()

    # ---- the end ----

    def _tell(self, error: errors.Error) -> None:
        """All who wait."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            one.error = error
            one.told.set()

    def end(self, why: str) -> None:
        """No more is sent or read; does not wait. Twice is safe."""
        if self._owner != os.getpid():
            return
        with self._lock:
            if self._over.is_set():
                return
            self._why = why
            self._over.set()
        self._tell(errors.PeerDied(why))

    def close(self) -> None:
        """The same, and waits for the thread."""
        self.end(self._why)
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread() or self._owner != os.getpid():
            return
        key = self._key(self._mine, self._theirs)
        with suppress(errors.RedisUnavailable):   # then it does not wait there
            self._server.push(key, b"", _MOST + 1)   # wakes it
            thread.join(_PATIENCE)
            self._server.drop(key)   # it may have gone just before
