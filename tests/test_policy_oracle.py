"""The oracle: the least that was possible, with noise and without; and how sure a regret is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import COSTS, NEAR, PIPE, RING, TCP, in_halves, trace_of

from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import Objective, Way
from cwasi_fastpath.policy.comparisons import AlwaysPolicy
from cwasi_fastpath.policy.noise import Noise
from cwasi_fastpath.policy.oracle import oracle, oracle_of_phases, oracle_without_luck
from cwasi_fastpath.policy.outlook import switch_ns
from cwasi_fastpath.policy.regret import Regret, regret
from cwasi_fastpath.policy.replay import block_ns, replay
from cwasi_fastpath.policy.trace import Block, Trace

price = st.integers(1, 2000).map(float)
prices = st.lists(st.fixed_dictionaries(dict.fromkeys((RING, PIPE, TCP), price)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(prices)
def test_nobody_does_better_than_the_oracle(costs: list[dict[Way, float]]) -> None:
    """All ways through the trace, one after the other."""
    trace = trace_of(costs)

    def total(path: tuple[Way, ...]) -> float:
        paid = sum(block_ns(block, way, Objective()) for block, way in zip(trace.blocks, path, strict=True))
        return paid + sum(switch_ns(COSTS, a, b) for a, b in pairwise(path))

    best = oracle(trace)
    assert best.total_ns == pytest.approx(min(map(total, product((RING, PIPE, TCP), repeat=len(costs)))))
    assert best.total_ns == pytest.approx(total(best.ways))
    assert regret(best, best) == Regret(0.0, 0.0, 0.0)


def test_the_oracle_pays_for_what_it_has_to_leave() -> None:
    trace = trace_of([{RING: 1.0}] * 3 + [{TCP: 5.0}] * 3)
    best = oracle(trace)
    assert best.ways == (RING,) * 3 + (TCP,) * 3 and (best.switches, best.forced) == (0, 1)
    assert best.total_ns == 3 * 1000 + 3 * 5000 + COSTS.switch[Transport.TCP]


def test_an_oracle_of_phases_takes_one_way_for_each() -> None:
    """Also where two are better in turn."""
    quiet, loud = [{RING: 1e4, PIPE: 2e4}] * 5, [{RING: 9e4, PIPE: 3e4}, {RING: 1e4, PIPE: 3e4}] * 10
    trace = replace(trace_of([*quiet, *loud]), changes=(0.1,))
    best, phased = oracle(trace), oracle_of_phases(trace)
    assert phased is not None and set(phased.ways[:5]) == {RING} and set(phased.ways[5:]) == {PIPE}
    assert phased.switches == 1 < best.switches and best.total_ns < phased.total_ns
    assert phased.total_ns <= min(replay(trace, AlwaysPolicy(way), "always").total_ns for way in (RING, PIPE))
    assert oracle_of_phases(replace(trace, changes=None)) is None, "nobody tells"
    apart = replace(trace_of([{RING: 1.0}, {TCP: 1.0}]), changes=())
    assert oracle_of_phases(apart) is None, "no way is possible all the time"


def test_an_oracle_without_luck_gains_nothing_from_noise() -> None:
    """Both ways cost the same; in each half of a block, by chance, one of them seems to cost less."""
    noise, blocks = Noise(3), []
    for number in range(200):
        measured = {way: in_halves(1000.0, *(1000.0 * noise.factor(0.3) for _ in range(2))) for way in (RING, PIPE)}
        whole = {
            way: replace(one, latency_ns=sum(half.latency_ns for half in one.halves or ()) / 2)
            for way, one in measured.items()
        }
        blocks.append(Block(number * 0.02, 0.02, 10_000, 256.0, whole, NEAR))
    trace = Trace("noise", COSTS, tuple(blocks), ())
    best, fair = oracle(trace), oracle_without_luck(trace)
    stays = replay(trace, AlwaysPolicy(RING), "ring")
    assert fair is not None and best.switches > 50 > fair.switches
    assert regret(stays, best).share > 0.1 > abs(regret(stays, fair).share)
    assert oracle_without_luck(trace_of([{RING: 1.0}] * 3)) is None, "nobody knows"


def test_nobody_does_better_than_the_oracle_within_blocks() -> None:
    """In halves, on a way on which a block takes several looks."""
    blocks = [
        Block(number * 0.1, 0.1, 1001, 256.0, {RING: in_halves(2e5, 1e5, 3e5), PIPE: in_halves(2e5, 3e5, 1e5)}, NEAR)
        for number in range(3)
    ]
    trace = Trace("made by hand", COSTS, tuple(blocks), ())
    best = oracle(trace)
    assert best.ways == (RING, RING, RING) and [stint.way for stint in best.stints] == [RING, PIPE] * 3
    switches = 3 * COSTS.switch[Transport.PIPE] + 2 * COSTS.switch[Transport.RING]
    assert best.total_ns == 3 * 1001 * 1e5 + switches
    assert best.total_ns < replay(trace, AlwaysPolicy(RING), "ring").total_ns


def test_an_interval_of_regret() -> None:
    noise = Noise(5)
    trace = trace_of([{RING: 1000 * noise.factor(0.1), PIPE: 1100 * noise.factor(0.1)} for _ in range(400)])
    ring, pipe = (replay(trace, AlwaysPolicy(way), str(way)) for way in (RING, PIPE))
    found = regret(pipe, ring)
    assert 0.05 < found.low < found.share < found.high < 0.15 and found == regret(pipe, ring)
    even = regret(ring, replay(trace, AlwaysPolicy(RING), "again"))
    assert (even.low, even.share, even.high) == (0.0, 0.0, 0.0)
