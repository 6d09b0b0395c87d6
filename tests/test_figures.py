"""What a tracer tells of a function: whatever comes, it is figures that make sense, or it is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwasi_fastpath.figures import Figures, Spent

BUSY = Figures(
    calls=100, calls_ns=900_000, off_ns=600_000, queued_ns=200_000, wakeups=20, wakeup_ns=120_000,
    sent=10, received=20, blocked_ns=5, retransmits=1, samples=4, srtt_us=100,
)  # fmt: skip
sums = st.none() | st.integers(0, (1 << 63) - 1)
figures = st.builds(Figures, *[sums] * len(BUSY.plain()))


@given(figures)
def test_they_come_as_they_were_told(told: Figures) -> None:
    assert Figures.parsed(json.loads(json.dumps(told.plain()))) == told


@pytest.mark.parametrize(
    "value", [-1, 1 << 63, 1.0, math.nan, math.inf, True, "1", [], {}], ids=str
)
@pytest.mark.parametrize("place", [0, 5, 11])
def test_what_cannot_be_is_refused(place: int, value: object) -> None:
    told: list[Any] = BUSY.plain()
    told[place] = value
    with pytest.raises(ValueError, match=r" is "):
        Figures.parsed(told)


@pytest.mark.parametrize("told", [None, 1, "figures", {}, [], BUSY.plain()[1:], [*BUSY.plain(), 0]], ids=str)
def test_what_is_no_list_of_them_is_refused(told: object) -> None:
    with pytest.raises(ValueError, match="figures were expected"):
        Figures.parsed(told)


@given(figures, figures)
def test_what_came_meanwhile_is_never_negative(before: Figures, now: Figures) -> None:
    try:
        came = now.since(before)
    except ValueError as error:
        assert "went back" in str(error)
        return
    assert all(value is None or value >= 0 for value in came.plain())
    spent = Spent(1.0, came)
    for value in (spent.ran_ns, spent.kernel_ns, spent.woken_ns, spent.srtt_ns):
        assert value is None or (math.isfinite(value) and value >= 0)
    assert spent.contention is None or 0 <= spent.contention <= 1


def test_what_they_say() -> None:
    spent = Spent(0.001, BUSY)
    assert spent.ran_ns == 400_000
    assert spent.contention == pytest.approx(200_000 / 600_000)
    assert spent.kernel_ns == 900_000 - 520_000, "80,000 of the time off the CPU were not spent asleep in a call"
    assert spent.woken_ns == 6_000 and spent.srtt_ns == 25_000


def test_what_is_not_counted_says_nothing() -> None:
    light = Spent(0.001, replace(BUSY, calls=None, calls_ns=None))
    assert light.kernel_ns is None and light.contention is not None
    assert Spent(0.001, Figures()) == Spent(0.001, BUSY.since(Figures()))
    for none in (Figures(), replace(BUSY, off_ns=None, samples=0, wakeups=1)):
        spent = Spent(0.001, none)
        assert {spent.ran_ns, spent.contention, spent.kernel_ns, spent.woken_ns, spent.srtt_ns} == {None}


def test_a_sleep_longer_than_the_time_says_nothing_of_it() -> None:
    spent = Spent(0.0001, BUSY)
    assert spent.ran_ns is None and spent.contention is None
