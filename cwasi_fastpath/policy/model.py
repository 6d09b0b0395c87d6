"""The cost model: what a message costs on each way, from what this machine charges for its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..metrics import Observation
from ..modes import Transport
from .costs import Costs
from .way import Cores, Way

ASSUMED_BYTES = 65536.0
"""The message size that is assumed before any was seen."""

_PIPE_SPLICES_FROM = 16384.0

_TCP_MESSAGE, _TCP_BYTE = 3.0, 1.25
"""What the kernel's TCP takes on the loopback, as multiples of what a pipe takes."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a prediction is for."""

    size: float = ASSUMED_BYTES
    """Of a message, bytes."""
    parked: float = 0.0
    """How often (0 to 1) the receiver sleeps when a message comes."""

    @classmethod
    def of(cls, observation: Observation | None) -> Self:
        """Those that were observed."""
        if observation is None or observation.messages == 0:
            return cls()
        return cls(observation.mean_bytes, observation.parked)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The expected time from send to receipt of one message, ns."""

    way: Way
    ns: float
    low: float = 0.0
    high: float = 0.0
    """It lies between these nineteen times in twenty."""
    ruled_out: str | None = None
    """The constraint that forbids this way."""

    @property
    def transport(self) -> Transport:
        return self.way.transport

    def __str__(self) -> str:
        return f"{self.way} (about {self.ns / 1000:.1f} us)"


def predict(costs: Costs, way: Way, conditions: Conditions) -> Prediction:
    """Cost of one message.

    Formulas: ring = two hops, a copy in and a copy
    out; pipe = write and read, a wake (its receiver always sleeps), from 16 KiB a user copy instead of the kernel's
    copy in; tcp = some multiples of the pipe's parts, a copy into the window, a wake, and no network; redis = what a
    small message was measured at, and six copies.
    """
    transport, size = way.transport, conditions.size
    if transport is Transport.RING:
        ns = 2 * costs.hop + 2 * costs.copy_byte * size + conditions.parked * costs.wake
    elif transport is Transport.PIPE:
        copied = costs.pipe_byte * size
        if size >= _PIPE_SPLICES_FROM:
            copied = (costs.pipe_byte / 2 + costs.copy_byte) * size
        ns = costs.pipe_message + copied + costs.wake
    elif transport is Transport.TCP:
        ns = _TCP_MESSAGE * costs.pipe_message + (_TCP_BYTE * costs.pipe_byte + costs.copy_byte) * size + costs.wake
    else:
        small = costs.redis_message if costs.redis_message is not None else 12 * costs.syscall + 4 * costs.wake
        ns = small + 6 * costs.copy_byte * size
    return Prediction(way, ns, 0.7 * ns, 1.3 * ns)


def ways_of(ways: frozenset[Way]) -> list[Way]:
    """In a fixed order, so that the same question has the same answer. Empty: every transport."""
    if not ways:
        return [Way(transport) for transport in Transport]
    return [Way(transport, cores) for transport in Transport for cores in Cores if Way(transport, cores) in ways]
