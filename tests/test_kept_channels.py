"""What a steward keeps of what somebody's policy remembers: nothing that it could not go on with."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cwasi_fastpath.bench.looking import looking
from cwasi_fastpath.kept import Kept
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import CostPolicy, Decision, EdgeHistory, Request, Way

RING, PIPE = Way(Transport.RING), Way(Transport.PIPE)


class Unsure:
    """Is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("who knows")


REFUSED: dict[str, Any] = {
    "no trials": {"trials": 5},
    "a text": {"trials": "x" * 7},
    "endless trials": {"trials": (None,) * 1_000_000},
    "unsure": {"idle": Unsure()},
}
TAKEN: dict[str, Any] = {
    "no conditions": {"held": "x"},
    "no number": {"switches": "x"},
    "not a number": {name: math.nan for name in ("since", "span", "up", "down", "run", "changed", "observed_at")},
    "other trials": {"trials": ("x", None, 7), "trying": 8},
    "endless records": {"records": ((),) * 1_000_000, "owed": (math.inf,) * 1_000_000},
}
NONSENSE = REFUSED | TAKEN


@pytest.mark.parametrize("kind", REFUSED)
def test_what_it_could_not_go_on_with_is_refused(kind: str) -> None:
    kept = Kept(None, None, 1, frozenset(), frozenset())   # type: ignore[arg-type]
    before = EdgeHistory(windows=3)
    kept.remember(before)
    with pytest.raises(ValueError, match=r"trials|who knows"):
        kept.remember(EdgeHistory(**REFUSED[kind]))
    assert kept.history is before


@pytest.mark.parametrize("kind", TAKEN)
def test_after_a_switch_nonsense_is_forgotten_or_goes_on(kind: str) -> None:
    """It was done, whatever a policy makes of that."""
    kept = Kept(None, None, 1, frozenset(), frozenset())   # type: ignore[arg-type]
    kept.remember(EdgeHistory(**TAKEN[kind]))
    kept.switched(PIPE, 7.0)
    assert (kept.history.since, kept.history.switches) == (7.0, 1)


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_about_some_channels_stops_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither are the others forgotten, nor does their turn not come."""
    asked: list[Request] = []

    def step(self: CostPolicy, request: Request) -> tuple[EdgeHistory, Way]:
        asked.append(request)
        return EdgeHistory(**NONSENSE[kind]) if len(asked) % 2 else EdgeHistory(), PIPE

    monkeypatch.setattr(CostPolicy, "step", step)
    monkeypatch.setattr(CostPolicy, "decide", lambda self, request: Decision.for_way(request, PIPE, "it is told to"))
    with looking(40) as looks:   # more than have their turn at once
        for _ in range(3):
            begin = looks._now
            looks.carry(1.0)
            looks._now += 20.0   # after so long they may be changed
            while looks.look():
                pass
            kept = [looks.steward.advice.known(channel) for channel in looks.channels]
            assert all(one is not None and (one.observed_at or 0.0) > begin for one in kept)
        assert len({channel.name for channel in looks.channels if channel.transport is Transport.PIPE}) >= 10
