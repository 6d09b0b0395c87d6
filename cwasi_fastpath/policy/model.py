"""The cost model: what a message costs on each transport, from what this machine charges for its parts."""

from __future__ import annotations

from dataclasses import dataclass

from ..metrics import Observation
from ..modes import Transport, mode_of
from .decision import Decision, Request, ruled_out

ASSUMED_BYTES = 65536.0
"""The message size that is assumed before any was seen."""

_PIPE_SPLICES_FROM = 16384.0

_TCP_MESSAGE, _TCP_BYTE = 3.0, 1.25
"""What the kernel's TCP takes on the loopback, as multiples of what a pipe takes."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the machine charges, ns; measured at start (cwasi_fastpath.calibration)."""

    syscall: float
    copy_byte: float
    hop: float
    """A cache line from one core to another, one way; 0 on a single core."""
    wake: float
    """Waking a sleeping thread until it runs."""
    pipe_message: float
    """A small message through a pipe: write and read, without the wake."""
    pipe_byte: float
    redis_message: float | None = None
    """A small message through the server, where one is configured."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The expected time from send to receipt of one message, ns."""

    transport: Transport
    ns: float

    def __str__(self) -> str:
        return f"{self.transport} (about {self.ns / 1000:.1f} us)"


def predict(costs: Costs, transport: Transport, size: float, parked: float) -> Prediction:
    """Cost of one message of `size` bytes.

    parked: how often (0 to 1) the receiver sleeps when a message comes. Formulas: ring = two hops, a copy in and a copy
    out; pipe = write and read, a wake (its receiver always sleeps), from 16 KiB a user copy instead of the kernel's
    copy in; tcp = some multiples of the pipe's parts, a copy into the window, a wake, and no network; redis = what a
    small message was measured at, and six copies.
    """
    if transport is Transport.RING:
        ns = 2 * costs.hop + 2 * costs.copy_byte * size + parked * costs.wake
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
    return Prediction(transport, ns)


class CostPolicy:
    """The default: of what the constraints leave, the transport with the least predicted time for a message."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs

    def decide(self, request: Request) -> Decision | None:
        """Deterministic given its input; None where every transport is ruled out."""
        size, parked, basis = _assumptions(request.observation)
        obstacles = {transport: ruled_out(request, transport) for transport in Transport}
        predictions = sorted(
            (predict(self.costs, transport, size, parked) for transport in Transport if obstacles[transport] is None),
            key=lambda prediction: prediction.ns,
        )
        if not predictions:
            return None
        best = predictions[0]
        mode = mode_of(best.transport, request.facts.locality)
        others = [f"{other}" for other in predictions[1:]]
        others += [f"{transport}: {why}" for transport, why in obstacles.items() if why is not None]
        return Decision(
            mode=mode,
            transport=best.transport,
            reason=_reason(request, best, basis, alone=len(predictions) == 1),
            alternatives=tuple(others),
        )


def _assumptions(observation: Observation | None) -> tuple[float, float, str]:
    if observation is None or observation.messages == 0:
        return ASSUMED_BYTES, 0.0, f"assuming {ASSUMED_BYTES / 1024:.0f} KiB messages, none seen yet"
    basis = f"{observation.messages} messages of {observation.mean_bytes / 1024:.1f} KiB seen"
    return observation.mean_bytes, observation.parked, basis


def _reason(request: Request, best: Prediction, basis: str, *, alone: bool) -> str:
    where = f"the peer is {request.facts.locality}"
    if alone:
        return f"{where}; the only transport left, {best.ns / 1000:.1f} us a message predicted, {basis}"
    return f"{where}; cheapest at {best.ns / 1000:.1f} us a message predicted, {basis}"
