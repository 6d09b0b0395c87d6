"""Makes traces of a machine that does not exist, for tests and to try policies on. The same for the same seed.

What a message costs here is not what the cost model says: each way is off by a factor of its own, by size, that no
policy is told; contention and the network follow rules of their own; and every block has noise, with outliers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp

from ..errors import BadSpec
from ..modes import EdgeFacts, Locality, Transport
from .costs import SIZES, Costs, Curve
from .model import Conditions, estimate
from .noise import Noise
from .trace import Block, Measured, Trace
from .way import Cores, Way

_RING, _ONE, _TWO = Way(Transport.RING), Way(Transport.RING, Cores.ONE), Way(Transport.RING, Cores.TWO)
_PIPE, _TCP, _REDIS = Way(Transport.PIPE), Way(Transport.TCP), Way(Transport.REDIS)
_NEAR = (_RING, _ONE, _TWO, _PIPE, _TCP, _REDIS)
_BESIDE = (_RING, _PIPE, _TCP, _REDIS)
_FAR = (_TCP, _REDIS)

# us by class of size, as on a machine of two cores that are far from each other: one core's cache has what is large.
_LATENCY_US: Mapping[Way, tuple[float, ...]] = {
    _RING: (0.9, 1.6, 7.0, 95.0, 380.0, 1600.0),
    _ONE: (1.8, 1.9, 3.5, 22.0, 85.0, 360.0),
    _TWO: (0.45, 1.0, 6.0, 90.0, 360.0, 1500.0),
    _PIPE: (28.0, 29.0, 33.0, 60.0, 140.0, 600.0),
    _TCP: (31.0, 32.0, 38.0, 120.0, 400.0, 1700.0),
    _REDIS: (330.0, 340.0, 360.0, 700.0, 1950.0, 7500.0),
}
_SWITCH_US = {Transport.RING: 300.0, Transport.PIPE: 300.0, Transport.TCP: 1000.0, Transport.REDIS: 3000.0}

_HERE, _NODE, _ELSEWHERE = (EdgeFacts(place) for place in Locality)

_MODEL_ERROR = 0.06
_SHARED_NOISE, _OWN_NOISE = 0.05, 0.03
_OUTLIER, _OUTLIER_FACTOR = 0.003, 3.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A time in which nothing changes."""

    share: float
    """Of the whole, relative to the other phases."""
    size: float = 1024.0
    rate: float = 2000.0
    others: float = 0.0
    srtt_ns: float | None = None
    bytes_per_second: float | None = None
    burst: float = 1.0
    facts: EdgeFacts = _HERE
    ways: tuple[Way, ...] = _NEAR


_GOOD_LINK = Phase(1, facts=_ELSEWHERE, ways=_FAR, srtt_ns=150e3, bytes_per_second=1.2e8, rate=500.0)


def _steady(noise: Noise) -> list[Phase]:
    return [Phase(1, size=_some_size(noise), rate=8000 * noise.factor(1.5))]


def _bursty(noise: Noise) -> list[Phase]:
    quiet = Phase(2, size=256.0, rate=100 * noise.factor(0.3), burst=4.0)
    busy = Phase(1, size=256.0, rate=150e3 * noise.factor(0.3), burst=4.0)
    return [quiet, busy] * 6


def _size_shift(noise: Noise) -> list[Phase]:
    small, large = 256 * noise.factor(0.5), 500e3 * noise.factor(0.5)
    return [Phase(1, size=size, rate=rate) for size, rate in ((small, 150e3), (large, 500.0), (small, 150e3))]


def _contention(noise: Noise) -> list[Phase]:
    busy = 0.8 * noise.factor(0.08)
    return [Phase(1, size=512.0, rate=150e3, others=others) for others in (0.02, 0.02 + busy, 0.02)]


def _link(noise: Noise) -> list[Phase]:
    bad = replace(_GOOD_LINK, srtt_ns=4e6 * noise.factor(0.3), bytes_per_second=8e6)
    return [_GOOD_LINK, bad, _GOOD_LINK]


def _migration(noise: Noise) -> list[Phase]:
    here = Phase(1, rate=150e3 * noise.factor(0.3))
    beside = replace(here, facts=_NODE, ways=_BESIDE)
    far = replace(_GOOD_LINK, rate=1000.0)
    return [here, beside, far, here]


def _alike(noise: Noise) -> list[Phase]:
    return [Phase(1, size=_some_size(noise), rate=1000.0)]


def _some_size(noise: Noise) -> float:
    return 64.0 * 2 ** (14 * noise.uniform())


SCENARIOS: Mapping[str, Callable[[Noise], list[Phase]]] = {
    "steady": _steady,
    "bursty": _bursty,
    "size-shift": _size_shift,
    "contention": _contention,
    "link": _link,
    "migration": _migration,
    "alike": _alike,
}
"""By name. alike: all ways cost the same, and only the noise differs."""


def generate(scenario: str, *, seed: int = 1, seconds: float = 120.0, block: float = 0.02) -> Trace:
    """A trace of that scenario. block: seconds of each. Raises BadSpec."""
    if scenario not in SCENARIOS:
        raise BadSpec(f"scenario {scenario!r} is unknown: use {', '.join(SCENARIOS)}")
    noise = Noise(seed)
    phases = SCENARIOS[scenario](noise)
    costs = _machine(alike=scenario == "alike")
    truth = _Truth(costs, noise, exact=scenario == "alike")
    blocks: list[Block] = []
    changes = []
    for index, phase in enumerate(phases):
        count = max(1, round(seconds / block * phase.share / sum(one.share for one in phases)))
        if index:
            changes.append(len(blocks) * block)
        blocks += [truth.block(phase, (len(blocks) + number) * block, block) for number in range(count)]
    about = {"generated": scenario, "seed": seed}
    return Trace(f"{scenario} {seed}", costs, tuple(blocks), tuple(changes), about)


def _machine(*, alike: bool) -> Costs:
    """What a calibration would have found. alike: no way sleeps, waits or costs more than another."""
    curves = {
        way: Curve(
            tuple(map(float, SIZES)),
            tuple(1000 * us for us in (_LATENCY_US[_ONE] if alike else latency)),
            error=0.1,
        )
        for way, latency in _LATENCY_US.items()
    }
    return Costs(
        syscall=180.0, copy_byte=0.05, hop=230.0, wake=0.0 if alike else 20_000.0, pipe_message=3000.0, pipe_byte=0.2,
        redis_message=300_000.0, curves=curves, switch={kind: 1000 * us for kind, us in _SWITCH_US.items()},
        slice=0.0 if alike else 0.3e6, cores=2,
    )  # fmt: skip


class _Truth:
    """What messages really cost."""

    def __init__(self, costs: Costs, noise: Noise, *, exact: bool) -> None:
        """exact: as calibrated, and no way sleeps or spins more than another."""
        self._noise, self._exact = noise, exact
        self._curves = {
            way: curve if exact else _off(curve, noise) for way, curve in costs.curves.items()
        }
        self._costs = replace(costs, curves=self._curves)
        self._wake = costs.wake * noise.factor(0.2)
        self._spins = 50e-6 * noise.factor(0.2)   # seconds, then it sleeps
        self._stint = 60e3 * noise.factor(0.3)   # how long what else runs here runs

    def block(self, phase: Phase, at: float, seconds: float) -> Block:
        """One, with the messages that came in it by chance."""
        noise = self._noise
        expected = phase.rate * seconds
        messages = max(1, round(expected + (expected * max(0.2, phase.burst)) ** 0.5 * noise.normal() * 0.5))
        size = max(1.0, phase.size * noise.factor(0.02))
        shared = noise.factor(_SHARED_NOISE)
        return Block(
            at=round(at, 6), seconds=seconds, messages=messages, size=size, facts=phase.facts, burst=phase.burst,
            others=max(0.0, phase.others + 0.02 * noise.normal()),
            srtt_ns=None if phase.srtt_ns is None else phase.srtt_ns * noise.factor(0.05),
            bytes_per_second=phase.bytes_per_second,
            measured={way: self._measured(phase, way, size, shared, messages) for way in phase.ways},
        )  # fmt: skip

    def _measured(self, phase: Phase, way: Way, size: float, shared: float, messages: int) -> Measured:
        """shared: the noise that all ways of this block have."""
        noise = self._noise
        latency = estimate(self._costs, way, Conditions(size)).latency
        waits = parked = 0.0
        if not self._exact:
            spins = way.transport is Transport.RING and way.cores is not Cores.ONE
            if spins:
                parked = exp(-phase.rate * self._spins)
                latency += parked * self._wake
            if phase.others > 0.1 and way.cores is not Cores.ONE:
                waits = phase.others / (3 if spins else 8)
                latency += waits * self._stint
            if phase.facts.locality is Locality.ELSEWHERE:
                latency += _over_the_network(phase, way, size)
        cpu = 2 * latency
        if way.transport is Transport.RING and way.cores is not Cores.ONE:   # who waits spins
            cpu += 2 * min(self._spins, 1 / phase.rate) * 1e9
        latency *= shared * noise.factor(_OWN_NOISE + 0.1 / max(1, messages) ** 0.5)
        if noise.uniform() < _OUTLIER:
            latency *= _OUTLIER_FACTOR
        return Measured(latency, cpu_ns=cpu, contention=min(1.0, waits), parked=parked)


def _over_the_network(phase: Phase, way: Way, size: float) -> float:
    """By way of the server it is another path, which stays as it is."""
    if way.transport is not Transport.TCP or phase.srtt_ns is None or phase.bytes_per_second is None:
        return 120e3 + size / 1e8 * 1e9
    return 0.55 * phase.srtt_ns + size / phase.bytes_per_second * 1e9


def _off(curve: Curve, noise: Noise) -> Curve:
    whole = noise.factor(_MODEL_ERROR)
    return replace(curve, latency_ns=tuple(_each(curve.latency_ns, whole, noise)))


def _each(values: Sequence[float], whole: float, noise: Noise) -> list[float]:
    return [value * whole * noise.factor(_MODEL_ERROR / 2) for value in values]
