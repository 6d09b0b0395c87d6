"""Further host processes: started, told what to run, watched, and ended by the process that needs them.

Both sides talk over one SOCK_SEQPACKET socket pair: JSON, and the file descriptors of links. Its hang-up tells either
side that the other is gone. The child's side is cwasi_fastpath.worker.

    parent -> child   load, join (with descriptors), ready?, run, peer_died, stop
    child -> parent   ready, done, error

and while the functions run, for a switch (see switch_spanned), with a number that the answer repeats

    parent -> child   attach, leave (both with descriptors), detach
    child -> parent   answer, perhaps with an error

What its ends have counted, and its functions did, it tells by a socket of its own, see tally.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from . import errors, final_report
from .channel import Edge
from .description import printable
from .final_report import Outcome
from .tally import Tally
from .workflow import FunctionSpec

MESSAGE_BYTES = 1 << 18
"""The longest message of either side."""

GRACE_SECONDS = 3.0
"""For what is to end by itself."""

WORKER = "cwasi_fastpath.worker"
"""What a child runs."""


class NotRunning(errors.ChannelClosed):
    """A host process does not run its functions yet, or no more."""


class HungUp(errors.HostDied):
    """A host process says no more. How it ended may not be known yet, see HostProcess.death."""


class HostProcess:
    """A host in a child process."""

    def __init__(
        self, functions: Sequence[FunctionSpec], timeout: float | None, switcher: str = "", *, shielded: bool = False
    ) -> None:
        """Starts the process and lets it compile the functions, without waiting for it.

        switcher: the address at which others can ask for a switch of its channels. shielded: from other processes of
        our user.
        """
        self.functions = [function.name for function in functions]
        self.neighbours: list[tuple[HostProcess, str, Edge]] = []
        """(process, channel, edge) for each edge that leads to another process."""
        self._lock = threading.Lock()
        """Guards what follows; never held while anything waits."""
        self._asked: dict[int, Future[Any]] | None = None
        """The requests that wait for an answer; None while nobody reads answers."""
        self._last = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        counting, their_counting = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        with theirs, their_counting:
            passed = (theirs.fileno(), their_counting.fileno())
            # -P: modules come from where we come from, not from the current directory.
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER, *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
            )
        self._death = os.pidfd_open(self._child.pid)
        self.tally = Tally(counting, repr(self)[1:-1], self.functions)
        """What its ends have counted, and its functions did."""
        try:
            plain = [_as_plain(function) for function in functions]
            self._send({"load": plain, "timeout": timeout, "switcher": switcher, "shielded": shielded})
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<host process {self._child.pid} with {', '.join(self.functions)}>"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def descriptors(self) -> tuple[int, int]:
        """One is readable when there is anything to hear. Its socket alone does not tell of its death: who was forked
        there may hold the other end.
        """
        return self._socket.fileno(), self._death

    def join(self, message: dict[str, Any], exported: Sequence[tuple[dict[str, Any], list[int]]]) -> int:
        """Hands the child an end of a channel: the links of it, as they were exported. Which row of its tally tells
        of it.
        """
        links = [{**description, "fds": len(fds)} for description, fds in exported]
        self._send({**message, "links": links}, [fd for _, fds in exported for fd in fds])
        return self.tally.joined(message["function"])

    def await_ready(self) -> None:
        """Waits until the child has compiled its functions and joined its channels. Raises what went wrong there."""
        self._send({"ready": True})
        raise_error(self.receive())

    def run(self) -> None:
        """Starts the functions."""
        self._send({"run": True})

    def peer_died(self, channel: str, edge: Edge) -> None:
        """Tells the child that the other end of that edge is gone; nothing where it reads nothing."""
        self._say({"peer_died": channel, "edge": edge}, ())

    def stop(self) -> None:
        """Asks the child to end all waits; nothing where it reads nothing."""
        self._say({"stop": True}, ())

    # ---- requests, from any thread, while the functions run ----

    def request(self, message: dict[str, Any], fds: Sequence[int] = (), *, timeout: float | None) -> None:
        """Asks the child for something and waits until it is done. Raises Timeout, NotRunning, also where that comes in
        between, and what the child answers.
        """
        answered: Future[Any] = Future()
        with self._lock:
            if self._asked is None:
                raise NotRunning(f"{self!r} does not run its functions yet, or no more")
            self._last += 1
            number = self._last
            if not self._say({**message, "number": number}, fds):
                raise errors.Timeout(f"{self!r} reads nothing")
            self._asked[number] = answered
        try:
            raise_error({"error": answered.result(timeout)})
        except TimeoutError as error:
            with self._lock:
                (self._asked or {}).pop(number, None)
            raise errors.Timeout(f"{self!r} does not answer in time") from error

    def tell(self, message: dict[str, Any]) -> None:
        """The same, where nobody waits for the answer; nothing where there is no room for it."""
        with self._lock:
            if self._asked is not None:
                self._say({**message, "number": 0}, ())

    def _say(self, message: dict[str, Any], fds: Sequence[int]) -> bool:
        """Without waiting: whether there was room. That it is dead is told where we read."""
        with suppress(BrokenPipeError, ConnectionResetError):
            try:
                socket.send_fds(self._socket, [json.dumps(message).encode()], fds, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
        return True

    def listen(self) -> None:
        """From now on somebody reads what the child says, and tells heard()."""
        with self._lock:
            self._asked = {}

    def heard(self, message: dict[str, Any]) -> bool:
        """Takes an answer; false for a message that is none."""
        if "answer" not in message:
            return False
        number = message["answer"]
        with self._lock:
            answered = self._asked.pop(number, None) if self._asked is not None and isinstance(number, int) else None
        if answered is not None:
            answered.set_result(message.get("error"))
        return True

    def deaf(self) -> None:
        """Nobody reads any more what the child says. Twice is safe."""
        with self._lock:
            asked, self._asked = self._asked, None
        for answered in (asked or {}).values():
            answered.set_exception(NotRunning(f"{self!r} has ended meanwhile"))

    # ---- the rest of its life ----

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        data = json.dumps(message).encode()
        if len(data) > MESSAGE_BYTES:
            raise errors.BadSpec(
                f"the description of {', '.join(self.functions)} has {len(data):,} bytes, more than {MESSAGE_BYTES:,}: "
                "give long arguments by a file"
            )
        try:
            socket.send_fds(self._socket, [data], fds)
        except (BrokenPipeError, ConnectionResetError):
            return   # its death is reported where we read

    def receive(self) -> dict[str, Any]:
        """The child's next message, for which it waits. Raises HostDied."""
        anything = select.poll()
        for descriptor in self.descriptors:
            anything.register(descriptor, select.POLLIN)
        try:
            while (message := self.said()) is None:
                anything.poll()
        except HungUp:
            raise self.death(time.monotonic() + GRACE_SECONDS) from None
        return message

    def said(self) -> dict[str, Any] | None:
        """The child's next message; None where there is none yet. Does not wait. Raises HungUp, also where it says
        nothing in a message, and HostDied.
        """
        dead = self._child.poll() is not None   # looked at first: what it said before counts
        try:
            data = self._socket.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not dead:
                return None
            data = b""
        except ConnectionResetError:
            data = b""
        if not data:
            raise HungUp(f"the host process of {', '.join(self.functions)} says no more")
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise self._nonsense("")
        return message

    def outcome(self, message: dict[str, Any]) -> Outcome:
        """Of the message with which it ends. Raises HostDied where that cannot be."""
        try:
            return final_report.read(message.get("done"), self.functions)
        except ValueError as error:
            raise self._nonsense(f" at its end: {printable(str(error))}") from None

    def _nonsense(self, what: str) -> errors.HostDied:
        who = f"the host process of {', '.join(self.functions)} (pid {self.pid})"
        return errors.HostDied(f"{who} speaks nonsense{what}")

    def death(self, until: float) -> errors.HostDied:
        """Of one that has hung up: how it ended, for which it waits."""
        return errors.HostDied(f"the host process of {', '.join(self.functions)} {self._how_it_ended(until)}")

    def _how_it_ended(self, until: float) -> str:
        try:
            status = self._child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return f"(pid {self.pid}) closed its connection"
        if status < 0:
            return f"(pid {self.pid}) was killed by {signal.Signals(-status).name}"
        return f"(pid {self.pid}) ended with status {status} before its functions did"

    def close(self) -> None:
        """Ends the child, by force if it does not go when its connection ends. Closing twice is safe."""
        self.hang_up()
        self.await_end(time.monotonic() + GRACE_SECONDS)

    def hang_up(self) -> None:
        """Asks the child to end. Twice is safe."""
        self.deaf()
        self._socket.close()
        self.tally.close()

    def await_end(self, until: float) -> None:
        """By force, if it still lives then. Twice is safe."""
        try:
            self._child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._death >= 0:
            os.close(self._death)
            self._death = -1


def raise_error(message: dict[str, Any]) -> None:
    """What a child reports, if it is an error."""
    match message.get("error"):
        case None:
            return
        case {"type": str(name), "message": str(words), "exit_code": int(code), "happened_ns": int(when)}:
            kind = getattr(errors, name, None)
            if not isinstance(kind, type) or not issubclass(kind, errors.Error):
                kind = errors.Error
            failure: errors.Error = kind(printable(words), *([code] if kind is errors.GuestExit else []))
            failure.happened_ns = when
            raise failure
    raise errors.Corrupted("a host process has failed, and speaks nonsense")


def _as_plain(function: FunctionSpec) -> dict[str, Any]:
    plain = asdict(function)
    for field_name in ("path", "stdin", "stdout"):
        plain[field_name] = None if plain[field_name] is None else os.fspath(plain[field_name])
    return plain
