"""Which channels a steward looks at more closely: it makes nothing of those that are idle, and forgets no message."""

from __future__ import annotations

from collections import Counter

import pytest
from test_policy_fast import calls_in

import cwasi_fastpath as cwasi
from cwasi_fastpath.bench.looking import MESSAGES, SECONDS, looking
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.observing import Counts, Ends, counts
from cwasi_fastpath.policy import CostPolicy, EdgeHistory, Request, Way
from cwasi_fastpath.rota import Rota


def test_a_look_at_idle_channels_calls_nothing_for_each() -> None:
    """So a thousand cost little more than ten: what is left is one loop in C."""
    calls = []
    for channels in (10, 300):
        with looking(channels) as looks:
            looks.seconds(0.0)
            calls.append(calls_in(looks.look))
    few, many = calls
    assert few == many <= 60, calls


def test_of_many_busy_ones_a_part_is_asked_about_and_no_message_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, Observation]] = []

    def step(self: CostPolicy, request: Request) -> tuple[EdgeHistory, Way | None]:
        assert request.observation is not None
        seen.append((request.now, request.observation))
        return EdgeHistory(), request.current

    monkeypatch.setattr(CostPolicy, "step", step)
    with looking(200) as looks:
        seen.clear()
        sent = 0
        for _ in range(9):
            sent += looks.carry(1.0)
            looks.look()
        asked = Counter(now for now, _ in seen)
        assert 0 < max(asked.values()) < 200
        while looks.look():
            pass
    assert sum(one.messages for _, one in seen) == sent
    rates = {round(one.rate or 0.0) for _, one in seen}
    assert max(rates) <= MESSAGES / SECONDS, "the window of who waits goes on"


def test_what_is_new_is_looked_at_again_soon() -> None:
    """Though others wait longer."""
    with looking(200) as looks:
        looks.carry(1.0)
        looks.look()
        kept_of_all = [kept for channel in looks.channels if (kept := looks.steward.advice.known(channel)) is not None]
        first = [kept for kept in kept_of_all if kept.observation is not None]
        for _ in range(2):
            looks.carry(1.0)
            looks.look()
        assert len(first) < 100
        again = [kept for kept in first if kept.history.windows >= 2]
        assert again and any(kept.history.windows == 0 for kept in kept_of_all)


def test_who_waits_still_does_when_the_channels_are_others() -> None:
    with looking(200) as looks:
        looks.carry(1.0)
        looks.look()
        kept_of_all = [kept for channel in looks.channels if (kept := looks.steward.advice.known(channel)) is not None]
        before = [kept.counted.at for kept in kept_of_all if kept.waits and kept.counted is not None]
        waiting = [kept for kept in kept_of_all if kept.waits]
        assert len(before) == len(waiting) > 100
        Rota(waiting).next(1e9)
        assert [kept.counted.at for kept in waiting if kept.counted is not None] == before


def test_ends_that_have_counted_something() -> None:
    pairs = [cwasi.open_channel(f"lab{number}", "ring") for number in range(3)]
    ends = Ends([end for pair in pairs for end in pair])
    assert ends.changed() == list(range(6)), "all of them at first"
    assert ends.changed() == [] and ends.counts(2) == Counts()
    sender, receiver = pairs[1]
    sender.send(b"four")
    assert ends.changed() == [2]
    receiver.recv()
    assert ends.changed() == [3] and (ends.counts(3) or ())[:2] == (1, 4)
    assert counts(receiver) == ends.counts(3)
    receiver.close()
    assert 3 in ends.changed() and ends.counts(3) is None and counts(receiver) is None
    for pair in pairs:
        for end in pair:
            end.close()
