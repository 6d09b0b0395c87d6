"""Runs the cases in which two Python processes exchange messages."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any, Self

from .. import errors
from .case import OWN_PATHS, P50, P99, RATE, REDIS_PATHS, Case, Kind, Sample
from .cores import places
from .line import clean_up, shared_prefix
from .peer import MESSAGE_BYTES
from .task import Task

_PATIENCE_SECONDS = 60.0
_STOP_SECONDS = 2.0


class Pair:
    """Two processes that wait for work, so that none is started while others are measured."""

    def __init__(self, redis: str | None, no_redis: str = "") -> None:
        """redis: the URL of a server that answers, or None, and then why there is none."""
        self._redis, self._no_redis = redis, no_redis
        self._directory = ""
        self._runs = 0
        self._peers: list[_Peer] = []

    def measure(self, case: Case, count: int) -> Sample:
        """One run of `case` with `count` messages each way.

        Raises Unavailable where somebody else's way is not installed or fails, and Error for one of ours.
        """
        if case.path in REDIS_PATHS and self._redis is None:
            raise errors.RedisUnavailable(self._no_redis)
        found = self._run(("ping", "pong") if case.kind is Kind.LATENCY else ("source", "sink"), case, count)
        seconds = found["seconds"]
        if case.kind is Kind.LATENCY:
            return Sample(2 * count, seconds, {P50: found[P50], P99: found[P99]})
        return Sample(count, seconds, {RATE: count * case.size / seconds})

    def _run(self, roles: tuple[str, str], case: Case, count: int) -> dict[str, Any]:
        """Gives both peers their roles; what the first one found."""
        if not self._peers:
            self._directory = tempfile.mkdtemp(prefix="cwasi-bench-")
            self._peers = [_Peer(self._directory), _Peer(self._directory)]
        self._runs += 1
        address = self._redis if case.path in REDIS_PATHS and self._redis else self._directory
        key = f"{shared_prefix(self._directory)}{self._runs}"
        for peer, role, core, meeting in zip(self._peers, roles, places(case.cores), socket.socketpair(), strict=True):
            with meeting:
                peer.tell(Task(role, case.path, case.how, case.size, count, core, address, key), meeting)
        try:
            return self._answers()
        except errors.Error as error:
            self._end_peers()   # one may wait for the other for ever
            kind = errors.Error if case.path in OWN_PATHS else errors.Unavailable
            raise kind(str(error)) from error

    def _answers(self) -> dict[str, Any]:
        until, waiting, answers = time.monotonic() + _PATIENCE_SECONDS, list(self._peers), {}
        while waiting:
            ready, _, _ = select.select(waiting, [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise errors.Timeout(f"no answer after {_PATIENCE_SECONDS:.0f} s")
            for peer in ready:
                waiting.remove(peer)
                answers[peer] = peer.answer()
        return answers[self._peers[0]]

    def _end_peers(self) -> None:
        for peer in self._peers:
            peer.close()
        if self._peers:
            clean_up(self._directory)
        self._peers = []

    def close(self) -> None:
        """Ends both, and removes what they left. Closing twice is safe."""
        self._end_peers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Peer:
    """One of the processes."""

    def __init__(self, directory: str) -> None:
        """directory: for what they leave on disk."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A process group of its own: Ctrl-C is for us, we then close it.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cwasi_fastpath.bench.peer", str(theirs.fileno()), directory],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )

    def fileno(self) -> int:
        return self._socket.fileno()

    def tell(self, task: Task, meeting: socket.socket) -> None:
        try:
            socket.send_fds(self._socket, [task.to_json().encode()], [meeting.fileno()])
        except OSError:
            return   # its end is seen where its answer is read

    def answer(self) -> dict[str, Any]:
        """Raises Error with what went wrong there."""
        try:
            data = self._socket.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            data = b""
        answer: dict[str, Any] = json.loads(data) if data else {"error": "its process died"}
        if "error" in answer:
            raise errors.Error(answer["error"])
        return answer

    def close(self) -> None:
        """It ends when its connection does."""
        self._socket.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
