"""Which cases there are. No I/O."""

from __future__ import annotations

from .case import PLAIN_PATHS, RAW_PATHS, Case, Cores, Ends, How, Kind, Path

SIZES = (64, 1 << 10, 64 << 10, 1 << 20, 100_000_000)
QUICK_SIZES = (64, 1 << 20)
FULL_SIZES = (8, 64, 512, 4 << 10, 32 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 100_000_000)

SEND_COST_BYTES = 64
"""Size of the messages whose send is timed; of burst, idle and hand-overs too."""

WORK_BYTES = 1 << 20
"""Size of the messages that one end fills and the other sums up."""

STREAMED_FROM = 64 << 10
"""Throughput is measured from this size on; below it, latency says all. So it does of large messages."""

_POLLED_UP_TO = 1 << 20
"""What is longer does not fit into a ring at once, so that nobody can send it without waiting."""

_LARGE = 16 << 20

_Way = tuple[Ends, Path, Cores, How]

_OWN: tuple[_Way, ...] = (
    (Ends.GUEST, Path.RING, Cores.TWO, How.WAITING),
    (Ends.GUEST, Path.RING, Cores.ONE, How.WAITING),
    (Ends.GUEST, Path.WINDOWS, Cores.TWO, How.WAITING),
    (Ends.GUEST, Path.WINDOWS, Cores.ONE, How.WAITING),
    (Ends.GUEST, Path.PIPE, Cores.TWO, How.WAITING),
    (Ends.GUEST, Path.TCP, Cores.TWO, How.WAITING),
    (Ends.C, Path.RING, Cores.TWO, How.SPINNING),
    (Ends.C, Path.RING, Cores.TWO, How.WAITING),
    (Ends.C, Path.RING, Cores.ONE, How.WAITING),
    (Ends.PYTHON, Path.RING, Cores.TWO, How.SPINNING),
    (Ends.PYTHON, Path.RING, Cores.TWO, How.WAITING),
    (Ends.PYTHON, Path.RING, Cores.ONE, How.WAITING),
)
_OTHERS: tuple[_Way, ...] = (
    (Ends.PYTHON, Path.LIST, Cores.ANY, How.WAITING),
    (Ends.PYTHON, Path.STREAM, Cores.ANY, How.WAITING),
    (Ends.PYTHON, Path.TUNED_LIST, Cores.ANY, How.WAITING),
    (Ends.PYTHON, Path.TUNED_STREAM, Cores.ANY, How.WAITING),
    (Ends.PYTHON, Path.ICEORYX, Cores.TWO, How.SPINNING),
    (Ends.PYTHON, Path.ICEORYX, Cores.ONE, How.WAITING),
    (Ends.PYTHON, Path.ZMQ, Cores.ANY, How.WAITING),
    (Ends.PYTHON, Path.MP_PIPE, Cores.TWO, How.WAITING),
    (Ends.PYTHON, Path.MP_SHARED, Cores.TWO, How.WAITING),
    (Ends.GUEST, Path.STDIO, Cores.ANY, How.WAITING),
)
_ONLY_FULL: tuple[_Way, ...] = (
    (Ends.GUEST, Path.PIPE, Cores.ONE, How.WAITING),
    (Ends.C, Path.PIPE, Cores.TWO, How.WAITING),
    (Ends.C, Path.PIPE, Cores.ONE, How.WAITING),
    (Ends.C, Path.TCP, Cores.TWO, How.WAITING),
    (Ends.C, Path.TCP, Cores.ONE, How.WAITING),
    (Ends.PYTHON, Path.ICEORYX, Cores.TWO, How.WAITING),
    (Ends.PYTHON, Path.MP_PIPE, Cores.ONE, How.WAITING),
)
_LARGE_WAYS: tuple[_Way, ...] = (_OWN[0], *_OTHERS[:2])
"""What is measured of large messages unless everything is: each takes a tenth of a second there."""

HOP = Case(Kind.FLOOR, Path.HOP, SEND_COST_BYTES, Ends.C, Cores.TWO, How.SPINNING)
YIELD = Case(Kind.FLOOR, Path.YIELD, SEND_COST_BYTES, Ends.C, Cores.ONE)
WAKE = Case(Kind.FLOOR, Path.WAKE, SEND_COST_BYTES, Ends.C, Cores.TWO)
OWN_WORK = Case(Kind.PASS, Path.WORK, WORK_BYTES, Ends.GUEST, Cores.ONE)
PASSES = {
    (path, cores): Case(Kind.PASS, path, WORK_BYTES, Ends.GUEST, cores)
    for path in (Path.RING, Path.WINDOWS) for cores in (Cores.ONE, Cores.TWO)
}  # fmt: skip
BUFFERS = Case(Kind.FLOW, Path.BUFFERS, WORK_BYTES, Ends.C, Cores.TWO, How.SPINNING)
FLOWS = {path: Case(Kind.FLOW, path, WORK_BYTES) for path in (Path.RING, Path.WINDOWS)}
LENT, LENT_COPY = (
    Case(Kind.FLOOR, path, WORK_BYTES, Ends.C) for path in (Path.VMSPLICE, Path.VMSPLICE_COPY)
)
WRITTEN = Case(Kind.FLOOR, Path.RAW_TCP, WORK_BYTES, Ends.C)
TURNS = Case(Kind.FLOOR, Path.TCP_TURNS, SEND_COST_BYTES, Ends.C)
BURST = Case(Kind.BURST, Path.RING, SEND_COST_BYTES, Ends.C)
IDLE = Case(Kind.IDLE, Path.RING, SEND_COST_BYTES, Ends.C, Cores.ANY)
SEND_COST = Case(Kind.SEND_COST, Path.RING, SEND_COST_BYTES, cores=Cores.ANY)

_SINGLE = (
    *PASSES.values(), OWN_WORK, *FLOWS.values(), BUFFERS, LENT, LENT_COPY, WRITTEN, TURNS, BURST, IDLE, SEND_COST, HOP,
    YIELD, WAKE,
)  # fmt: skip


def all_cases(sizes: tuple[int, ...], *, cores: int, full: bool = False) -> tuple[Case, ...]:
    """Every case for messages of these sizes on a machine with so many cores. full: with every way there is."""
    streamed = [size for size in sizes if size >= STREAMED_FROM and (full or size <= _LARGE)]
    cases = [
        *(Case(Kind.LATENCY, path, size, ends, place, how)
          for size in sizes for ends, path, place, how in _ways(size, full)),
        *(Case(Kind.THROUGHPUT, path, size, ends, place, how)
          for size in streamed for ends, path, place, how in _ways(size, full) if _streams(path, how)),
        *(Case(Kind.FLOOR, Path.COPY, size, Ends.C, Cores.ONE) for size in streamed),
        *_SINGLE,
    ]  # fmt: skip
    return tuple(case for case in cases if cores > 1 or case.cores is not Cores.TWO)


def transport_cases(sizes: tuple[int, ...], *, cores: int) -> tuple[Case, ...]:
    """Each transport, and what the kernel and a server have without it, for latency and throughput by size."""
    both = (Kind.LATENCY, Kind.THROUGHPUT)
    cases = [
        *(Case(kind, path, size, Ends.C, Cores.TWO)
          for kind in both for path in (Path.RING, Path.PIPE, Path.TCP) for size in sizes),
        # With threads of their own beside the two ends.
        *(Case(kind, path, size, Ends.C, Cores.ANY)
          for kind in both for path in (Path.TLS, Path.REDIS) for size in sizes),
        *(Case(kind, path, size, Ends.C, Cores.TWO) for kind in both for path in RAW_PATHS for size in sizes
          if kind is Kind.THROUGHPUT or path is not Path.VMSPLICE),
        *(Case(kind, path, size, Ends.PYTHON, Cores.ANY) for kind in both for path in PLAIN_PATHS for size in sizes),
    ]  # fmt: skip
    kept = [case for case in cases if case.kind is Kind.LATENCY or case.size <= _LARGE]
    return tuple(case for case in kept if cores > 1 or case.cores is not Cores.TWO)


def _ways(size: int, full: bool) -> list[_Way]:
    ways = (*_OWN, *_OTHERS, *(_ONLY_FULL if full else ()))
    chosen = ways if full or size <= _LARGE else _LARGE_WAYS
    return [way for way in chosen if way[3] is How.WAITING or size <= _POLLED_UP_TO]


def _streams(path: Path, how: How) -> bool:
    """One way of waiting each: a stream hardly waits."""
    return how is (How.SPINNING if path is Path.ICEORYX else How.WAITING)
