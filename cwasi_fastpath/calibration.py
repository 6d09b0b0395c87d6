"""Measures what this machine charges: in a few milliseconds for the parts of a message, in less than a second for whole
messages on every way (`cwasi calibrate`), which is kept for later hosts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import cache, partial
from statistics import median
from typing import Any

from . import calibrated, paced_ways, timed_ways
from ._native import check, ffi, lib
from .calibrated import Calibration, Message
from .cpu import usable_cores
from .policy import Costs, Way
from .policy.service import measured
from .policy.way import TWO_CORES

_PINGS = 9
_HOPS = 400
_TRIES = 3


@cache
def costs(redis: str | None = None) -> Costs:
    """The costs of this machine, measured once a process; with what `cwasi calibrate` has found in the regime that the
    machine is in now, if it has. redis: a server's URL. Raises RedisUnavailable.
    """
    parts = _parts()
    return _costs(parts, calibrated.suiting(calibrated.load()[0], parts.hop, redis), redis)


def costs_by(found: Calibration, redis: str | None = None) -> Costs:
    """As costs(), with this, whatever is kept. Raises RedisUnavailable."""
    return _costs(_parts(), found, redis)


def _costs(parts: Any, found: Calibration | None, redis: str | None) -> Costs:
    return Costs(
        syscall=parts.syscall,
        copy_byte=parts.copy_byte,
        hop=parts.hop,
        wake=parts.wake if found is None else found.wake,   # measured with more patience
        pipe_message=parts.pipe_message,
        pipe_byte=parts.pipe_byte,
        redis_message=None if redis is None else _redis_message(redis),
        curves={} if found is None else found.curves(redis),
        switch={} if found is None else {kind: took.ns for kind, took in found.switches.items()},
        cores=max(1, math.floor(usable_cores())),
    )


def _parts() -> Any:
    parts = ffi.new("cwasi_costs *")
    check(lib.cwasi_calibrate(parts), "calibration")
    return parts


def calibrate(redis: str | None = None) -> Calibration:
    """Measures whole messages on every way that this node can have. redis: a server's URL.

    Raises RedisUnavailable, Unavailable where the machine is too busy, OSError.
    """
    start = time.monotonic()
    wake = median(_parts().wake for _ in range(_TRIES))   # and decides how large messages are copied
    with timed_ways.all_sides(timed_ways.ways(redis), redis) as sides:
        found = timed_ways.message_times(sides)
        rests = paced_ways.rest_times(sides, partial(_ready, found)) if TWO_CORES in found else {}
    return Calibration(
        hop=hop_ns(_HOPS),
        measured_at=time.time(),
        ways=found,
        rests=rests,
        switches=timed_ways.switch_times(redis),
        wake=wake,
        turn=timed_ways.turn_time(),
        server=calibrated.server_key(redis),
        seconds=time.monotonic() - start,
    )


def _ready(found: Mapping[Way, Mapping[int, Message]], way: Way, size: int) -> float:
    """What a message takes between ends that are ready."""
    return measured(calibrated.curve(found[way]), float(size))[0]


def known(redis: str | None = None) -> tuple[Calibration | None, str]:
    """What is kept for the regime that the machine is in now; or why there is nothing."""
    found, why = calibrated.load()
    hop = hop_ns(_HOPS)
    suiting = calibrated.suiting(found, hop, redis)
    if suiting is None and found:
        why = f"the machine is in another regime: a hop takes {hop:.0f} ns now, and {found[0].hop:.0f} ns then"
    return suiting, why


def _redis_message(url: str) -> float:
    """A message is two requests, one from each end, of which the second waits for the first."""
    from .transport.redis_client import close, connect

    client = connect(url)
    times = []
    for _ in range(_PINGS):
        start = time.perf_counter_ns()
        client.ping()
        times.append(time.perf_counter_ns() - start)
    close(client)
    return 2.0 * median(times)


def hop_ns(rounds: int = 2000) -> float:
    """The one-way time of a cache line between two cores now, ns: the machine's regime. 0 on a single core."""
    return float(lib.cwasi_measure_hop(rounds))


def wake_ns() -> float:
    """The time until a sleeping thread on another core runs, now, ns. 0 on a single core."""
    return float(_parts().wake)
