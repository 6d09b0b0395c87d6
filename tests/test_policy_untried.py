"""Ways that were measured too high before: they are found, and looking for them costs little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from traces import COSTS, NEAR

from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import Cores, CostPolicy, EdgeHistory, Request, Way
from cwasi_fastpath.policy.comparisons import policy_named
from cwasi_fastpath.policy.costs import Costs
from cwasi_fastpath.policy.credible import credible
from cwasi_fastpath.policy.model import Conditions, estimate
from cwasi_fastpath.policy.noise import Noise
from cwasi_fastpath.policy.outlook import look
from cwasi_fastpath.policy.replay import Replay, Stint, observed, replay
from cwasi_fastpath.policy.trace import Block, Measured, Trace
from cwasi_fastpath.policy.trial import Trial
from cwasi_fastpath.policy.untried import untried

RING, ONE, TWO = Way(Transport.RING), Way(Transport.RING, Cores.ONE), Way(Transport.RING, Cores.TWO)
PIPE = Way(Transport.PIPE)
PREDICTED = {way: estimate(COSTS, way, Conditions(256.0, rate=1e5, burst=0.0)).latency for way in (RING, ONE, TWO)}


def steady(times: Mapping[Way, float], seconds: int, costs: Costs = COSTS) -> Trace:
    """In which each way costs so many times what was predicted of it, with some noise. Each message waits for the one
    before it."""
    noise = Noise(3)
    blocks = []
    for number in range(seconds):
        each = {way: PREDICTED[way] * factor * noise.factor(0.02) for way, factor in times.items()}
        measured = {way: Measured(ns, rate=1e9 / (2 * ns)) for way, ns in each.items()}
        blocks.append(Block(float(number), 1.0, 1000, 256.0, measured, NEAR, burst=0.0, others=0.0))
    return Trace("steady", costs, tuple(blocks), ())


def run(trace: Trace) -> Replay:
    return replay(trace, policy_named("cost", trace.costs), "cost")


def test_a_way_that_was_measured_twice_too_high_is_found_and_used() -> None:
    """By what was measured before the ring costs half as much again as two cores, and in truth a quarter less."""
    found = run(steady({TWO: 1.2, RING: 0.5}, 500))
    assert found.ways[0] == TWO and found.ways[-1] == RING and found.switches == 1
    assert found.ways.index(RING) == pytest.approx(300, abs=15), "when nothing had changed for five minutes"


def test_where_all_is_as_it_was_measured_few_looks_are_taken() -> None:
    trace = steady({TWO: 1.2, RING: 1.0}, 3600)
    found, stays = run(trace), replay(trace, policy_named("always:ring/two cores", COSTS), "two")
    assert found.switches == 2 and found.ways.count(RING) == 1, "a window on it shows that it is worse"
    assert stays.total_ns < found.total_ns < stays.total_ns * (1 + 1 / 300)


def test_what_costs_much_more_is_not_looked_at() -> None:
    assert run(steady({TWO: 0.8, RING: 1.0}, 1800)).switches == 0


def test_the_next_look_is_later() -> None:
    request = Request(NEAR, ways=frozenset({RING, TWO}), current=TWO)
    outlook = look(COSTS, request, Conditions(256.0, rate=1e5, burst=0.0, way=TWO), None)
    costs = [1.0] * len(outlook.ways)
    history = EdgeHistory(changed=0.0, windows=10_000)
    assert untried(history, outlook, costs, 299.0, TWO) is None
    found = untried(history, outlook, costs, 300.0, TWO)
    assert found is not None and outlook.ways[found.place] == RING
    assert untried(history._replace(windows=299), outlook, costs, 300.0, TWO) is None, "as it would cost too much"
    assert untried(history._replace(since=100.0), outlook, costs, 300.0, TWO) is None, "nor after a switch"
    before = history._replace(trials=(Trial(PIPE, 1.0, 1.0, brief=True),))
    assert untried(before, outlook, costs, 599.0, TWO) is None
    assert untried(before, outlook, costs, 600.0, TWO) == found
    again = history._replace(trials=(Trial(RING, 1.0, 1.0, brief=True),))
    assert untried(again, outlook, costs, 9e9, TWO) is None, "once"


def disturbed(times: float) -> Costs:
    """Something else ran while two cores were measured."""
    curve = COSTS.curves[TWO]
    slow = replace(curve, latency_ns=tuple(ns * times for ns in curve.latency_ns))
    return replace(COSTS, curves=MappingProxyType({**COSTS.curves, TWO: slow}))


def test_two_cores_that_cost_much_more_than_their_hops_are_not_believed() -> None:
    assert credible(COSTS) is COSTS and credible(disturbed(1.5)).curves == disturbed(1.5).curves
    doubted = credible(disturbed(8.0)).curves[TWO]
    assert doubted.latency_ns[0] < disturbed(8.0).curves[TWO].latency_ns[0] / 2
    assert doubted.error > COSTS.curves[TWO].error
    assert credible(replace(disturbed(8.0), hop=0.0)) == replace(disturbed(8.0), hop=0.0), "no second opinion"


def test_and_so_they_are_found() -> None:
    trace = steady({RING: 2.0, ONE: 1.0, TWO: 1.0}, 30, disturbed(8.0))
    assert run(trace).ways[-1] == TWO


def test_it_says_why() -> None:
    policy = CostPolicy(COSTS)
    request = Request(NEAR, ways=frozenset({RING, TWO}), current=TWO)
    for block in steady({TWO: 1.2, RING: 0.5}, 320).blocks:
        seen = observed(block, Stint(0, TWO, block.messages, block.seconds))
        request = replace(request, now=block.at, observation=seen)
        history, chosen = policy.step(request)
        request = replace(request, history=history)
        if chosen == RING:
            break
    decision = policy.decide(request)
    assert decision is not None and decision.way == RING
    assert "tried for a moment, as it may have been measured too high" in decision.reason


def test_the_kernel_is_not_expected_to_place_ends_better_than_they_can_be_placed() -> None:
    """Where two cores take longer than was measured before, so do ends that the kernel may have there: they need not
    be tried.
    """
    free = replace(COSTS.curves[ONE], latency_ns=COSTS.curves[TWO].latency_ns)
    costs = replace(COSTS, curves=MappingProxyType({**COSTS.curves, RING: free}))
    found = run(steady({TWO: 2.0, ONE: 1.0, RING: 4.0}, 60, costs))
    assert found.ways[-1] == TWO and RING not in found.ways
    first = run(steady({TWO: 2.0, RING: 1.0}, 60, costs))
    assert RING in first.ways, "where one core is no choice"
