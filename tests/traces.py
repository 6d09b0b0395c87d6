"""Traces made by hand, for tests of replay."""

from __future__ import annotations

from cwasi_fastpath.modes import EdgeFacts, Locality, Transport
from cwasi_fastpath.policy import Way
from cwasi_fastpath.policy.generate import generate
from cwasi_fastpath.policy.trace import Block, Measured, Trace

RING, PIPE, TCP = Way(Transport.RING), Way(Transport.PIPE), Way(Transport.TCP)
COSTS = generate("steady", seconds=0.1).costs
NEAR = EdgeFacts(Locality.PROCESS)


def trace_of(costs: list[dict[Way, float]], messages: int = 1000) -> Trace:
    """Blocks of 20 ms, with what a message costs on each way, ns."""
    blocks = [
        Block(number * 0.02, 0.02, messages, 256.0, {way: Measured(ns) for way, ns in measured.items()}, NEAR)
        for number, measured in enumerate(costs)
    ]
    return Trace("made by hand", COSTS, tuple(blocks), ())


def in_halves(ns: float, *halves: float) -> Measured:
    """Where each message waits for the one before it. halves: none or two."""
    both = [Measured(half, rate=1e9 / (2 * half)) for half in halves]
    return Measured(ns, rate=1e9 / (2 * ns), halves=(both[0], both[1]) if both else None)
