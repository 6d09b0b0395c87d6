"""Frozen records of what was counted. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

STEPS = 16
"""Steps per octave in a latency histogram: a bucket is at most 1/16 of its lower bound wide."""


def bucket_bounds(index: int) -> tuple[float, float]:
    """The latencies [from, to) in ns that bucket `index` counts; the layout is that of the C data plane."""
    octave, step = divmod(index, STEPS)
    width = 2.0**octave / STEPS
    low = 2.0**octave + step * width
    return low, low + width


def quantile(histogram: Sequence[int], q: float) -> float | None:
    """The q-quantile (0 to 1) in ns, interpolated inside its bucket; None where nothing was counted."""
    total = sum(histogram)
    if total == 0:
        return None
    rank = q * total
    below = 0
    for index, count in enumerate(histogram):
        if count and below + count >= rank:
            low, high = bucket_bounds(index)
            return low + (high - low) * max(0.0, rank - below) / count
        below += count
    raise AssertionError("the ranks add up to the total")


@dataclass(frozen=True, slots=True)
class EndMetrics:
    """What one end of a channel counted."""

    messages: int
    """Sent or received by this end."""
    bytes: int
    """Payload only."""
    copied_bytes: int
    """Moved by a copy in user space or by a copying system call of this end."""
    waits: int
    """Calls that could not go on at once."""
    parks: int
    """Times the thread slept in the kernel for it."""
    wakes: int
    """Times this end woke the other."""
    lost_peers: int
    """Peers that failed or died and were left behind."""
    latency: tuple[int, ...]
    """Histogram of send to receipt, see bucket_bounds; counted by receivers."""


@dataclass(frozen=True, slots=True)
class EndReport:
    """What one end of a channel counted, and of what it received, what came from each sender."""

    channel: str
    function: str
    sends: bool
    metrics: EndMetrics
    sources: tuple[EndMetrics, ...] = ()
    """Where there are several senders: for each, without its latencies."""

    def of_source(self, number: int) -> EndMetrics:
        """What came from one sender; the latencies are those of all."""
        return replace(self.sources[number], latency=self.metrics.latency) if self.sources else self.metrics


@dataclass(frozen=True, slots=True)
class ChannelMetrics:
    """What the ends of a channel counted; what an end in another process counted may be missing (0)."""

    sent: int
    """Messages that the transport took."""
    received: int
    """Messages that receivers took."""
    bytes: int
    """Payload received."""
    copied_bytes: int
    """Copied by either end, see EndMetrics."""
    parks: int
    """Sleeps of either end in the kernel."""
    wakes: int
    """Wake-ups of either end by the other."""
    lost_peers: int
    """Ends that failed or died and were left behind by the others."""
    p50_ns: float | None
    """Median time from the start of send to the end of recv, ns; None where no message was timed."""
    p99_ns: float | None
    """Its 99th percentile, ns."""


def channel_metrics(senders: Sequence[EndMetrics], receivers: Sequence[EndMetrics]) -> ChannelMetrics:
    """Joins what the ends counted."""
    ends = [*senders, *receivers]
    latency = [sum(counts) for counts in zip(*(end.latency for end in receivers), strict=True)]
    return ChannelMetrics(
        sent=sum(end.messages for end in senders),
        received=sum(end.messages for end in receivers),
        bytes=sum(end.bytes for end in receivers),
        copied_bytes=sum(end.copied_bytes for end in ends),
        parks=sum(end.parks for end in ends),
        wakes=sum(end.wakes for end in ends),
        lost_peers=sum(end.lost_peers for end in ends),
        p50_ns=quantile(latency, 0.5),
        p99_ns=quantile(latency, 0.99),
    )


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy is told about an edge's past."""

    messages: int
    mean_bytes: float
    parked: float
    """How often (0 to 1) the receiver slept when a message came."""
    seconds: float | None = None
    """How long this was observed. Of this and all below, None is: not known."""
    latency_ns: float | None = None
    """From send to receipt on the way in use, the mean."""
    rate: float | None = None
    """Messages a second."""
    burst: float | None = None
    """How uneven they come: the variance of the gaps between them over their mean squared; 0 a clock, 1 by chance."""
    cpu_ns: float | None = None
    """Of both ends on their cores, for one message."""
    contention: float | None = None
    """The part (0 to 1) of the time in which an end could have run that it waited for a core."""
    others: float | None = None
    """How many of the cores that the ends may use were busy with something else."""
    srtt_ns: float | None = None
    """There and back between the nodes, as the network's smoothed estimate has it."""
    bytes_per_second: float | None = None
    """What the network between the nodes gives."""
    network_age: float | None = None
    """Seconds since these two were seen, where nothing goes through that network now, and nobody sounds it; else they
    are as good as of this window.
    """
    syscalls_ns: float | None = None
    """In system calls, without the sleep in them, for one message, of that end for which it is more. This and what is
    below only a tracer knows.
    """
    woken_ns: float | None = None
    """From being woken up to running, of the receivers; the mean."""

    @classmethod
    def of(cls, messages: int, size: int, parks: int) -> Observation:
        """Of so many messages with `size` bytes in all, for which the ends slept `parks` times."""
        count = max(1, messages)
        slept = parks / count
        return cls(messages, size / count, slept if slept != slept else min(1.0, slept))   # NaN stays what it is


_QUEUED = 2.0
"""Messages on their way at a time, on average, with which each waits for others."""


def queued(seen: Observation) -> bool:
    """Whether there was a queue all the time (Little's law): its receivers take no more, and how long a message takes
    says only how much the queue holds.
    """
    return seen.latency_ns is not None and (seen.rate or 0.0) * seen.latency_ns * 1e-9 >= _QUEUED


_LONG, _MANY = 1e13, 1e5
_HIGHEST = {
    "messages": 2.0**63, "mean_bytes": 2.0**31, "parked": 1.0, "seconds": _LONG, "latency_ns": _LONG, "rate": _LONG,
    "burst": _LONG, "cpu_ns": _LONG, "contention": 1.0, "others": _MANY, "srtt_ns": _LONG, "bytes_per_second": _LONG,
    "network_age": _LONG, "syscalls_ns": _LONG, "woken_ns": _LONG,
}  # fmt: skip
"""What is more cannot be."""
_NEEDED = ("messages", "mean_bytes", "parked")


def nonsense(observation: Observation) -> tuple[str, ...]:
    """The fields that cannot be what was measured: NaN, infinite, negative, or more than there can be."""
    return tuple(
        name for name, highest in _HIGHEST.items()
        if (value := getattr(observation, name)) is not None and not 0 <= value <= highest
    )


def sane(observation: Observation) -> Observation | None:
    """Without such fields; None where one is without which the rest says nothing."""
    o = observation
    if (   # all at once, as this is asked often
        0 <= o.messages <= 2**63 and 0 <= o.mean_bytes <= 2**31 and 0 <= o.parked <= 1
        and (o.seconds is None or 0 <= o.seconds <= _LONG)
        and (o.latency_ns is None or 0 <= o.latency_ns <= _LONG)
        and (o.rate is None or 0 <= o.rate <= _LONG)
        and (o.burst is None or 0 <= o.burst <= _LONG)
        and (o.cpu_ns is None or 0 <= o.cpu_ns <= _LONG)
        and (o.contention is None or 0 <= o.contention <= 1)
        and (o.others is None or 0 <= o.others <= _MANY)
        and (o.srtt_ns is None or 0 <= o.srtt_ns <= _LONG)
        and (o.bytes_per_second is None or 0 <= o.bytes_per_second <= _LONG)
        and (o.network_age is None or 0 <= o.network_age <= _LONG)
        and (o.syscalls_ns is None or 0 <= o.syscalls_ns <= _LONG)
        and (o.woken_ns is None or 0 <= o.woken_ns <= _LONG)
    ):  # fmt: skip
        return observation
    wrong = nonsense(observation)
    if any(name in wrong for name in _NEEDED):
        return None
    unknown: dict[str, Any] = dict.fromkeys(wrong)
    return replace(observation, **unknown)
