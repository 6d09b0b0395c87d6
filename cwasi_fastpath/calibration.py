"""Measures in a few milliseconds what this machine charges for the parts of a message."""

from __future__ import annotations

import time
from functools import cache
from statistics import median

from ._native import check, ffi, lib
from .policy import Costs

_PINGS = 9


@cache
def costs(redis: str | None = None) -> Costs:
    """The costs of this machine, measured once a process. redis: a server's URL. Raises RedisUnavailable."""
    measured = ffi.new("cwasi_costs *")
    check(lib.cwasi_calibrate(measured), "calibration")
    return Costs(
        syscall=measured.syscall,
        copy_byte=measured.copy_byte,
        hop=measured.hop,
        wake=measured.wake,
        pipe_message=measured.pipe_message,
        pipe_byte=measured.pipe_byte,
        redis_message=None if redis is None else _redis_message(redis),
    )


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
    measured = ffi.new("cwasi_costs *")
    check(lib.cwasi_calibrate(measured), "calibration")
    return float(measured.wake)
