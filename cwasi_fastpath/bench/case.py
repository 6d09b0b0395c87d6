"""What is measured: a case, and what one run of it gave. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SEND_COST_BYTES = 64
"""Size of the messages whose send is timed."""

SEND_COST_COUNT = 20_000
"""That many of them fit in a ring with its default of 4 MiB, so that no send waits."""

STREAMED_FROM = 64 << 10
"""Throughput is measured from this size on; below it, latency says all."""


class Kind(StrEnum):
    """What of a path is measured."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SEND_COST = "send-cost"


class Path(StrEnum):
    """What carries the messages."""

    RING = "ring"
    PIPE = "pipe"
    LIST = "redis-list"
    STREAM = "redis-stream"
    TUNED_LIST = "tuned-list"
    TUNED_STREAM = "tuned-stream"


PLAIN_PATHS = (Path.LIST, Path.STREAM)
"""Redis through redis-py with hiredis, as it comes."""

TUNED_PATHS = (Path.TUNED_LIST, Path.TUNED_STREAM)
"""The same, tuned as far as redis-py goes."""

REDIS_PATHS = (*PLAIN_PATHS, *TUNED_PATHS)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that every round measures once."""

    kind: Kind
    path: Path
    size: int
    """Bytes in a message."""

    @property
    def key(self) -> str:
        """Names the case in the JSON."""
        return f"{self.kind}/{self.path}/{self.size}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a case gave."""

    messages: int
    """That arrived."""
    seconds: float
    """That the whole run took."""
    figures: dict[str, float]
    """latency: p50_ns, p99_ns; throughput: bytes_per_second; send-cost: ns_per_call."""


def all_cases(sizes: tuple[int, ...]) -> tuple[Case, ...]:
    """Every case for messages of these sizes."""
    latency = [Case(Kind.LATENCY, path, size) for size in sizes for path in Path]
    throughput = [Case(Kind.THROUGHPUT, path, size) for size in sizes if size >= STREAMED_FROM for path in Path]
    return (*latency, *throughput, Case(Kind.SEND_COST, Path.RING, SEND_COST_BYTES))
