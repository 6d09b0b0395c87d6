"""The cost model: between what was measured it interpolates, its parts go in the right direction, nothing breaks it."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, isfinite, nan

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cwasi_fastpath import errors
from cwasi_fastpath.metrics import Observation, nonsense, sane
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import SIZES, Conditions, Cores, Costs, Curve, Way
from cwasi_fastpath.policy.generate import generate
from cwasi_fastpath.policy.model import estimate, predict, ways_of

ONE, TWO, FREE = (Way(Transport.RING, cores) for cores in (Cores.ONE, Cores.TWO, Cores.FREE))
COSTS = Costs(
    syscall=100.0, copy_byte=0.05, hop=60.0, wake=20_000.0, pipe_message=800.0, pipe_byte=0.2, redis_message=60_000.0,
    curves={
        ONE: Curve((64.0, 1024.0, 65536.0), (1800.0, 1900.0, 8000.0), error=0.1),
        TWO: Curve((64.0, 1024.0, 65536.0), (300.0, 900.0, 20_000.0), (200.0, 800.0, 15_000.0), error=0.1),
    },
)  # fmt: skip
EVERY = [Way(transport, cores) for transport in Transport for cores in Cores]


def ns(on: Way, /, **conditions: object) -> float:
    return predict(COSTS, on, Conditions(**conditions)).ns   # type: ignore[arg-type]


def test_what_was_measured_is_predicted() -> None:
    for size, expected in ((64, 1800), (1024, 1900), (65536, 8000)):
        assert ns(ONE, size=float(size)) == expected


def test_between_and_beyond() -> None:
    assert ns(ONE, size=(1024 + 65536) / 2) == pytest.approx((1900 + 8000) / 2)
    assert ns(ONE, size=1.0) == 1800, "flat below"
    slope = (8000 - 1900) / (65536 - 1024)
    assert ns(ONE, size=131072.0) == pytest.approx(8000 + 65536 * slope), "goes on as it came"


def test_a_sleeping_receiver_costs_a_wake_where_it_sleeps() -> None:
    assert ns(TWO, size=64.0, parked=0.5) == 300 + 0.5 * COSTS.wake
    assert ns(ONE, size=64.0, parked=0.5) == 1800, "the change of threads is in what was measured"
    seldom, often = Conditions(64.0, rate=10.0, way=ONE), Conditions(64.0, rate=500e3, way=ONE)
    assert predict(COSTS, TWO, seldom).ns > COSTS.wake / 2 > predict(COSTS, TWO, often).ns, "seen on another way"


RESTED = replace(
    COSTS,
    curves={
        TWO: replace(COSTS.curves[TWO], pauses=(300e3, 3e6), rest_ns=(30e3, 50e3), rest_byte=(0.1, 0.3)),
        Way(Transport.PIPE): Curve((64.0, 65536.0), (30e3, 30e3), pauses=(600e3,), rest_ns=(10e3,), rest_byte=(0.0,)),
    },
)


def test_after_a_pause_a_sleeper_is_slower_to_wake_and_caches_are_cold() -> None:
    def more(rate: float, size: float = 64.0, parked: float = 1.0) -> float:
        return estimate(RESTED, TWO, Conditions(size, parked, rate, 0.0, way=TWO)).latency - ns(TWO, size=size)

    assert more(0.0) == COSTS.wake, "no pause is known"
    for rate in (1e9 / 300e3, 20e3, 1e9):
        assert more(rate) == pytest.approx(30e3 + 6.4), "flat below"
    for rate in (1e9 / 3e6, 1e-300):
        assert more(rate) == pytest.approx(50e3 + 0.3 * 64), "and above"
    between = 1e9 / (300e3 * 10**0.5)
    assert more(between) == pytest.approx(40e3 + 0.2 * 64), "by the logarithm"
    assert more(between, parked=0.25) == pytest.approx(more(between) / 4)
    assert more(between, 2.0**30) == pytest.approx(40e3 + 0.2 * 98304), "as far as caches go"


def test_ends_that_the_kernel_places_have_pauses_of_their_own_where_these_were_measured() -> None:
    def more(costs: Costs) -> float:
        asleep = Conditions(64.0, 1.0, 1e9 / 300e3, 0.0, way=FREE)
        return estimate(costs, FREE, asleep).latency - estimate(costs, FREE, asleep._replace(parked=0.0)).latency

    own = replace(COSTS.curves[TWO], pauses=(300e3,), rest_ns=(45e3,), rest_byte=(0.0,))
    assert more(RESTED) == pytest.approx(30e3 + 6.4), "else those of a ring on two cores"
    assert more(replace(RESTED, curves={**RESTED.curves, FREE: own})) == pytest.approx(45e3)


def test_who_always_sleeps_pays_only_for_longer_pauses_than_there_and_back() -> None:
    def of_pipe(pause: float) -> float:
        return estimate(RESTED, Way(Transport.PIPE), Conditions(64.0, 1.0, 1e9 / pause, 0.0)).latency

    assert [of_pipe(pause) for pause in (1e3, 60e3)] == [30e3, 30e3]
    assert of_pipe((60e3 * 600e3) ** 0.5) == pytest.approx(35e3)
    assert [of_pipe(pause) for pause in (600e3, 1e12)] == [40e3, 40e3]


def test_ends_that_the_kernel_places_cost_what_they_cost_there() -> None:
    free = Way(Transport.RING)
    with_free = replace(COSTS, curves={**COSTS.curves, free: Curve((64.0,), (7000.0,))})

    def at(together: float | None) -> float:
        return estimate(with_free, free, Conditions(64.0), together).latency

    assert [at(part) for part in (None, 0.0, 0.5, 1.0)] == [7000, 300, 1050, 1800]
    assert estimate(replace(with_free, curves={}), free, Conditions(64.0), 1.0).latency > 0


def test_messages_wait_for_those_before_them() -> None:
    waits = [ns(ONE, size=64.0, rate=rate) for rate in (0.0, 100e3, 400e3, 1e9)]
    assert waits == sorted(waits) and waits[0] == 1800
    rho = 100e3 * 1800e-9
    assert waits[1] == pytest.approx(1800 * (1 + rho / (1 - rho) * 1.5 / 2))
    assert ns(ONE, size=64.0, rate=100e3, burst=9.0) > waits[1], "uneven gaps cost more"


def test_two_ends_want_two_cores() -> None:
    for others in (0.5, 1.0, 3.0):
        assert ns(TWO, size=64.0, others=others) > 10 * ns(TWO, size=64.0)
    assert ns(ONE, size=64.0, others=0.9) == 1800, "the other core is enough for the others"
    assert ns(ONE, size=64.0, others=3.0) > 1800
    assert ns(TWO, size=64.0, apart=0.5, way=ONE) > ns(TWO, size=64.0), "as it was when last seen there"
    assert ns(ONE, size=64.0, contention=0.5, way=TWO) == 1800


def test_where_the_ends_have_waited_for_a_core_they_do() -> None:
    """Whatever others are seen to do, and though a core may be free: they are not on it."""
    assert ns(ONE, size=64.0, others=0.9, contention=0.9, way=ONE) > 5000
    assert ns(TWO, size=64.0, parked=0.8, others=1.0, contention=0.7, way=TWO) > 100e3
    assert ns(TWO, size=64.0, others=1.0, contention=0.0, way=TWO) == 300, "those may give way"


@pytest.mark.parametrize("way", [ONE, TWO])
def test_while_the_ends_wait_for_a_core_nothing_comes_where_each_message_is_answered(way: Way) -> None:
    """Few messages meet it, so on average they take as much longer as the ends are kept from running."""
    alone = ns(way, size=64.0, burst=0.0, way=way)
    assert ns(way, size=64.0, burst=0.0, others=1.0, contention=0.4, way=way) == pytest.approx(alone / 0.65)


def test_the_network_counts_between_nodes_only() -> None:
    tcp, redis = Way(Transport.TCP), Way(Transport.REDIS)
    assert ns(tcp, size=64.0, srtt=1e6, network=1e6, far=True) > ns(tcp, size=64.0) + 0.5e6
    assert ns(tcp, size=64.0, srtt=1e6, network=1e6) == ns(tcp, size=64.0)
    assert ns(redis, size=64.0, srtt=1e9, far=True) == ns(redis, size=64.0, far=True), "another path"


def test_several_receivers_are_sent_to_one_after_the_other() -> None:
    assert ns(Way(Transport.TCP), receivers=5) > ns(Way(Transport.TCP))
    assert ns(TWO, receivers=5) == ns(TWO)


def test_the_interval_is_around_and_wider_where_nothing_was_measured() -> None:
    measured, derived = predict(COSTS, ONE, Conditions()), predict(COSTS, Way(Transport.PIPE), Conditions())
    for one in (measured, derived):
        assert 0 < one.low < one.ns < one.high
    assert measured.high / measured.low < derived.high / derived.low


figures = st.floats() | st.sampled_from([nan, inf, -inf, -1.0, 0.0, 1e308, 5e-324])


@settings(deadline=None)
@given(st.sampled_from(EVERY), st.lists(figures, min_size=6, max_size=6), figures, figures, figures)
@example(Way(Transport.TCP), [64.0, 0.0, 0.0, 1.0, 0.0, 0.0], 0.0, inf, 1e9)
def test_no_conditions_break_it(way: Way, values: list[float], others: float, srtt: float, network: float) -> None:
    size, _, rate, burst, contention, apart = values
    conditions = Conditions(size, 0.5, abs(rate), burst, others, contention, apart, srtt, network, ONE, 3, True)
    for costs in (COSTS, RESTED):
        found = estimate(costs, way, conditions)
        assert all(isfinite(value) and value >= 0 for value in found[:4])


@settings(deadline=None)
@given(st.builds(Costs, *[figures] * 6), st.sampled_from(EVERY), st.floats(0, 2**31))
def test_no_costs_break_it(costs: Costs, way: Way, size: float) -> None:
    found = estimate(costs, way, Conditions(size, rate=1000.0, others=1.0))
    assert all(isfinite(value) and value >= 0 for value in found[:4])


# ---- what is believed of an observation ----

observations = st.builds(
    Observation, st.integers(-(2**70), 2**70), figures, figures, seconds=figures, latency_ns=figures, rate=figures,
    burst=figures, cpu_ns=figures, contention=figures, others=figures, srtt_ns=figures, bytes_per_second=figures,
    network_age=figures, syscalls_ns=figures, woken_ns=figures,
)  # fmt: skip


@settings(deadline=None)
@given(observations)
def test_nonsense_is_left_out(observation: Observation) -> None:
    clean = sane(observation)
    wrong = nonsense(observation)
    if clean is None:
        assert {"messages", "mean_bytes", "parked"} & set(wrong)
        return
    assert nonsense(clean) == ()
    assert all(getattr(clean, name) is None for name in wrong)
    assert (clean is observation) == (wrong == ())


def test_nonsense_is_named() -> None:
    good = Observation(10, 100.0, 0.5, latency_ns=1000.0)
    assert sane(good) is good
    odd = replace(good, latency_ns=nan, rate=-1.0)
    assert nonsense(odd) == ("latency_ns", "rate") and sane(odd) == Observation(10, 100.0, 0.5)
    assert sane(replace(good, mean_bytes=nan)) is None


# ---- ways, and costs as JSON ----


def test_ways_have_names() -> None:
    assert [str(way) for way in (Way(Transport.RING), ONE, TWO)] == ["ring", "ring/one core", "ring/two cores"]
    assert [Way.parse(str(way)) for way in EVERY] == EVERY
    for text in ("", "pigeon", "ring/", "ring/three cores", "ring/one core/"):
        with pytest.raises(errors.BadSpec, match="is unknown: use ring"):
            Way.parse(text) if text != "ring/" else Way.parse("ring/ ")


def test_ways_come_in_a_fixed_order() -> None:
    assert ways_of(frozenset({TWO, ONE, Way(Transport.TCP)})) == [ONE, TWO, Way(Transport.TCP)]
    assert ways_of(frozenset()) == [Way(transport) for transport in Transport]


def test_costs_go_through_json() -> None:
    costs = generate("steady", seconds=0.1).costs
    for one in (costs, COSTS, RESTED, replace(COSTS, redis_message=None)):
        assert Costs.from_plain(json.loads(json.dumps(one.to_plain()))) == one
    assert all(curve.sizes == SIZES for curve in costs.curves.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wake": -1.0}, "wake is a number from 0"),
        ({"wake": nan}, "wake is a number from 0"),
        ({"wake": None}, "wake is a number from 0"),
        ({"wake": True}, "wake is a number from 0"),
        ({"curves": []}, "objects of JSON"),
        ({"curves": {"pigeon": {}}}, "way 'pigeon' is unknown"),
        ({"curves": {"ring": {"sizes": [], "latency_ns": []}}}, "there is at least one"),
        ({"curves": {"ring": {"sizes": [2, 1], "latency_ns": [1, 1]}}}, "ascend"),
        ({"curves": {"ring": {"sizes": [1, 2], "latency_ns": [1]}}}, "latency_ns of ring has a figure for each"),
        ({"curves": {"ring": {"sizes": [1], "latency_ns": ["a"]}}}, "latency_ns is a number"),
        ({"curves": {"ring": {"sizes": 5}}}, "a list of numbers"),
        ({"curves": {"ring": {"sizes": [1], "latency_ns": [1], "pauses": [1]}}}, "rest_ns of ring has a figure"),
        ({"curves": {"ring": {"sizes": [1], "latency_ns": [1], "pauses": [0]}}}, "pauses of ring ascend"),
        ({"switch": {"ring": inf}}, "ring is a number"),
    ],
)
def test_costs_that_are_none(change: dict[str, object], message: str) -> None:
    with pytest.raises(errors.BadSpec, match=message):
        Costs.from_plain({**COSTS.to_plain(), **change})
    with pytest.raises(errors.BadSpec, match="an object"):
        Costs.from_plain([])


# ---- what only a tracer knows ----


def test_a_wake_that_is_seen_to_take_longer_makes_ways_dearer_that_sleep() -> None:
    calm = Conditions(size=64.0, parked=0.5, way=Way(Transport.RING), contention=0.0)
    late = calm._replace(woken=COSTS.wake + 1e6)
    for way, more in ((Way(Transport.RING), 0.5e6), (Way(Transport.PIPE), 1e6), (Way(Transport.RING, Cores.ONE), 0.0)):
        assert estimate(COSTS, way, late).latency - estimate(COSTS, way, calm).latency == pytest.approx(more)
    quick = calm._replace(woken=COSTS.wake / 2)
    assert estimate(COSTS, Way(Transport.PIPE), quick).latency == estimate(COSTS, Way(Transport.PIPE), calm).latency


def test_what_a_message_waits_for_a_core_is_not_counted_twice() -> None:
    """Where it is seen how long receivers take to run, it is not guessed as well."""
    crowded = Conditions(size=64.0, parked=1.0, way=Way(Transport.RING), contention=0.7)
    seen = crowded._replace(woken=COSTS.wake)
    guessed, known = (estimate(COSTS, Way(Transport.PIPE), one).latency for one in (crowded, seen))
    assert guessed - known == pytest.approx(0.8 * COSTS.slice / 2)
