"""Further host processes: started, told what to run, watched, and ended by the process that needs them.

Both sides talk over one SOCK_SEQPACKET socket pair: JSON, and the file descriptors of links. Its hang-up tells either
side that the other is gone. The child's side is cwasi_fastpath.worker.

    parent -> child   load, join (with descriptors), ready?, run, peer_died, stop
    child -> parent   ready, done, error
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import errors, transport
from .channel import Edge
from .endpoint import RECEIVER, SENDER
from .metrics import EndMetrics, EndReport
from .policy import Decision
from .workflow import End, FunctionSpec

if TYPE_CHECKING:
    from .transport.tls import TlsFiles

MESSAGE_BYTES = 1 << 18
"""The longest message of either side."""

_GRACE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a host process reported at its end."""

    ends: tuple[EndReport, ...] = ()
    cpu_seconds: dict[str, float] = field(default_factory=dict)


class HostProcess:
    """A host in a child process."""

    def __init__(self, functions: Sequence[FunctionSpec], timeout: float | None) -> None:
        """Starts the process and lets it compile the functions, without waiting for it."""
        self.functions = [function.name for function in functions]
        self.neighbours: list[tuple[HostProcess, str, Edge]] = []
        """(process, channel, edge) for each edge that leads to another process."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        with theirs:
            # -P: modules come from where we come from, not from the current directory.
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "cwasi_fastpath.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        try:
            self._send({"load": [_as_plain(function) for function in functions], "timeout": timeout})
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<host process {self._child.pid} with {', '.join(self.functions)}>"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def fileno(self) -> int:
        """The socket, for selectors."""
        return self._socket.fileno()

    def join(self, message: dict[str, Any], exported: Sequence[tuple[dict[str, Any], list[int]]]) -> None:
        """Hands the child an end of a channel: the links of it, as they were exported."""
        links = [{**description, "fds": len(fds)} for description, fds in exported]
        self._send({**message, "links": links}, [fd for _, fds in exported for fd in fds])

    def await_ready(self) -> None:
        """Waits until the child has compiled its functions and joined its channels. Raises what went wrong there."""
        self._send({"ready": True})
        _raise_error(self.receive())

    def run(self) -> None:
        """Starts the functions."""
        self._send({"run": True})

    def peer_died(self, channel: str, edge: Edge) -> None:
        """Tells the child that the other end of that edge is gone."""
        self._send({"peer_died": channel, "edge": edge})

    def stop(self) -> None:
        """Asks the child to end all waits."""
        self._send({"stop": True})

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
        """The child's next message. Raises HostDied."""
        try:
            data = self._socket.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise errors.HostDied(f"the host process of {', '.join(self.functions)} {self._how_it_ended()}")
        message: dict[str, Any] = json.loads(data)
        return message

    def _how_it_ended(self) -> str:
        try:
            status = self._child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return f"(pid {self.pid}) closed its connection"
        if status < 0:
            return f"(pid {self.pid}) was killed by {signal.Signals(-status).name}"
        return f"(pid {self.pid}) ended with status {status} before its functions did"

    def close(self) -> None:
        """Ends the child, by force if it does not go when its connection ends. Closing twice is safe."""
        self._socket.close()
        try:
            self._child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


@dataclass(frozen=True, slots=True)
class SpannedChannel:
    """A channel whose ends are in several host processes."""

    name: str
    decisions: Mapping[Edge, Decision]
    senders: tuple[End, ...]
    receivers: tuple[End, ...]
    backs: tuple[str, ...] = ()
    """The channels of the answers to its senders' requests, connected before."""
    private: bool = False
    """The functions do not know it by name."""

    def connect(
        self, processes: Mapping[str, HostProcess], redis: str | None, sample: int, tls: TlsFiles | None
    ) -> None:
        """Makes its links and hands each process, found by function, its ends."""
        first = self.receivers[0][0]
        links = []
        try:
            for sender, _ in self.senders:
                kind = self.decisions[sender, first].transport
                key = transport.key_of(self.name, sender, len(self.senders))
                links.append(transport.create(kind, readers=len(self.receivers), redis=redis, key=key, tls=tls))
            for number, end in enumerate(self.senders):
                message = self._message(SENDER, end, sample, self.backs[number : number + 1])
                processes[end[0]].join(message, [links[number].export(SENDER)])
            for number, end in enumerate(self.receivers):
                message = self._message(RECEIVER, end, sample, self.backs)
                message["reader"] = number
                processes[end[0]].join(message, [link.export(RECEIVER, number) for link in links])
        finally:
            for link in links:
                link.close()
        for sender, receiver in self.decisions:
            one, other = processes[sender], processes[receiver]
            if one is not other:
                one.neighbours.append((other, self.name, (sender, receiver)))
                other.neighbours.append((one, self.name, (sender, receiver)))

    def _message(self, role: int, end: End, sample: int, backs: Sequence[str]) -> dict[str, Any]:
        function, port = end
        return {
            "join": self.name,
            "decisions": [[*edge, asdict(decision)] for edge, decision in self.decisions.items()],
            "role": role,
            "reader": 0,
            "function": function,
            "port": port,
            "backs": list(backs),
            "private": self.private,
            "sample": sample,
        }


def supervise(processes: Sequence[HostProcess], timeout: float | None) -> tuple[float, list[Outcome]]:
    """Waits until all are ready, runs them, and waits for their ends: (seconds, outcomes).

    Raises the first error that any of them had; those that wait for a dead one are told.
    """
    for process in processes:
        process.await_ready()
    start = time.monotonic()
    for process in processes:
        process.run()
    watch = _Watch(processes)
    try:
        watch.until_all_ended(None if timeout is None else start + timeout + _GRACE_SECONDS)
    except BaseException:
        for process in watch.alive:
            process.stop()
        raise
    seconds = watch.ended_at - start
    if watch.first_error is not None:
        raise watch.first_error
    return seconds, [watch.outcomes[process] for process in processes]


class _Watch:
    """Reads what the children say until each has ended."""

    def __init__(self, processes: Sequence[HostProcess]) -> None:
        self.alive = set(processes)
        self.outcomes: dict[HostProcess, Outcome] = {}
        self.first_error: errors.Error | None = None
        self.ended_at = 0.0

    def until_all_ended(self, deadline: float | None) -> None:
        with selectors.DefaultSelector() as selector:
            for process in self.alive:
                selector.register(process.fileno(), selectors.EVENT_READ)
            while self.alive:
                ready = selector.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
                if not ready:
                    names = ", ".join(sorted(name for process in self.alive for name in process.functions))
                    raise errors.GuestTimeout(f"still running when the time was up: {names}")
                for key, _ in ready:
                    process = next(process for process in self.alive if process.fileno() == key.fd)
                    selector.unregister(key.fd)
                    self._ended(process)

    def _ended(self, process: HostProcess) -> None:
        self.alive.discard(process)
        try:
            message = process.receive()
            self.ended_at = time.monotonic()
            self.outcomes[process] = _outcome(message)
            _raise_error(message)
        except errors.Error as error:
            self.ended_at = time.monotonic()
            self.first_error = min(self.first_error or error, error, key=errors.happened)
            if isinstance(error, errors.HostDied):
                for neighbour, channel, edge in process.neighbours:
                    neighbour.peer_died(channel, edge)


def _raise_error(message: dict[str, Any]) -> None:
    error = message.get("error")
    if error is None:
        return
    kind = getattr(errors, error["type"], errors.Error)
    arguments = [error["exit_code"]] if kind is errors.GuestExit else []
    failure: errors.Error = kind(error["message"], *arguments)
    failure.happened_ns = error["happened_ns"]
    raise failure


def _as_plain(function: FunctionSpec) -> dict[str, Any]:
    plain = asdict(function)
    for field_name in ("path", "stdin", "stdout"):
        plain[field_name] = None if plain[field_name] is None else os.fspath(plain[field_name])
    return plain


def _outcome(message: dict[str, Any]) -> Outcome:
    done = message.get("done") or {}
    ends = []
    for row in done.get("ends", ()):
        metrics, *sources = (_counted(plain) for plain in (row.pop("metrics"), *row.pop("sources")))
        ends.append(EndReport(metrics=metrics, sources=tuple(sources), **row))
    return Outcome(tuple(ends), done.get("cpu_seconds", {}))


def _counted(plain: dict[str, Any]) -> EndMetrics:
    latency = [0] * plain.pop("buckets")
    for index, count in plain.pop("latency"):
        latency[index] = count
    return EndMetrics(latency=tuple(latency), **plain)
