"""What is measured: a case, and what one run of it gave. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

P50, P99 = "p50_ns", "p99_ns"
RATE = "bytes_per_second"
COST = "ns_per_call"
SHARE = "core_share"
"""The figures that a sample may have."""


class Kind(StrEnum):
    """What of a path is measured."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    PASS = "pass"
    """One end fills a message, the other sums it up; one at a time."""
    FLOW = "flow"
    """The same as a stream."""
    BURST = "burst"
    """A message every 10 us to a receiver that waits, 100 in a row."""
    IDLE = "idle"
    """A receiver to whom nothing is sent."""
    SEND_COST = "send-cost"
    FLOOR = "floor"
    """What the machine charges for the parts."""


class Ends(StrEnum):
    """Who is at both ends."""

    GUEST = "guest"
    C = "c"
    PYTHON = "python"


class Path(StrEnum):
    """What carries the messages, or does the work without any."""

    RING = "ring"
    WINDOWS = "windows"
    """The ring, with messages in place."""
    PIPE = "pipe"
    TCP = "tcp"
    """On the loopback."""
    TLS = "tcp-tls"
    """The same, with TLS."""
    REDIS = "redis"
    """A channel through a server."""
    LIST = "redis-list"
    STREAM = "redis-stream"
    TUNED_LIST = "tuned-list"
    TUNED_STREAM = "tuned-stream"
    ICEORYX = "iceoryx2"
    ZMQ = "zeromq"
    MP_PIPE = "mp-pipe"
    MP_SHARED = "mp-shared"
    STDIO = "wasi-stdio"
    WORK = "own-work"
    BUFFERS = "plain-buffers"
    HOP = "cache-line-hop"
    YIELD = "sched-yield"
    WAKE = "wake"
    COPY = "memcpy"
    VMSPLICE = "raw-vmsplice"
    """A pipe that is lent pages, and read, by two loops."""
    VMSPLICE_COPY = "vmsplice-copy"
    """The same, where each message is copied into the pages first, as it must be when its sender goes on."""
    RAW_PIPE = "raw-pipe"
    """A pipe that one loop writes to and another reads; where they take turns, one for each way."""
    RAW_UNIX = "raw-unix"
    """The same over a pair of unix stream sockets."""
    RAW_TCP = "raw-tcp"
    """A connection on the loopback that one loop writes to and another reads."""
    TCP_TURNS = "raw-tcp-turns"
    """The same, where the two take turns."""


class Cores(StrEnum):
    """Where the two ends run."""

    TWO = "two-cores"
    ONE = "one-core"
    ANY = "any-core"
    """Where the kernel likes: there are further threads or processes."""


class How(StrEnum):
    """How an end waits for the other."""

    SPINNING = "spinning"
    """It asks again and again."""
    WAITING = "waiting"
    """In the call, which may sleep."""


OWN_PATHS = (Path.RING, Path.WINDOWS, Path.PIPE, Path.TCP, Path.TLS, Path.REDIS)

RAW_PATHS = (Path.RAW_PIPE, Path.VMSPLICE, Path.RAW_UNIX, Path.RAW_TCP)
"""What the kernel has, without a channel."""

BYTE_FLOORS = (Path.COPY, Path.VMSPLICE, Path.VMSPLICE_COPY, Path.RAW_TCP)
"""Floors of messages of a size."""

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
    ends: Ends = Ends.GUEST
    cores: Cores = Cores.TWO
    how: How = How.WAITING

    @property
    def key(self) -> str:
        """Names the case in the JSON."""
        return f"{self.kind}/{self.ends}/{self.path}/{self.cores}/{self.how}/{self.size}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a case gave."""

    messages: int
    """That arrived, or how often something was done."""
    seconds: float
    """That it took."""
    figures: dict[str, float]
    """latency, burst: p50_ns, p99_ns; throughput, flow: bytes_per_second; pass, send-cost: ns_per_call; idle:
    core_share; a floor has one of them.
    """
