"""What one message costs between ends that are ready, and what more after a pause: as it was measured, else from the
machine's parts. Pure, and total.
"""

from __future__ import annotations

from bisect import bisect_left
from math import log

from ..modes import Transport
from .costs import Costs, Curve
from .way import FREE_RING, ONE_CORE, TWO_CORES, Cores, Way

ERROR_OF_PARTS = 0.4
"""How wrong a prediction from the machine's parts may be, one standard deviation, as a part of it."""

_COLD_BYTES = 98304.0
"""Of a message, of which a pause costs something: the rest is in no near cache in any case."""
_PIPE_SPLICES_FROM = 16384.0
_TCP_MESSAGE, _TCP_BYTE = 3.0, 1.25
"""What the kernel's TCP takes on the loopback, as multiples of what a pipe takes."""
_YIELD = 10.0
"""From one thread to the other on the same core, in system calls."""


def service(costs: Costs, way: Way, size: float, share: float | None = None) -> tuple[float, float, float, float]:
    """Latency, time in a stream and CPU between ends that are ready, and the error.

    share: for what part (0 to 1) of the messages ends that the kernel places are on one core, if that was seen.
    """
    if way == FREE_RING and share is not None:
        one, two = costs.curves.get(ONE_CORE), costs.curves.get(TWO_CORES)
        if one is not None and two is not None:
            pairs = zip(measured(one, size), measured(two, size), strict=True)
            latency, stream, cpu = (share * near + (1 - share) * far for near, far in pairs)
            return latency, stream, cpu, max(one.error, two.error)
    curve = costs.curves.get(way)
    if curve is None:
        latency = _parts(costs, way, size)
        return latency, latency, 2 * latency, ERROR_OF_PARTS
    latency, stream, cpu = measured(curve, size)
    return latency, stream, cpu, curve.error


def rest(costs: Costs, way: Way, size: float, rate: float) -> float:
    """What a message costs more because of the pause before it: on a ring, if its receiver sleeps. rate: messages a
    second; 0: not known.

    Receivers on other ways always sleep, also in what was measured without pauses: for the time there and back.
    """
    ring = way.transport is Transport.RING
    curve = costs.curves.get(way)
    if ring and (curve is None or not curve.pauses):
        curve = costs.curves.get(TWO_CORES)   # who sleeps is not on the core of who wakes him
    if curve is None or not curve.pauses or not rate:
        return costs.wake if ring else 0.0
    pauses, pause = curve.pauses, 1e9 / rate
    above = bisect_left(pauses, pause)
    low, high = max(0, above - 1), min(above, len(pauses) - 1)
    share = _share(pause, pauses[low], pauses[high])
    more = _between(curve.rest_ns, low, high, share)
    more += _between(curve.rest_byte, low, high, share) * min(size, _COLD_BYTES)
    return more if ring or above else more * _share(pause, 2 * measured(curve, size)[0], pauses[0])


def _share(pause: float, low: float, high: float) -> float:
    """How far (0 to 1) from one to the other, by the logarithm."""
    if not 0 < low < high:
        return 0.0 if pause < high else 1.0
    return log(min(max(pause, low), high) / low) / log(high / low)


def measured(curve: Curve, size: float) -> tuple[float, float, float]:
    """Latency, time in a stream and CPU of this size. Flat below the smallest size that was measured."""
    sizes = curve.sizes
    last = len(sizes) - 1
    above = bisect_left(sizes, size)
    if above == 0 or last == 0:
        low = high = 0
        share = 0.0
    else:
        high = min(above, last)
        low = high - 1
        share = (size - sizes[low]) / (sizes[high] - sizes[low])
    latency = _between(curve.latency_ns, low, high, share)
    stream = min(latency, _between(curve.stream_ns, low, high, share)) if curve.stream_ns else latency
    cpu = _between(curve.cpu_ns, low, high, share) if curve.cpu_ns else 2 * latency
    return latency, stream, cpu


def _between(values: tuple[float, ...], low: int, high: int, share: float) -> float:
    """Beyond the last it goes on as it came there, but never down."""
    at_low, at_high = values[low], values[high]
    if share > 1.0:
        return at_high + (share - 1.0) * max(0.0, at_high - at_low)
    return at_low + share * (at_high - at_low)


def _parts(costs: Costs, way: Way, size: float) -> float:
    """Ring: two hops (on one core a change of threads), a copy in and a copy out. Pipe: write and read, a wake, as its
    receiver always sleeps, and from 16 KiB a user's copy instead of the kernel's copy in. Tcp: some multiples of the
    pipe's parts, a copy into the window, and a wake. Redis: what a small message was measured at, and six copies.
    """
    wake = _YIELD * costs.syscall if way.cores is Cores.ONE else costs.wake
    if way.transport is Transport.RING:
        passed = wake if way.cores is Cores.ONE else 2 * costs.hop
        return passed + 2 * costs.copy_byte * size
    if way.transport is Transport.PIPE:
        copied = costs.pipe_byte * size
        if size >= _PIPE_SPLICES_FROM:
            copied = (costs.pipe_byte / 2 + costs.copy_byte) * size
        return costs.pipe_message + copied + wake
    if way.transport is Transport.TCP:
        return _TCP_MESSAGE * costs.pipe_message + (_TCP_BYTE * costs.pipe_byte + costs.copy_byte) * size + wake
    small = costs.redis_message if costs.redis_message is not None else 12 * costs.syscall + 4 * costs.wake
    return small + 6 * costs.copy_byte * size
