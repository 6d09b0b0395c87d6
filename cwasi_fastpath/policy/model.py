"""The cost model: what a message costs on each way, from what this machine charges. Pure, and total: any input has a
finite answer.

The parts, and where their formulas are from:

- service: what was measured by size, c + m * N between neighbouring sizes; else from the machine's parts (service.py);
- placement: ends that the kernel places share a core or have two; where it was seen which, the service is that of the
  one or of the other;
- wake: the part of the messages that find the receiver asleep, times a wake. A receiver spins SPIN_NS and then sleeps;
  gaps by chance (exponential) are longer than that in exp(-SPIN_NS * rate) of all cases;
- rest: after a pause cores sleep deeper, and caches have less of what is needed: what that takes was measured for some
  pauses, as c + m * N. In between it grows with the logarithm of the pause, as cores go from one state to the next;
- queue: Kingman's approximation of the mean wait in a G/G/1 queue, rho / (1 - rho) * (ca2 + cs2) / 2 * service, which
  is Pollaczek and Khinchine's formula for M/G/1 where the gaps are exponential (J. F. C. Kingman, "The single server
  queue in heavy traffic", 1961); what a transport holds bounds it;
- contention: where more threads want cores than there are, each has its fair share; who waits for a core waits for half
  of another's slice on average, and of less where the others run for a part of the time only. Where each message waits
  for an answer to the one before, none comes in the meantime. Where a tracer sees how long the receivers take from
  being woken to running, that is what a message waits whose receiver sleeps;
- network: half of the way there and back, and the bytes at the network's rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, hypot, isfinite
from typing import NamedTuple

from ..metrics import Observation
from ..modes import Transport
from .costs import Costs
from .service import rest, service
from .way import Cores, Way, way_of

ASSUMED_BYTES = 65536.0
"""The message size that is assumed before any was seen."""

SPIN_NS = 50_000.0
"""How long a receiver spins before it sleeps, about."""

REGULAR = 0.25
"""Messages whose gaps vary less follow each other: each waits for an answer to the one before."""

_ERROR_OF_WAITS = 0.3
"""How wrong what is not the service itself may be, one standard deviation, as a part of it: wakes, queues, contention,
a network of which nothing was seen;"""
_ERROR_OF_TOLD = 0.1
"""and one of which was seen how long it takes there and back, or how much it gives."""

_RHO = 0.98
"""Above this the queue is what the transport holds."""
_SERVICE_VARIES = 0.5
_CROWDED = ((0.2, 0.0), (0.6, 0.35), (2.0, 0.8))
"""Parts of the time that are waited for a core, below a bound, and what is reckoned with. Few levels: how long a
message waits is known so badly that it is to be learnt for each, and small parts are no more than noise."""
LEVELS = len(_CROWDED)
_HOLDS = {Transport.RING: 4 << 20, Transport.PIPE: 1 << 20, Transport.TCP: 4 << 20, Transport.REDIS: 64 << 20}
"""Bytes that can be on their way."""
_CROWD_SECONDS = 120.0
"""How long it is believed that others want the cores, where that cannot be seen."""
_HIGHEST = 1e15
_ASSUMED_SRTT, _ASSUMED_NETWORK = 200_000.0, 1e8


class Conditions(NamedTuple):
    """What a prediction is for."""

    size: float = ASSUMED_BYTES
    """Of a message, bytes."""
    parked: float = 0.0
    """How often (0 to 1) the receiver sleeps when a message comes, on the way that was observed."""
    rate: float = 0.0
    """Messages a second; 0: not known, or so few that none waits for another."""
    burst: float = 1.0
    others: float | None = None
    """Cores that others keep busy."""
    contention: float | None = None
    """The part of the time that was waited for a core that others had, on the way that was observed."""
    apart: float | None = None
    """The same, when last seen, where each end has a core of its own."""
    srtt: float | None = None
    network: float | None = None
    """Bytes a second between the nodes."""
    way: Way | None = None
    """On which all this was observed."""
    receivers: int = 1
    far: bool = False
    """The ends are on different nodes."""
    woken: float | None = None
    """From being woken up to running, where a tracer has seen it."""

    @classmethod
    def of(
        cls,
        observation: Observation | None,
        way: Way | None = None,
        receivers: int = 1,
        far: bool = False,
        held: Conditions | None = None,
        gone: float = 0.0,
    ) -> Conditions:
        """Those of an observation that makes sense. held: what was known so many seconds before, which what cannot be
        seen is like.
        """
        seen = observation
        if seen is None or seen.messages == 0:
            return cls(way=way, receivers=receivers, far=far)
        rate = seen.rate
        if rate is None:
            rate = min(seen.messages / seen.seconds, 1e10) if seen.seconds else 0.0
        contention = seen.contention
        if contention is not None and way is not None and way.cores is not Cores.TWO:
            # Ends that may share a core wait for each other, too: for half of the time that they could run.
            contention = max(0.0, 2 * contention - 1)
        burst = 1.0 if seen.burst is None else seen.burst
        apart = None if way is not None and way.cores is not Cores.TWO else contention
        others, srtt, woken = seen.others, seen.srtt_ns, seen.woken_ns
        if held is not None:
            if apart is None and held.apart is not None:
                apart = held.apart * exp(-gone / _CROWD_SECONDS)
            others = held.others if others is None else others
            # A tracer that has gone, or is late, has changed nothing.
            woken = held.woken if woken is None else woken
            if way is held.way or way == held.way:
                srtt = held.srtt if srtt is None else srtt
                contention = held.contention if contention is None else contention
        return tuple.__new__(cls, (   # by their order: names take longer, and this is asked often
            seen.mean_bytes, seen.parked, rate, burst, others, contention, apart, srtt, seen.bytes_per_second, way,
            receivers, far, woken,
        ))  # fmt: skip


class Estimate(NamedTuple):
    """Of one message, ns."""

    latency: float
    stream: float
    """In a stream of messages, each after the other."""
    cpu: float
    """Of both ends."""
    error: float
    """As a part of it, one standard deviation."""
    level: int = 0
    """How crowded the cores are for this way."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a message is expected to cost, ns: the time from send to receipt, or what the objective makes of it."""

    way: Way
    ns: float
    low: float = 0.0
    high: float = 0.0
    """It lies between these nineteen times in twenty, if the model holds."""
    ruled_out: str | None = None
    """The constraint that forbids this way."""

    @property
    def transport(self) -> Transport:
        return self.way.transport

    def __str__(self) -> str:
        if self.ruled_out is not None:
            return f"{self.way}: {self.ruled_out}"
        return f"{self.way} (about {self.ns / 1000:.1f} us)"


def predict(costs: Costs, way: Way, conditions: Conditions) -> Prediction:
    """The time from send to receipt of one message."""
    found = estimate(costs, way, conditions)
    spread = exp(1.96 * found.error)
    return Prediction(way, found.latency, found.latency / spread, found.latency * spread)


def estimate(costs: Costs, way: Way, conditions: Conditions, together: float | None = None) -> Estimate:
    """All that the model says of one message on this way. together: for what part (0 to 1) of the messages ends that
    the kernel places shared a core, if that was seen.
    """
    transport, cores = way.transport, way.cores
    size, rate = conditions.size, conditions.rate
    latency, stream, cpu, error = service(costs, way, size, together)
    served = latency
    spins = transport is Transport.RING and cores is not Cores.ONE
    parked = sleeps(way, conditions) if spins else 0.0
    if transport is not Transport.RING or parked:
        latency += (parked if spins else 1.0) * rest(costs, way, size, rate)
    latency += _queue(rate, conditions.burst, stream, _HOLDS[transport] / max(size, 64.0))
    # Guests that work need a core each, whatever carries their messages.
    needed = 1.0 if cores is Cores.ONE else 2.0 - (parked if spins else conditions.parked)
    level = _level(costs, way, needed, conditions)
    waits = _CROWDED[level][1]
    asleep = 0.0
    if conditions.woken is not None and cores is not Cores.ONE:   # what is seen need not be guessed
        asleep = parked if spins else 1.0
        latency += asleep * max(0.0, conditions.woken - costs.wake)
    if waits and conditions.burst >= REGULAR:
        waited = waits * costs.slice / 2 * min(1.0, conditions.others if conditions.others is not None else 1.0)
        latency += (1 - asleep) * waited
    elif waits:   # who waits holds up no others, and gives the core to whom it waits for
        latency /= 1 - waits
    stream /= 1 - waits
    if transport is not Transport.RING and conditions.receivers > 1:
        latency += (conditions.receivers - 1) / 2 * stream   # sent to one after the other, also by a server
    told = 0.0
    if conditions.far:
        network, told = _network(transport, conditions)
        latency += network
    if latency > max(0.0, served):
        guessed = latency - served - told
        error = hypot(error * served, _ERROR_OF_WAITS * guessed, _ERROR_OF_TOLD * told) / latency
    if spins and rate:
        cpu += 2 * min(SPIN_NS, max(0.0, 1e9 / rate - stream))
    if not isfinite(latency + stream + cpu + error):
        return Estimate(_HIGHEST, _HIGHEST, _HIGHEST, _ERROR_OF_WAITS, level)
    return Estimate(_clamped(latency), _clamped(stream), _clamped(cpu), error, level)


def _clamped(ns: float) -> float:
    return max(0.0, min(ns, _HIGHEST))


def sleeps(way: Way, conditions: Conditions) -> float:
    """How often (0 to 1) the receiver sleeps when a message comes: as observed on such a way; for another, from the
    rate, where it is known. Where each message waits for the answer to the one before, that is the rate of the way in
    use, and on another one answers come as soon as that has them.
    """
    seen = conditions.way
    alike = seen is None or (seen.transport is Transport.RING and seen.cores is not Cores.ONE)
    if alike or not conditions.rate:
        return conditions.parked
    if conditions.burst < REGULAR:
        return 0.0
    return exp(-SPIN_NS * 1e-9 * conditions.rate)


def _queue(rate: float, burst: float, service: float, holds: float) -> float:
    """How long a message waits for those before it. holds: messages that can be on their way.

    Messages that come as by a clock wait for none; as a rule each of them waits for an answer to the one before it,
    and a slower way only has fewer of them.
    """
    if not rate or burst < REGULAR:
        return 0.0
    rho = min(_RHO, rate * service * 1e-9)
    return service * min(max(1.0, holds), rho / (1 - rho) * (burst + _SERVICE_VARIES) / 2)


def _level(costs: Costs, way: Way, needed: float, conditions: Conditions) -> int:
    """For what part of the time an end waits for a core. needed: cores that this way keeps busy.

    Ends that were seen on one core, or where the kernel puts them, wait as they did: also if another core is free, as
    they are not on it. What was measured of two cores bounds what those who are seen on the cores might do: they may
    give way. Who has waited for one of two cores needs both, however often it sleeps. Ends that the kernel places say
    nothing of two cores: it may have them on one that nobody else wants. Such a one is waited for no longer than two.
    """
    there = conditions.way is None or conditions.way.cores is way.cores
    if there:
        seen = conditions.contention
    elif way.cores is Cores.ONE and conditions.others is None:
        seen = 0.0
    else:
        seen = conditions.apart
    if conditions.others is None or (there and seen is not None and way.cores is not Cores.TWO):
        return crowded(seen or 0.0)
    wanted = (2.0 if there and seen else needed) + max(0.0, conditions.others)
    share = max(0.0, (wanted - costs.cores) / wanted)
    return crowded(share if seen is None else min(share, seen))


def wanted_by_others(costs: Costs, waited: float) -> float:
    """Cores that others keep busy where two ends with a core each wait for this part of the time: see _level. One core
    may be free all the same: whether it is cannot be felt there.
    """
    return max(0.0, min(costs.cores - 1.0, costs.cores / max(1.0 - waited, 1e-3) - 2.0))


def crowded(share: float) -> int:
    """The level of a part of the time that is waited for a core."""
    return next((level for level, (bound, _) in enumerate(_CROWDED) if share < bound), len(_CROWDED) - 1)


def _network(transport: Transport, conditions: Conditions) -> tuple[float, float]:
    """What it adds, and what of that was seen: of the direct path; the one by way of a server is another."""
    srtt = bandwidth = None
    if transport is Transport.TCP:
        srtt, bandwidth = conditions.srtt, conditions.network
    half = (_ASSUMED_SRTT if srtt is None else srtt) / 2
    carried = 1e9 * conditions.size / max(1.0, bandwidth or _ASSUMED_NETWORK)
    return half + carried, (0.0 if srtt is None else half) + (carried if bandwidth else 0.0)


def ways_of(ways: frozenset[Way]) -> list[Way]:
    """In a fixed order, so that the same question has the same answer. Empty: every transport."""
    return [way for way in _EVERY if way in ways] if ways else _FREE


_EVERY = [way_of(transport, cores) for transport in Transport for cores in Cores]
_FREE = [way_of(transport) for transport in Transport]
