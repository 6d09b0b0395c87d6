"""What is remembered of an edge from one decision to the next. Frozen; times are arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..metrics import Observation
from .way import Way


@dataclass(frozen=True, slots=True)
class EdgeHistory:
    """Of one edge."""

    since: float | None = None
    """When the way in use was taken, seconds; None before the first switch."""
    switches: int = 0
    observation: Observation | None = None
    """The last that made sense."""
    observed_at: float | None = None

    def observed(self, now: float, observation: Observation | None, predicted_ns: float | None) -> EdgeHistory:
        """With one more window. predicted_ns: what the model says to it, if any."""
        if observation is None or observation.messages == 0:
            return self
        return replace(self, observation=observation, observed_at=now)

    def switched(self, now: float, way: Way) -> EdgeHistory:
        """After a switch to `way`."""
        return replace(self, since=now, switches=self.switches + 1)
