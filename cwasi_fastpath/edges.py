"""The edges of a channel: what they are called, and what is decided for all of them."""

from __future__ import annotations

from collections.abc import Mapping

from .channel import Edge
from .metrics import Observation
from .modes import EdgeFacts, Mode, Transport
from .policy import Decision, Limits, Objective, Policy, Request, decide, ruled_out
from .policy.decision import available, for_several


def answers_name(channel: str, caller: str) -> str:
    """The channel on which the answers to the requests of `caller` come back."""
    return f"{channel}.answers.{caller}"


def edge_named(channel: str, sender: str, receiver: str, receivers: int) -> str:
    """An edge, for messages."""
    several = f", one of {receivers} receivers" if receivers > 1 else ""
    return f"channel {channel!r} from {sender} to {receiver}{several}"


def decide_all(
    policy: Policy,
    channel: str,
    edges: Mapping[Edge, EdgeFacts],
    *,
    mode: Mode | None = None,
    asked: Transport | None = None,
    redis: str | None = None,
    observation: Observation | None = None,
    objective: Objective | None = None,
    limits: Limits | None = None,
) -> dict[Edge, Decision]:
    """Asks the policy for every edge of a channel. Several receivers get the same transport. Raises NoTransport."""
    receivers = len({receiver for _, receiver in edges})
    missing: Mapping[Edge, Mapping[Transport, str]] = {}
    if receivers > 1 and asked is None:
        offered = available(redis)
        missing = _of_all(
            {
                edge: Request(facts, observation, mode, None, offered, receivers, limits=limits or Limits())
                for edge, facts in edges.items()
            }
        )
    return {
        (sender, receiver): decide(
            policy,
            facts,
            edge_named(channel, sender, receiver, receivers),
            mode=mode,
            asked=asked,
            redis=redis,
            observation=observation,
            receivers=receivers,
            missing=missing.get((sender, receiver), {}),
            objective=objective,
            limits=limits,
        )
        for (sender, receiver), facts in edges.items()
    }


def _of_all(requests: Mapping[Edge, Request]) -> dict[Edge, dict[Transport, str]]:
    """What each edge cannot have, as all receivers get the same, and why; beside what it could not have anyway."""
    best = for_several(list(requests.values()))
    possible = {
        edge: {kind for kind in Transport if ruled_out(request, kind) is None} for edge, request in requests.items()
    }
    why = {
        kind: f"all receivers get the same, and {best} comes first of what each can have"
        if all(kind in kinds for kinds in possible.values())
        else "all receivers get the same, and not each can have it"
        for kind in Transport
    }
    return {edge: {kind: why[kind] for kind in kinds if kind is not best} for edge, kinds in possible.items()}
