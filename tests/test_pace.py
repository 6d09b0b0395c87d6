"""When a steward looks. The clock and the waiting are the tests'."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cwasi_fastpath import pace
from cwasi_fastpath.pace import Pace
from cwasi_fastpath.peeks import Peeks


class Seen(Peeks):
    """Sees what the test says, by the time since it began, ms."""

    def __init__(self, what: Callable[[int], tuple[bool, bool]] = lambda ms: (False, False)) -> None:
        super().__init__()
        self.what, self.at = what, list[int]()

    def worthwhile(self) -> bool:
        return True

    def peek(self, now: float) -> tuple[bool, bool]:
        self.at.append(round(1000 * now))
        return self.what(self.at[-1])


class Clock(threading.Event):
    """Waiting is what makes it go on; and for nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now = 0.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now = round(self.now + timeout, 9) + 1e-9   # never a little too early
        return self.is_set()

    @property
    def ms(self) -> int:
        return round(1000 * self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def idle(looks: int) -> Pace:
    """After so many looks at which nothing had come."""
    found = Pace()
    for _ in range(looks):
        found.looked(False, 0.0)
    return found


def unexpected(now: float) -> None:
    raise AssertionError(f"a rush at {now}")


def test_nothing_new(clock: Clock) -> None:
    seen, one = Seen(), Pace()
    assert not one.wait(seen, unexpected, clock) and clock.ms == 50
    assert seen.at == [10, 20, 30, 40]


def test_it_looks_less_often_while_nothing_comes_and_does_not_count_more_often_for_that(clock: Clock) -> None:
    seen, one = Seen(), idle(1)
    one.wait(seen, unexpected, clock)
    assert clock.ms == 100 and seen.at == list(range(10, 100, 10))
    clock.now = 0.0
    one = idle(9)
    seen.at.clear()
    one.wait(seen, unexpected, clock)
    assert clock.ms == 1000 and seen.at == list(range(80, 1000, 80))


@pytest.mark.parametrize("looks, came, looked", [(9, 320, 370), (1, 40, 90), (1, 60, 100)])
def test_messages_after_a_pause_are_looked_at_when_there_is_a_window_of_them(
    clock: Clock, looks: int, came: int, looked: int
) -> None:
    told: list[int] = []
    one = idle(looks)
    assert not one.wait(Seen(lambda ms: (ms >= came, False)), lambda now: told.append(round(1000 * now)), clock)
    assert clock.ms == looked and told == [came]


def test_messages_after_a_pause_may_become_a_rush(clock: Clock) -> None:
    told: list[int] = []
    one = idle(1)
    one.wait(Seen(lambda ms: (ms >= 20, ms == 60)), lambda now: told.append(round(1000 * now)), clock)
    assert told == [20, 60] and clock.ms == 65


def test_messages_that_came_all_the_time_change_nothing(clock: Clock) -> None:
    one = Pace()
    one.looked(True, 0.0)
    one.wait(Seen(lambda ms: (True, False)), unexpected, clock)
    assert clock.ms == 50


@pytest.mark.parametrize("looks, seen, looked", [(0, 20, 25), (0, 40, 45), (9, 320, 325)])
def test_a_rush_is_looked_at_after_a_window_of_it(clock: Clock, looks: int, seen: int, looked: int) -> None:
    told: list[int] = []
    one = idle(looks)
    one.wait(Seen(lambda ms: (ms >= seen, ms == seen)), lambda now: told.append(round(1000 * now)), clock)
    assert told == [seen] and clock.ms == looked


def test_whose_looks_take_a_little_longer_is_looked_at_a_little_later(clock: Clock) -> None:
    one = Pace()
    one.looked(True, 0.0008)
    seen = Seen()
    one.wait(seen, unexpected, clock)
    assert clock.ms == 80 and seen.at == list(range(10, 80, 10))


def test_whose_looks_take_long_is_looked_at_seldom(clock: Clock) -> None:
    """Whatever happens."""
    one = Pace()
    one.looked(True, 0.004)
    seen = Seen(lambda ms: (True, True))
    one.wait(seen, unexpected, clock)
    assert clock.ms == 400 and not seen.at
    one.looked(False, 1.0)
    clock.now = 0.0
    one.wait(seen, unexpected, clock)
    assert clock.ms == 30_000 and not seen.at


def test_what_a_look_takes_is_paid_by_the_time_before_it(clock: Clock) -> None:
    """Who looks seldom can count messages in between all the same, and look soon when they come."""
    one = idle(9)
    one.wait(Seen(), unexpected, clock)
    one.looked(False, 0.009)
    seen = Seen()
    one.wait(seen, unexpected, clock)
    assert clock.ms == 2000 and seen.at == list(range(1080, 2000, 80))
    one.looked(True, 0.014)   # more than the time since then pays
    seen.at.clear()
    one.wait(seen, unexpected, clock)
    assert clock.ms == 2400 and not seen.at, "it took more than that"
    one.looked(True, 0.0)
    one.wait(seen, unexpected, clock)
    assert clock.ms == 2450 and seen.at == [2410, 2420, 2430, 2440]


def test_there_is_some_time_between_two_looks_whatever_is_new(clock: Clock) -> None:
    one = Pace()
    assert one.rest() == 0.0
    one.looked(True, 0.0)
    assert one.rest() == 0.05
    clock.now = 0.02
    one.looked(True, 0.002)
    assert one.rest() == pytest.approx(0.18)
    clock.now = 1.0
    assert one.rest() == 0.0


def test_a_rush_has_its_window_whatever_is_new(clock: Clock) -> None:
    one = idle(9)

    assert one.wait(Seen(lambda ms: (True, True)), lambda now: clock.set(), clock)
    clock.now = 0.082   # it was told at once
    assert one.rest() == pytest.approx(0.003)


def test_nothing_is_counted_where_nothing_can_rush(clock: Clock) -> None:
    Pace().wait(Peeks(), unexpected, clock)
    assert clock.ms == 50


def test_news_is_looked_at_once(clock: Clock) -> None:
    clock.set()
    assert idle(9).wait(Seen(), unexpected, clock)
