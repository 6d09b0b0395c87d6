"""What is remembered of an edge: one odd window changes nothing, a change is seen, clocks may jump."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, log, nan

import pytest

from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import Conditions, Cores, EdgeHistory, Way
from cwasi_fastpath.policy.history import SPAN_SECONDS, alike, kind_of
from cwasi_fastpath.policy.noise import Noise

RING, ONE, TWO = Way(Transport.RING), Way(Transport.RING, Cores.ONE), Way(Transport.RING, Cores.TWO)
SEEN = Observation(1000, 1024.0, 0.0, seconds=1.0, latency_ns=1000.0)


def windows(history: EdgeHistory, ratios: list[float], way: Way = RING, begin: float = 0.0) -> EdgeHistory:
    for number, ratio in enumerate(ratios):
        observation = Observation(1000, 1024.0, 0.0, seconds=1.0, latency_ns=1000.0 * ratio)
        history = history.observed(begin + number, observation, 1000.0, way)
    return history


def mean(history: EdgeHistory, way: Way = RING, now: float = 0.0) -> float:
    assert history.held is not None
    return history.corrected(way, kind_of(history.held), 0.1, now, way)[0]


def test_what_was_measured_corrects_the_model() -> None:
    history = windows(EdgeHistory(), [1.2] * 20)
    factor, deviation = history.corrected(RING, kind_of(history.held or Conditions()), 0.1, 19.0, RING)
    assert factor == pytest.approx(log(1.2)) and deviation < 0.05
    assert history.windows == 20 and history.observed_at == 19.0


def test_what_was_not_measured_has_the_error_of_the_model() -> None:
    history = windows(EdgeHistory(), [1.0] * 20)
    assert history.corrected(TWO, kind_of(history.held or Conditions()), 0.17, 19.0, RING) == (0.0, 0.17)


def test_a_slower_machine_may_be_slower_on_every_way() -> None:
    history = windows(EdgeHistory(), [1.2] * 20)
    factor, _ = history.corrected(TWO, kind_of(history.held or Conditions()), 0.17, 19.0, RING)
    assert 0 < factor < log(1.2)


def test_what_was_measured_fades() -> None:
    history = windows(EdgeHistory(), [1.5] * 20)
    fresh = history.corrected(RING, kind_of(history.held or Conditions()), 0.1, 19.0, TWO)
    old = history.corrected(RING, kind_of(history.held or Conditions()), 0.1, 10_000.0, TWO)
    assert fresh[0] > old[0] and fresh[1] < old[1] <= 0.1 + 1e-9


def test_one_odd_window_changes_nothing() -> None:
    history = windows(EdgeHistory(), [1.0] * 20)
    odd = history.observed(20.0, Observation(5, 1e6, 1.0, seconds=1.0, latency_ns=1e9), 1000.0, RING)
    assert odd.held is not None and odd.held.size == 1024.0 and odd.records == history.records
    assert odd.changed == history.changed
    late = windows(history, [50.0, 1.0, 1.0], begin=20.0)
    assert late.shaken is None and abs(late.records[0].mean) < 0.1, "no change of the costs"
    assert late.records[0].factor > 2, "but on average, messages have taken longer"


def test_two_are_a_change() -> None:
    history = windows(EdgeHistory(), [1.0] * 20)
    for at in (20.0, 21.0):
        history = history.observed(at, Observation(1000, 1e6, 0.0, seconds=1.0), None, RING)
    assert history.held is not None and history.held.size == 1e6 and history.changed == 21.0


def test_conditions_that_explain_what_was_measured_hold_at_once() -> None:
    history = windows(EdgeHistory(), [1.0] * 5)
    assert history.met(5.0, Conditions(1e6, way=RING), sure=True).held == Conditions(1e6, way=RING)


def test_a_change_of_the_costs_is_seen_and_believed() -> None:
    history = windows(windows(EdgeHistory(), [1.0] * 30), [3.0] * 4, begin=30.0)
    assert history.shaken is not None and history.shaken >= 30.0
    assert mean(history) == pytest.approx(log(3.0), abs=0.05)
    back = windows(history, [1.0] * 10, begin=34.0)
    assert mean(back) == pytest.approx(0.0, abs=0.05), "and the way down as well"


def test_what_got_worse_for_no_reason_may_be_as_before() -> None:
    history = windows(windows(EdgeHistory(), [1.0] * 30), [3.0] * 4, begin=30.0)
    kind = kind_of(history.held or Conditions())
    soon, later = (history.corrected(RING, kind, 0.1, now, ONE) for now in (33.1, 40.0))
    assert soon[0] > 0.9 > 0.1 > later[0], "on another way by now"
    assert later[1] > 0.3, "but nobody knows"
    assert mean(history, now=40.0) > 1.0, "where it is in use it is seen"
    assert windows(history, [1.0] * 10, begin=34.0).falls == ()


def test_the_model_is_heard_where_windows_differ() -> None:
    few = windows(EdgeHistory(), [1.0, 1.0, 9.0, 1.0, 9.0])
    many = windows(EdgeHistory(), [1.0, 1.0, 9.0, 1.0, 9.0] * 30)
    assert 0 < mean(few) < 0.6 * log(4.2) < mean(many, now=149.0)


def test_a_switch_at_no_time() -> None:
    """What is no time is not carried on: it is not even the same as itself."""
    history = windows(EdgeHistory(), [1.0] * 3)
    assert history.switched(nan, ONE).since == history.observed_at
    assert EdgeHistory().switched(nan, ONE).since is None


def test_kinds_of_conditions() -> None:
    often, seldom = Conditions(64.0, rate=1e5), Conditions(64.0, rate=100.0)
    assert len({kind_of(often, level) for level in range(3)} | {kind_of(seldom, level) for level in range(3)}) == 6
    assert kind_of(often) == kind_of(Conditions(64.0)), "how many come is not known"
    assert kind_of(seldom._replace(burst=0.0)) == kind_of(often), "it is the way that is slow"
    assert kind_of(Conditions(1e6, rate=100.0)) == kind_of(Conditions(1e6, rate=1e5)), "large ones keep all awake"


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_change(seed: int) -> None:
    noise = Noise(seed)
    late = [noise.factor(0.1) * (4.0 if noise.uniform() < 0.005 else 1.0) for _ in range(3000)]
    history = windows(EdgeHistory(), late)
    assert history.shaken is None and abs(history.records[0].mean) < 0.06 and abs(mean(history, now=2999.0)) < 0.2
    assert history.span == SPAN_SECONDS


def test_the_span_between_changes_is_learnt() -> None:
    history = EdgeHistory()
    for number in range(200):
        size = 64.0 if number // 10 % 2 else 1e6
        history = history.observed(float(number), Observation(1000, size, 0.0, seconds=1.0), None, RING)
    assert 8.0 < history.span < 14.0


def test_contention_is_remembered_where_it_cannot_be_seen() -> None:
    crowded = EdgeHistory().observed(1.0, replace(SEEN, contention=0.5), None, TWO)
    one = crowded.observed(1.0, SEEN, None, ONE)
    assert one.held is not None and one.held.apart == 0.5
    later = one.observed(301.0, SEEN, None, ONE).observed(601.0, SEEN, None, ONE)
    assert later.held is not None and later.held.apart < 0.5 * exp(-1)


@pytest.mark.parametrize(
    "observation",
    [None, Observation(0, 0.0, 0.0), Observation(5, nan, 0.0), Observation(-1, 5.0, 0.0), Observation(5, 5.0, 7.0)],
)
def test_nonsense_leaves_it_as_it_was(observation: Observation | None) -> None:
    history = windows(EdgeHistory(), [1.0] * 3)
    assert history.observed(9.0, observation, 1000.0, RING) is history


@pytest.mark.parametrize("now", [nan, inf, -inf])
def test_a_time_that_is_none(now: float) -> None:
    assert EdgeHistory().observed(now, SEEN, 1000.0, RING) == EdgeHistory()


def test_a_clock_that_jumps() -> None:
    history = windows(EdgeHistory(), [1.3] * 20).switched(19.5, ONE)._replace(shaken=3.0)
    moved = history.rebased(-1000.0)
    assert moved.since == -980.5 and moved.observed_at == -981.0 and moved.records[0].seen == -981.0
    kind = kind_of(history.held or Conditions())
    assert moved.corrected(RING, kind, 0.1, -981.0, TWO) == history.corrected(RING, kind, 0.1, 19.0, TWO)
    assert moved.rebased(1000.0) == history


def test_what_is_not_known_any_more_is_as_it_was() -> None:
    history = EdgeHistory().observed(0.0, replace(SEEN, others=0.7), None, TWO).observed(1.0, SEEN, None, TWO)
    assert history.held is not None and history.held.others == 0.7


def test_few_that_take_very_long_count() -> None:
    """One window in twenty: no change, but on average a message takes three times as long."""
    history = windows(EdgeHistory(), ([1.0] * 19 + [41.0]) * 20)
    assert history.shaken is None and 2 < exp(mean(history, now=399.0)) < 5


def test_a_switch_begins_anew() -> None:
    history = windows(EdgeHistory(), [1.0] * 7).switched(7.0, TWO)
    assert (history.windows, history.switches, history.since, history.owed) == (0, 1, 7.0, ())


def test_what_is_alike() -> None:
    base = Conditions(1000.0, rate=1000.0, others=0.1, srtt=1e5, network=1e8)
    assert alike(base._replace(size=1020.0, rate=1100.0, others=0.2, srtt=1.1e5), base)
    for change in (
        {"size": 1200.0}, {"rate": 1500.0}, {"others": 0.5}, {"srtt": 2e5}, {"srtt": None}, {"network": 1e7},
        {"burst": 9.0}, {"way": TWO}, {"far": True}, {"receivers": 2}, {"parked": 0.5}, {"contention": 0.5},
    ):  # fmt: skip
        assert not alike(base._replace(**change), base), change   # type: ignore[arg-type]
