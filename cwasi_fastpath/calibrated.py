"""What was measured on this machine, and the file that keeps it: one table for each regime of the machine.

The file is a cache. Who could write it could talk hosts into slow choices. It counts only for the machine, the kernel,
the cores and the release on which it was measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from . import cache
from .errors import BadSpec
from .modes import Transport
from .policy import Curve, Way

SAME_REGIME = 1.5
"""A hop that differs by more than this factor is one of another regime: other cores, which share another cache."""

EIGHT_OF_TEN = 1.28
"""Standard deviations on either side in which eight of ten values are."""
_SMALLEST_ERROR, _LARGEST_ERROR = 0.1, 1.0

_SCHEMA = 2
_FILE = "calibration.json"
_LARGEST = 1 << 20
_REGIMES = 6
_LONGEST_NS = 1e12


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured, ns: the median, and where eight of ten values were."""

    ns: float
    low: float
    high: float
    values: int

    def __post_init__(self) -> None:
        if not all(map(_is_time, (self.ns, self.low, self.high))) or not self.low <= self.ns <= self.high:
            raise ValueError(f"{self} is no measured time")
        if not isinstance(self.values, int) or self.values < 1:
            raise ValueError(f"{self} is of no values")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of some size on some way."""

    latency: Timed
    """From send to receipt, between ends that are ready and have nothing queued."""
    stream: float
    """Of one of many that follow each other, ns."""
    cpu: float
    """Of both ends on their cores, ns."""
    parked: float = 0.0
    """How often (0 to 1) its receiver slept all the same."""
    together: float = 0.0
    """Whether both ends were on the same core, 0 to 1."""

    def __post_init__(self) -> None:
        if not _is_time(self.stream) or not _is_time(self.cpu):
            raise ValueError(f"{self} is no measured message")
        if not all(_is_time(part) and part <= 1 for part in (self.parked, self.together)):
            raise ValueError(f"{self} has no parts")

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Message:
        """Raises ValueError, TypeError, KeyError for what is none."""
        return cls(Timed(**plain["latency"]), plain["stream"], plain["cpu"], plain["parked"], plain["together"])


@dataclass(frozen=True, slots=True)
class Rest:
    """What a message costs more after a pause; on a ring, if its receiver sleeps."""

    pause: float
    """ns."""
    ns: float
    """For a small message."""
    byte: float
    """For each byte more, ns."""

    def __post_init__(self) -> None:
        if not all(map(_is_time, (self.pause, self.ns, self.byte))) or self.pause <= 0:
            raise ValueError(f"{self} is no measured rest")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= _LONGEST_NS


@dataclass(frozen=True, slots=True)
class Calibration:
    """What messages cost on this machine, in one of its regimes."""

    hop: float
    """A cache line from one core to another, ns, when this was measured; 0 on a single core."""
    measured_at: float
    """Seconds of the epoch."""
    seconds: float
    """How long it took."""
    ways: Mapping[Way, Mapping[int, Message]]
    """For each way, by size."""
    switches: Mapping[Transport, Timed]
    """A switch to it, of a channel that is in use."""
    wake: float
    """Waking a sleeping thread until it runs, ns."""
    turn: Timed
    """One core given from one thread to another that waits for it."""
    rests: Mapping[Way, Sequence[Rest]] = field(default_factory=lambda: MappingProxyType({}))
    """For each way that was measured with pauses, the shortest first."""
    server: str = ""
    """Which Redis server was measured, if one was; see server_key."""

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "hop_ns": self.hop,
            "measured_at": self.measured_at,
            "seconds": self.seconds,
            "wake_ns": self.wake,
            "turn": asdict(self.turn),
            "server": self.server,
            "ways": {
                str(way): {str(size): asdict(cell) for size, cell in cells.items()} for way, cells in self.ways.items()
            },
            "rests": {str(way): list(map(asdict, rests)) for way, rests in self.rests.items()},
            "switches": {str(kind): asdict(cell) for kind, cell in self.switches.items()},
        }

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Calibration:
        """Raises ValueError, TypeError, KeyError, AttributeError for what is none."""
        hop, at, seconds, wake = (plain[name] for name in ("hop_ns", "measured_at", "seconds", "wake_ns"))
        if not all(map(_is_time, (hop, at, seconds, wake))) or not isinstance(plain["server"], str):
            raise ValueError("no times")
        return cls(
            hop=hop,
            measured_at=at,
            seconds=seconds,
            wake=wake,
            turn=Timed(**plain["turn"]),
            server=plain["server"],
            ways={Way.parse(way): _cells(cells) for way, cells in plain["ways"].items()},
            rests={Way.parse(way): _rests(found) for way, found in plain["rests"].items()},
            switches={Transport(kind): Timed(**cell) for kind, cell in plain["switches"].items()},
        )

    def curves(self, redis: str | None = None) -> dict[Way, Curve]:
        """As policies want it; of a server, only if it was this one."""
        same = self.server == server_key(redis)
        return {
            way: curve(cells, self.rests.get(way, ()))
            for way, cells in self.ways.items()
            if same or way.transport is not Transport.REDIS
        }

    def suits(self, hop: float) -> bool:
        """Whether a hop of now is one of this regime."""
        if hop <= 0 or self.hop <= 0:
            return hop <= 0 and self.hop <= 0
        return max(hop, self.hop) / min(hop, self.hop) <= SAME_REGIME


def _cells(plain: Mapping[str, Any]) -> dict[int, Message]:
    found = {int(size): Message.of_plain(cell) for size, cell in plain.items()}
    if len(found) < 2 or min(found) < 1 or max(found) > _LONGEST_NS:
        raise ValueError("a way was measured at too few sizes, or at none that there can be")
    return dict(sorted(found.items()))


def _rests(plain: Sequence[Mapping[str, Any]]) -> tuple[Rest, ...]:
    found = tuple(Rest(**one) for one in plain)
    if any(one.pause >= other.pause for one, other in pairwise(found)):
        raise ValueError("the pauses do not ascend")
    return found


def curve(cells: Mapping[int, Message], rests: Sequence[Rest] = ()) -> Curve:
    """As policies want it."""
    latencies = [cell.latency for cell in cells.values()]
    spread = median((one.high - one.low) / (2 * EIGHT_OF_TEN * max(one.ns, 1.0)) for one in latencies)
    return Curve(
        sizes=tuple(map(float, cells)),
        latency_ns=tuple(one.ns for one in latencies),
        stream_ns=tuple(cell.stream for cell in cells.values()),
        cpu_ns=tuple(cell.cpu for cell in cells.values()),
        error=min(_LARGEST_ERROR, max(_SMALLEST_ERROR, spread)),
        pauses=tuple(one.pause for one in rests),
        rest_ns=tuple(one.ns for one in rests),
        rest_byte=tuple(one.byte for one in rests),
    )


def server_key(redis: str | None) -> str:
    """Stands for a server's URL, which may hold a password."""
    return "" if redis is None else hashlib.sha256(redis.encode()).hexdigest()[:16]


# ---- whose it is ----


def machine() -> str:
    """What a calibration holds for."""
    parts = (
        _first_line("/etc/machine-id", ""),
        _first_line("/proc/cpuinfo", "model name"),
        platform.release(),
        ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        _release(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _release() -> str:
    try:
        return version("cwasi_fastpath")
    except PackageNotFoundError:
        return ""


def _first_line(path: str, start: str) -> str:
    """Of those that begin so; empty where there is none."""
    try:
        with Path(path).open(encoding="ascii", errors="replace") as file:
            return next((line.strip() for line in file if line.startswith(start)), "")
    except OSError:
        return ""


# ---- the file ----


def path() -> Path:
    """Where it is, or would be."""
    return cache.directory() / _FILE


def load() -> tuple[tuple[Calibration, ...], str]:
    """What is kept for this machine, the latest first, and why there is nothing where there is nothing."""
    try:
        plain = json.loads(cache.read(_FILE, _LARGEST))
        if plain["schema"] != _SCHEMA or not isinstance(plain["regimes"], list):
            return (), f"{path()} is of another release"
        if plain["machine"] != machine():
            return (), f"{path()} is of another machine, kernel or choice of cores"
        return tuple(map(Calibration.of_plain, plain["regimes"][:_REGIMES])), ""
    except FileNotFoundError:
        return (), "nothing was measured yet"
    except OSError as error:
        return (), f"{path()}: {error.strerror or error}"
    except (BadSpec, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return (), f"{path()} is damaged"


def suiting(known: Sequence[Calibration], hop: float, redis: str | None = None) -> Calibration | None:
    """The one of this regime; where there are several, one that has this server, then the latest."""
    fit = [one for one in known if one.suits(hop)]
    same = [one for one in fit if one.server == server_key(redis)]
    return next(iter([*same, *fit]), None)


def store(fresh: Calibration) -> None:
    """Keeps it, in place of that of the same regime and server, and with those of others. Raises OSError where the
    directory is not ours alone, or cannot be written.
    """
    kept = [one for one in load()[0] if not (one.suits(fresh.hop) and one.server == fresh.server)]
    plain = {
        "schema": _SCHEMA,
        "machine": machine(),
        "regimes": [one.as_plain() for one in (fresh, *kept)][:_REGIMES],
    }
    cache.write(_FILE, json.dumps(plain))
