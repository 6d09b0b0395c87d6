"""Runs the cases in which two guests of one host exchange messages, over channels or as WASI has it."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File

from .. import errors
from ..guest import Guest
from ..host import Host
from .case import COST, P50, P99, RATE, Case, Cores, Kind, Path, Sample
from .cores import run_both
from .stats import quantile_of

MODULE = File(__file__).with_name("channel.wat")
_CLOCKS = 1000
"""Looks at the clock that ping takes first, to know what they cost."""
_TRIES = 5
"""On a busy machine others may have the core just then, and a look seems to take longer than a message."""
_TRANSPORTS = {Path.WINDOWS: Path.RING}
"""Of paths that are not called as theirs is."""
_STREAMED_KINDS = (Kind.THROUGHPUT, Kind.FLOW)
_STREAM_WINDOW = 1 << 20
"""Room for many small messages, and little enough for the caches."""
_WINDOW_UNIT, _HUGE_PAGE = 65536, 2 << 20
_LARGEST_WINDOW = 1 << 30


def measure(case: Case, count: int) -> Sample:
    """One run of `case` with `count` messages each way. Raises what Host.run raises."""
    runs = {Kind.LATENCY: _latency, Kind.THROUGHPUT: _throughput, Kind.SEND_COST: _send_cost, Kind.FLOW: _flow}
    if case.kind is Kind.PASS:
        return (_own_work if case.path is Path.WORK else _pass)(case, count)
    return runs[case.kind](case, count)


class _Stage:
    """Two guests of one host, and what they write."""

    def __init__(self, case: Case, count: int, directory: File) -> None:
        self.host = Host()
        self._case, self._count, self._directory = case, count, directory

    def load(self, role: str, lockstep: bool, stdin: str | None = None, stdout: str | None = None) -> Guest:
        numbers = (self._count, self._case.size, int(lockstep), _window_bytes(self._case))
        return self.host.load(
            MODULE, role, arguments=(role, *map(str, numbers)),
            stdin=stdin, stdout=stdout, stderr=self._directory / role,
        )  # fmt: skip

    def connect(self, name: str, sender: Guest, receiver: Guest) -> None:
        self.host.connect(name, sender, receiver, transport=_TRANSPORTS.get(self._case.path, self._case.path).value)

    def run(self, first: Guest, second: Guest) -> None:
        run_both(self._case.cores, lambda: self.host.run(first), lambda: self.host.run(second))

    def results(self, role: str) -> list[int]:
        """The nanoseconds that a guest wrote."""
        return [value for (value,) in struct.iter_unpack("<Q", (self._directory / role).read_bytes())]


def _window_bytes(case: Case) -> int:
    """Room for the message that is written and, on another core, the one that is read meanwhile. More would only be
    more memory for the caches to hold.
    """
    if case.path is not Path.WINDOWS:
        return 0
    streams = case.kind in _STREAMED_KINDS
    blocks = 2 if streams and case.cores is Cores.TWO else 1
    wanted = max(blocks * case.size, _STREAM_WINDOW if streams else 0)
    unit = _HUGE_PAGE if wanted > _HUGE_PAGE else _WINDOW_UNIT
    return min(_LARGEST_WINDOW, -(-wanted // unit) * unit)


@contextmanager
def _stage(case: Case, count: int) -> Iterator[_Stage]:
    with tempfile.TemporaryDirectory(prefix="cwasi-bench-") as directory:
        stage = _Stage(case, count, File(directory))
        with stage.host:
            yield stage


def _play(case: Case, count: int, first: str, second: str, *, lockstep: bool = False) -> list[int]:
    """Runs two roles against each other; what the first one found."""
    with _stage(case, count) as stage:
        if case.path is Path.STDIO:
            with _two_pipes() as (there, back):
                stage.run(
                    stage.load(first, lockstep, stdin=back[0], stdout=there[1]),
                    stage.load(second, lockstep, stdin=there[0], stdout=back[1]),
                )
        else:
            one, other = (stage.load(role, lockstep) for role in (first, second))
            stage.connect("there", one, other)
            stage.connect("back", other, one)
            stage.run(one, other)
        return stage.results(first)


@contextmanager
def _two_pipes() -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """As paths, which is how WASI takes files: (read, write) of each."""
    there, back = os.pipe(), os.pipe()
    try:
        yield _paths(there), _paths(back)
    finally:
        for end in (*there, *back):
            os.close(end)


def _paths(pipe: tuple[int, int]) -> tuple[str, str]:
    return f"/proc/self/fd/{pipe[0]}", f"/proc/self/fd/{pipe[1]}"


def _latency(case: Case, count: int) -> Sample:
    """Raises Unavailable where others had the core each time that the clock was looked at."""
    for _ in range(_TRIES):
        clocks, *trips = _play(case, count, "ping", "pong")
        ways = sorted(max(0.0, trip - clocks / _CLOCKS) / 2 for trip in trips)
        if (middle := quantile_of(ways, 0.5)) > 0:
            return Sample(2 * len(ways), sum(trips) / 1e9, {P50: middle, P99: quantile_of(ways, 0.99)})
    raise errors.Unavailable("others had the core whenever the clock was looked at; try it when the cores are free")


def _throughput(case: Case, count: int) -> Sample:
    """From the first send to the receiver's answer to the last message."""
    _sent, answered = _play(case, count, "source", "sink")
    return Sample(count, answered / 1e9, {RATE: count * case.size * 1e9 / answered})


def _flow(case: Case, count: int) -> Sample:
    (took,) = _play(case, count, "fill", "sum")
    return Sample(count, took / 1e9, {RATE: count * case.size * 1e9 / took})


def _pass(case: Case, count: int) -> Sample:
    """From the start of filling a message to the answer that says that it is summed up."""
    (took,) = _play(case, count, "fill", "sum", lockstep=True)
    return Sample(count, took / 1e9, {COST: took / count})


def _own_work(case: Case, count: int) -> Sample:
    """What one guest needs for what the two of a pass do, with the same loops in the same order."""
    with _stage(case, count) as stage:
        guest = stage.load("work", lockstep=False)
        run_both(case.cores, lambda: stage.host.run(guest), lambda: None)
        (took,) = stage.results("work")
    return Sample(count, took / 1e9, {COST: took / count})


def _send_cost(case: Case, count: int) -> Sample:
    """What a guest pays for a call; the receiver runs only when the sender has ended."""
    with _stage(case, count) as stage:
        source, sink = (stage.load(role, lockstep=False) for role in ("source", "sink"))
        stage.connect("there", source, sink)
        stage.host.run(source)
        stage.host.run(sink)
        sent, _sent = stage.results("source")
    return Sample(count, sent / 1e9, {COST: sent / count})
