"""What the cost policy shows on traces of real messages, recorded on a quiet machine and not used to make it: pure
replay of what is in tests/data, so the same each time."""

from __future__ import annotations

import gzip
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import Cores, Way
from cwasi_fastpath.policy.comparisons import policy_named
from cwasi_fastpath.policy.oracle import oracle, oracle_without_luck
from cwasi_fastpath.policy.regret import regret
from cwasi_fastpath.policy.replay import replay, with_adaptations
from cwasi_fastpath.policy.trace import Trace, lines_of, read

DATA = Path(__file__).parent / "data"
RECORDED = ("contention", "size-shift", "steady")
FIXED = ("static", "thresholds", "always:ring/one core", "always:ring/two cores", "always:pipe", "always:tcp")


@cache
def recorded(name: str) -> Trace:
    with gzip.open(DATA / f"{name}.trace.gz", "rt", encoding="utf-8") as file:
        return read(file, name)


@pytest.mark.parametrize("name", RECORDED)
def test_regret_on_what_was_recorded(name: str) -> None:
    trace = recorded(name)
    best, fair = oracle(trace), oracle_without_luck(trace)
    assert fair is not None and best.total_ns <= fair.total_ns
    found = with_adaptations(trace, replay(trace, policy_named("cost", trace.costs), "cost"), best)
    assert regret(found, fair).share <= 0.02
    for fixed in FIXED:
        assert found.total_ns <= replay(trace, policy_named(fixed, trace.costs), fixed).total_ns * (1 + 1e-9), fixed
    assert found.switches <= len(trace.changes or ())
    assert len(found.adaptations) == (2 if name == "contention" else 0)
    assert all(one.in_time for one in found.adaptations)


@pytest.mark.parametrize("cores", [Cores.ONE, Cores.TWO])
def test_noise_as_recorded_makes_it_switch_never(cores: Cores) -> None:
    """Two ways that have cost the same, one half of each block the other way round."""
    trace, way, other = recorded("steady"), Way(Transport.RING, cores), Way(Transport.PIPE)
    blocks = []
    for block in trace.blocks:
        one = block.measured[way]
        assert one.halves is not None
        blocks.append(replace(block, measured={way: one, other: replace(one, halves=one.halves[::-1])}))
    curve = trace.costs.curves[way]
    alike = replace(trace, blocks=tuple(blocks), costs=replace(trace.costs, curves={way: curve, other: curve}))
    assert replay(alike, policy_named("cost", alike.costs), "cost").switches == 0


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_recorded_has_halves(name: str) -> None:
    trace = recorded(name)
    assert list(read(lines_of(trace), name).blocks) == list(trace.blocks)
    for block in trace.blocks:
        for one in block.measured.values():
            assert one.halves is not None and one.rate is not None and one.contention is not None
            assert one.latency_ns == pytest.approx(sum(half.latency_ns for half in one.halves) / 2, abs=0.2)
