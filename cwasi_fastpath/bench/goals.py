"""What the product promises, as ratios of what was measured in the same round. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .case import P99, PLAIN_PATHS, Case, Cores, Ends, How, Kind, Path
from .matrix import (
    BUFFERS,
    BURST,
    FLOWS,
    HOP,
    IDLE,
    LENT,
    LENT_COPY,
    OWN_WORK,
    PASSES,
    SEND_COST,
    TURNS,
    WRITTEN,
    YIELD,
)  # fmt: skip
from .stats import Estimate, estimate
from .units import size_text


class Figures(Protocol):
    """One figure of one round: figures(case), or figures(case, P99) for another than the main one."""

    def __call__(self, case: Case, figure: str | None = None) -> float:
        """Raises KeyError for what was not measured."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A value that each round gives, and what it should be."""

    name: str
    unit: str
    wanted: float | None
    """None: nothing is promised, it stands there for comparison."""
    at_least: bool
    """Whether more is better."""
    value: Callable[[Figures], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise and what the rounds gave for it."""

    name: str
    unit: str
    wanted: float | None
    at_least: bool
    measured: Estimate | None

    @property
    def verdict(self) -> str:
        """met, missed, or undecided where the interval reaches over the goal; no goal where nothing was promised."""
        if self.measured is None:
            return "not measured"
        if self.wanted is None:
            return "no goal"
        interval = (self.measured.low, self.measured.high)
        good = [value >= self.wanted if self.at_least else value <= self.wanted for value in interval]
        if any(good):
            return "met" if all(good) else "undecided"
        return "missed"


def goals(rounds: Sequence[Figures], seed: int) -> tuple[Goal, ...]:
    """Every promise against the rounds."""
    return tuple(
        Goal(promise.name, promise.unit, promise.wanted, promise.at_least, _measured(promise, rounds, seed))
        for promise in PROMISES
    )


def _measured(promise: Promise, rounds: Sequence[Figures], seed: int) -> Estimate | None:
    try:
        return estimate([promise.value(figures) for figures in rounds], seed=seed)
    except KeyError:
        return None


# ---- the promises ----


def _at_most(name: str, wanted: float | None, unit: str, value: Callable[[Figures], float]) -> Promise:
    return Promise(name, unit, wanted, False, value)


def _at_least(name: str, wanted: float | None, unit: str, value: Callable[[Figures], float]) -> Promise:
    return Promise(name, unit, wanted, True, value)


def _small(ends: Ends, cores: Cores, how: How = How.WAITING, path: Path = Path.RING) -> Case:
    return Case(Kind.LATENCY, path, 64, ends, cores, how)


def _redis(kind: Kind, size: int) -> list[Case]:
    return [Case(kind, path, size, Ends.PYTHON, Cores.ANY) for path in PLAIN_PATHS]


def _less_than_redis(size: int, wanted: float) -> Promise:
    """Percent, against the better of list and stream."""
    ring, redis = Case(Kind.LATENCY, Path.RING, size), _redis(Kind.LATENCY, size)
    return _at_least(f"{size_text(size)}, guest to guest", wanted, "% less than Redis",
                     lambda of: 100 * (1 - of(ring) / min(map(of, redis))))  # fmt: skip


def _times_redis(path: Path, size: int, wanted: float) -> Promise:
    ours, redis = Case(Kind.THROUGHPUT, path, size), _redis(Kind.THROUGHPUT, size)
    return _at_least(f"stream of {size_text(size)}, guest to guest, {_MEANS[path]}", wanted, "x Redis",
                     lambda of: of(ours) / max(map(of, redis)))  # fmt: skip


def _pass(path: Path, cores: Cores, wanted: float | None) -> Promise:
    """On one core the parts are the work and the hand-over; across two the caches' exchange is in it as well, which no
    transport can do anything about."""
    name = f"1 MiB guest fills -> guest sums, {_CORES[cores]}, {_MEANS[path]}"
    return _at_most(name, wanted, "x own work", lambda of: of(PASSES[path, cores]) / of(OWN_WORK))


def _flow(path: Path, wanted: float) -> Promise:
    name = f"stream of 1 MiB fill -> sum, two cores, {_MEANS[path]}"
    return _at_least(name, wanted, "x plain buffers", lambda of: of(FLOWS[path]) / of(BUFFERS))


_MEANS = {Path.RING: "copies", Path.WINDOWS: "windows"}
_CORES = {Cores.ONE: "one core", Cores.TWO: "two cores"}


_PIPE = Case(Kind.THROUGHPUT, Path.PIPE, 1 << 20)
_TCP = Case(Kind.THROUGHPUT, Path.TCP, 1 << 20)
_C = _small(Ends.C, Cores.TWO, How.SPINNING)
_C_TOGETHER = _small(Ends.C, Cores.ONE)
_GUEST = _small(Ends.GUEST, Cores.TWO)
_PYTHON = _small(Ends.PYTHON, Cores.TWO, How.SPINNING)
_PYTHON_TOGETHER = _small(Ends.PYTHON, Cores.ONE)
_ICEORYX = _small(Ends.PYTHON, Cores.TWO, How.SPINNING, Path.ICEORYX)
_ICEORYX_TOGETHER = _small(Ends.PYTHON, Cores.ONE, path=Path.ICEORYX)

PROMISES = (
    _at_most("64 B, C to C, spinning on two cores", 2.5, "x a hop", lambda of: of(_C) / of(HOP)),
    _at_most("64 B, guest to guest, two cores", 3.5, "x a hop", lambda of: of(_GUEST) / of(HOP)),
    _at_most("64 B, C to C, both on one core", 1.2, "x a yield", lambda of: of(_C_TOGETHER) / of(YIELD)),
    _at_most("64 B every 10 us, p99", 2, "us", lambda of: of(BURST, P99) / 1e3),
    _at_most("a receiver to whom nothing is sent", 1, "% of a core", lambda of: 100 * of(IDLE)),
    _at_most("a guest's send of 64 B, with room", 100, "ns", lambda of: of(SEND_COST)),
    _pass(Path.RING, Cores.ONE, 1.6),
    _pass(Path.WINDOWS, Cores.ONE, 1.1),
    _pass(Path.RING, Cores.TWO, None),
    _pass(Path.WINDOWS, Cores.TWO, None),
    _flow(Path.RING, 0.7),
    _flow(Path.WINDOWS, 1.0),
    _at_least("stream of 1 MiB, guest to guest, pipe", 0.8, "x raw vmsplice", lambda of: of(_PIPE) / of(LENT)),
    _at_least("stream of 1 MiB, guest to guest, pipe", None, "x vmsplice with a copy in",
              lambda of: of(_PIPE) / of(LENT_COPY)),
    _at_least("stream of 1 MiB, guest to guest, tcp", None, "x raw tcp", lambda of: of(_TCP) / of(WRITTEN)),
    _at_most("64 B, guest to guest, tcp", None, "x raw tcp",
             lambda of: of(Case(Kind.LATENCY, Path.TCP, 64)) / of(TURNS)),
    _at_most("64 B, Python to Python, spinning", 1, "us", lambda of: of(_PYTHON) / 1e3),
    _at_most("64 B, Python to Python, one core", 4, "us", lambda of: of(_PYTHON_TOGETHER) / 1e3),
    _at_most("64 B, Python to Python, spinning", 1, "x iceoryx2", lambda of: of(_PYTHON) / of(_ICEORYX)),
    _at_most("64 B, Python to Python, one core", 1, "x iceoryx2",
             lambda of: of(_PYTHON_TOGETHER) / of(_ICEORYX_TOGETHER)),
    *(_less_than_redis(size, wanted)
      for size, wanted in ((64, 99), (1 << 10, 99), (64 << 10, 95), (1 << 20, 95), (100_000_000, 98))),
    _times_redis(Path.RING, 1 << 20, 20),
    _times_redis(Path.WINDOWS, 1 << 20, 35),
)  # fmt: skip
