"""The default policy: the least predicted cost."""

from __future__ import annotations

from ..modes import Transport, mode_of
from .costs import Costs
from .decision import Decision, Policy, Request, ruled_out, ruled_out_way
from .model import ASSUMED_BYTES, Conditions, Prediction, predict, ways_of


class CostPolicy(Policy):
    """Of what the constraints leave, the way with the least predicted time for a message."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs

    def decide(self, request: Request) -> Decision | None:
        """Deterministic given its input; None where every transport is ruled out."""
        conditions = Conditions.of(request.observation)
        predictions = sorted(
            (
                predict(self.costs, way, conditions)
                for way in ways_of(request.ways)
                if ruled_out_way(request, way) is None
            ),
            key=lambda prediction: prediction.ns,
        )
        if not predictions:
            return None
        best = predictions[0]
        obstacles = {transport: ruled_out(request, transport) for transport in Transport}
        basis = _basis(request)
        others = [f"{other}" for other in predictions[1:]]
        others += [f"{transport}: {why}" for transport, why in obstacles.items() if why is not None]
        return Decision(
            mode=mode_of(best.transport, request.facts.locality),
            transport=best.transport,
            reason=_reason(request, best, basis, alone=len(predictions) == 1),
            alternatives=tuple(others),
            cores=best.way.cores,
            predictions=tuple(predictions),
            basis=basis,
            lacked=request.lacked,
        )


def _basis(request: Request) -> str:
    observation = request.observation
    if observation is None or observation.messages == 0:
        return f"assuming {ASSUMED_BYTES / 1024:.0f} KiB messages, none seen yet"
    return f"{observation.messages} messages of {observation.mean_bytes / 1024:.1f} KiB seen"


def _reason(request: Request, best: Prediction, basis: str, *, alone: bool) -> str:
    where = f"the peer is {request.facts.locality}"
    if alone:
        return f"{where}; the only transport left, {best.ns / 1000:.1f} us a message predicted, {basis}"
    return f"{where}; cheapest at {best.ns / 1000:.1f} us a message predicted, {basis}"
