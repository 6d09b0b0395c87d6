"""What a tracer tells a host of its functions: used while it is new and makes sense, and never relied on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from channels import Start, eventually
from test_steward import PIPE, Run, Told
from tracing import attached

import cwasi_fastpath as cwasi
from cwasi_fastpath import attribution, feed
from cwasi_fastpath.feed import Feed, Here, with_told
from cwasi_fastpath.figures import Figures, Spent
from cwasi_fastpath.metrics import Observation

SECOND = 1_000_000_000


class Tracer:
    """Tells what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tracer: object = self
        self.told: Mapping[str, tuple[Any, Any]] | None = {}
        self.untold = ""
        monkeypatch.setattr(attribution, "figures", lambda names: None if self.told is None else self.answer())
        monkeypatch.setattr(attribution, "untold", lambda: self.untold)

    def answer(self) -> tuple[object, Mapping[str, Any]]:
        assert self.told is not None
        return self.tracer, self.told

    def tells(self, at: Any, figures: Any) -> None:
        self.told = {"f": (at, figures)}


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Tracer:
    return Tracer(monkeypatch)


def sums(number: int) -> list[int | None]:
    """A tenth of each second in system calls, and as much waiting for a core, without having slept."""
    tenth = number * SECOND // 10
    return Figures(10 * number, tenth, tenth, tenth, 0, 0, 0, 0, 0, 0, 0, 0).plain()


def test_what_came_between_two_answers(tracer: Tracer) -> None:
    told = Feed(Here())
    assert told.latest(["f"], 7.0) == {} and "nothing of these functions yet" in told.lack(7.0, ["f"])[0]
    tracer.tells(50 * SECOND, sums(1))
    assert told.latest(["f"], 8.0) == {} and told.lack(8.0, ["f"]) == ()
    tracer.tells(51 * SECOND, sums(2))
    (spent,) = told.latest(["f"], 9.0).values()
    assert spent.seconds == 1.0 and spent.figures.calls == 10 and spent.kernel_ns == SECOND / 10
    tracer.told = None
    assert told.latest(["f"], 9.5) == {"f": spent}, "it is telling somebody else, and what it told is still new"


def test_figures_that_are_not_renewed_count_no_more(tracer: Tracer) -> None:
    told = Feed(Here())
    for number in (1, 2):
        tracer.tells(number * SECOND, sums(number))
        told.latest(["f"], float(number))
    old = 2.0 + feed.STALE_SECONDS
    assert told.latest(["f"], old) and told.lack(old, ["f"]) == ()
    assert told.latest(["f"], old + 1) == {}, "the same answer again is nothing new"
    assert told.lack(old + 1, ["f"]) == ("the tracer has told nothing new for 6 s, and what it told counts no more",)
    for number in (3, 4):
        tracer.tells(number * SECOND, sums(number))
        found = told.latest(["f"], old + number)
    assert found and told.lack(old + 4, ["f"]) == ()


@pytest.mark.parametrize(
    ("at", "figures"),
    [
        (3 * SECOND, [-1] * 12),
        (3 * SECOND, [math.nan] * 12),
        (3 * SECOND, sums(1)),   # they went back
        (3 * SECOND, sums(3)[:-1]),
        (3 * SECOND, "figures"),
        (3 * SECOND, None),
        (math.nan, sums(3)),
        ("now", sums(3)),
        (None, sums(3)),
        (-1, sums(3)),
        (1 << 64, sums(3)),
        (SECOND, sums(3)),   # the clock went back,
        (3000 * SECOND, sums(3)),   # or far ahead,
        (2 * SECOND + 1, sums(3)),   # or hardly on
    ],
    ids=str,
)
def test_nonsense_is_left_out_and_said(tracer: Tracer, at: Any, figures: Any) -> None:
    """And what makes sense again is used again."""
    told = Feed(Here())
    for number in (1, 2):
        tracer.tells(number * SECOND, sums(number))
        told.latest(["f"], float(number))
    tracer.tells(at, figures)
    assert told.latest(["f"], 3.0) == {}
    (lack,) = told.lack(3.0, ["f"])
    assert lack.startswith("the tracer told what cannot be of f, which was left out: ")
    for number in (4, 5, 6):
        tracer.tells(number * SECOND, sums(number))
        found = told.latest(["f"], float(number))
    assert found["f"].figures.calls == 10 and told.lack(6.0, ["f"]) == ()


def test_after_an_answer_without_a_time_there_is_no_time_of_nothing(tracer: Tracer) -> None:
    told = Feed(Here())
    for number, at in enumerate(("noon", SECOND, "noon", 2 * SECOND), 1):
        tracer.tells(at, sums(number))
        assert told.latest(["f"], float(number)) == {}
    tracer.tells(3 * SECOND, sums(5))
    assert told.latest(["f"], 5.0)["f"].seconds == 1.0


def test_after_a_pause_old_answers_are_nothing_new(tracer: Tracer) -> None:
    """Nor is a tracer to blame whose clock has gone on meanwhile."""
    told = Feed(Here())
    for number in (1, 2):
        tracer.tells(number * SECOND, sums(number))
        told.latest(["f"], float(number))
    tracer.tells(3 * SECOND, sums(3))   # it came, and nobody looked
    assert told.latest(["f"], 20.0) == {}
    for number in (21, 22):
        tracer.tells(number * SECOND, sums(number))
        found = told.latest(["f"], float(number))
        assert not any("clock" in lack for lack in told.lack(float(number), ["f"]))
    assert found["f"].seconds == 1.0


def test_messages_are_those_of_the_same_time(tracer: Tracer) -> None:
    """What was done for a million messages is not divided by the few that come since."""
    told = Feed(Here())
    assert told.silent
    for number, messages in ((1, 1000), (2, 10)):
        tracer.tells(number * SECOND, sums(number))
        found = told.latest(["f"], float(number))
        told.sent({"f": messages, "of others": 5})
    assert found and told.rates() == {"f": 1000.0} and not told.silent


@pytest.mark.parametrize(("change", "unknown"), [
    ({"queued_ns": 1 << 62}, "ran_ns"), ({"queued_ns": 1 << 62}, "contention"), ({"calls_ns": 1 << 62}, "kernel_ns"),
    ({"wakeup_ns": 1 << 62}, "woken_ns"),
])  # fmt: skip
def test_what_no_thread_can_have_done_is_not_known(change: dict[str, int], unknown: str) -> None:
    assert getattr(BUSY, unknown) is not None
    assert getattr(replace(BUSY, figures=replace(BUSY.figures, **change)), unknown) is None


def test_who_may_have_slept_all_the_time_is_not_said_to_have_run() -> None:
    """A sleep is counted when it is over."""
    assert Spent(1.0, Figures(*[0] * 12)).ran_ns is None
    assert Spent(1.0, replace(Figures(*[0] * 12), off_ns=1000)).ran_ns == 1e9 - 1000


def test_another_tracer_begins_anew(tracer: Tracer) -> None:
    told = Feed(Here())
    for number in (3, 4):
        tracer.tells(number * SECOND, sums(number))
        told.latest(["f"], float(number))
    tracer.tracer = object()
    tracer.tells(5 * SECOND, sums(1))
    assert told.latest(["f"], 5.0) == {} and told.lack(5.0, ["f"]) == ()


def test_a_host_clock_that_jumps(tracer: Tracer) -> None:
    told = Feed(Here())
    for number, now in ((1, 1000.0), (2, 1001.0), (3, 2.0), (4, 3.0)):
        tracer.tells(number * SECOND, sums(number))
        assert bool(told.latest(["f"], now)) is (number > 1)
    assert told.latest(["f"], 1e6) == {} and told.lack(1e6, ["f"]) != ()


def test_what_is_lacked_is_that_of_the_functions_asked_for(tracer: Tracer) -> None:
    """Whatever is wrong with others."""
    told = Feed(Here())
    for number in (1, 2):
        tracer.told = {"f": (number * SECOND, sums(number)), "wrong": (number * SECOND, "x"), "old": (1, sums(1)),
                       "blind": (number * SECOND, [None, None, *sums(1)[2:]])}  # fmt: skip
        told.latest(["f", "wrong", "old", "blind", "unknown"], number * feed.STALE_SECONDS)
    now = 2 * feed.STALE_SECONDS + 1
    assert told.lack(now, ["f"]) == told.lack(now, ()) == ()
    assert told.lack(now, ["unknown", "f"]) == ("the tracer has told nothing of unknown",)
    assert told.lack(now, ["f", "old"]) == ("the tracer has told nothing new of old for 6 s, which counts no more",)
    (wrong, blind) = told.lack(now, ["wrong", "f", "blind"])[::-1]
    assert wrong.startswith("the tracer told what cannot be of wrong") and blind == "the tracer counts no system calls"


def test_what_is_not_counted_is_said(tracer: Tracer) -> None:
    told = Feed(Here())
    tracer.tells(SECOND, [None, None, *sums(1)[2:]])
    told.latest(["f"], 1.0)
    assert told.lack(1.0, ["f"]) == ("the tracer counts no system calls",)
    tracer.tells(2 * SECOND, [*sums(1)[:2], None, None, *sums(1)[4:]])
    told.latest(["f"], 2.0)
    assert told.lack(2.0, ["f"]) == ("the tracer counts no scheduling",)


# ---- what it adds to an observation ----

SEEN = Observation(messages=1000, mean_bytes=64.0, parked=0.5, seconds=1.0, rate=1000.0)
BUSY = Spent(1.0, Figures(5, SECOND // 2, SECOND // 4, SECOND // 4, 100, SECOND // 4, 0, 0, 0, 0, 10, 5000))


def test_what_is_added_and_what_stays(transport: str) -> None:
    tx, rx = cwasi.open_channel("lab", transport)
    channel: Any = type("Channel", (), {"decisions": {("a", "b"): None}, "transport": tx.transport})
    spent, rates = {"a": BUSY, "b": Spent(0.5, BUSY.figures)}, {"a": 1000.0, "b": 2000.0}
    with tx, rx:
        found = with_told(SEEN, channel, spent, rates)
        assert found.contention == pytest.approx(0.75 / (0.75 + 0.5 + 0.75))
        assert found.cpu_ns == pytest.approx(0.75e9 / 1000 + 0.25e9 / 0.5 / 2000)
        assert found.syscalls_ns == pytest.approx(0.25e9 / 1000)
        assert found.woken_ns == 2.5e6
        assert found.srtt_ns == (500e3 if transport == "tcp" else None)
        known = Observation(1, 1, 0, contention=0.1, cpu_ns=2.0, srtt_ns=3.0)
        more = with_told(known, channel, spent, rates)
        assert (more.contention, more.cpu_ns, more.srtt_ns) == (0.1, 2.0, 3.0)
        assert with_told(SEEN, channel, {"a": BUSY}, rates) is SEEN, "of one end alone it says too little"
        assert with_told(SEEN, channel, spent, {"a": 1000.0}) is SEEN


# ---- a tracer in the process ----


def test_a_host_is_given_a_tracer(guests: Any, start: Start) -> None:
    policy = Told(lambda request: PIPE)
    with attached() as tracer, cwasi.Host(policy=policy, tracer=tracer) as host:
        cwasi.Host(policy=policy, tracer=tracer).close()   # one for several hosts
        assert "no tracer" not in str(host._steward._feed.lack(0.0, ()))
        run = Run(host, guests, start)

        def told() -> list[Observation]:
            seen = [request.observation for request in list(policy.asked) if not request.lacked]
            return [one for one in seen if one is not None and one.syscalls_ns]

        run.until(lambda: len(told()) > 1)
        assert all(one.contention is not None for one in told())
        explained = host.explain("lab")
        assert explained is not None and "no tracer" not in str(explained)
        tracer.close()
        run.until(lambda: "no tracer" in str(host.explain("lab")))

        def untold() -> bool:
            seen = policy.asked[-1].observation
            return seen is not None and seen.syscalls_ns is None

        run.until(untold)   # what it told last counts until the next question is due
        asked = len(policy.asked)
        run.until(lambda: len(policy.asked) > asked + 2)
        assert {one.observation and one.observation.syscalls_ns for one in policy.asked[asked:]} == {None}
        run.end()
    eventually(lambda: attribution.untold() == attribution.NO_TRACER)


def test_with_more_guests_than_are_looked_at_the_tracer_tells(
    guests: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of those that have no cores to be chosen for."""
    monkeypatch.setattr("cwasi_fastpath.guest_cores._THREADS", 0)
    policy = Told()
    with attached(light=True) as tracer, cwasi.Host(policy=policy, tracer=tracer) as host:
        run = Run(host, guests, start)

        def seen() -> list[Observation]:
            return [request.observation for request in list(policy.asked) if request.observation is not None]

        run.until(lambda: any(one.contention is not None and one.cpu_ns is not None for one in seen()))
        assert all(one.others is None and one.syscalls_ns is None for one in seen()), "nobody has looked"
        assert "the tracer counts no system calls" in policy.asked[-1].lacked
        run.end()
