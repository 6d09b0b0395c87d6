"""Recording a trace: real messages on every way; no test asserts a time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import pytest

from cwasi_fastpath import errors
from cwasi_fastpath.bench import recording
from cwasi_fastpath.cli.policy import _read
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import Cores, Way
from cwasi_fastpath.policy.comparisons import policy_named
from cwasi_fastpath.policy.oracle import oracle
from cwasi_fastpath.policy.regret import regret
from cwasi_fastpath.policy.replay import replay
from cwasi_fastpath.policy.trace import lines_of

WAYS = [Way(Transport.RING, Cores.ONE), Way(Transport.PIPE)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured first takes a while, on a busy machine."""
    monkeypatch.setattr(recording, "_FIRST_ROUNDS", 5)


def leftovers() -> tuple[set[str], set[int], set[int]]:
    threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("cwasi recording")}
    return threads, set(os.sched_getaffinity(0)), {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("scenario", recording.SCENARIOS)
def test_every_way_is_measured_in_every_block(scenario: str, tmp_path: Path) -> None:
    before = leftovers()
    trace = recording.record(scenario, 0.05, WAYS)
    assert leftovers() == before, "threads, places and processes"
    phases = recording.SCENARIOS[scenario]
    assert len(trace.changes or ()) == len(phases) - 1 and len(trace.blocks) >= len(phases)
    for block in trace.blocks:
        assert set(block.measured) == set(WAYS)
        assert all(one.latency_ns > 0 for one in block.measured.values())
        # Those that come after pauses do so whatever their way is.
        seldom = {one.rate is None and one.cpu_ns is None for one in block.measured.values()}
        assert len(seldom) == 1 and (scenario == "bursty" or seldom == {False})
        for one in block.measured.values():
            halves = [half.latency_ns for half in one.halves or ()]
            assert len(halves) == 2 and one.latency_ns == pytest.approx(sum(halves) / 2, abs=0.2)
    assert {block.size for block in trace.blocks} == {phase.size for phase in phases}
    assert set(trace.costs.curves) == set(WAYS) and set(trace.costs.switch) == {Transport.RING, Transport.PIPE}
    path = tmp_path / "t.trace"
    path.write_text("".join(lines_of(trace)))
    assert _read(path) == trace
    best = oracle(trace)
    assert regret(replay(trace, policy_named("cost", trace.costs), "cost"), best).share >= -1e-9


def test_what_cannot_be_recorded() -> None:
    with pytest.raises(errors.BadSpec, match="scenario 'link' cannot be recorded: use steady"):
        recording.record("link", 0.1, WAYS)


def test_the_crowd_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a recording fails in the middle."""
    before = leftovers()

    def fails(*_: object) -> None:
        assert len(leftovers()[2]) == len(before[2]) + 1, "the other process is there"
        raise RuntimeError("in the middle")

    monkeypatch.setattr(recording, "SCENARIOS", {"contention": (recording.Phase(crowded=True),)})
    monkeypatch.setattr(recording, "_block", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        recording.record("contention", 0.1, WAYS)
    assert leftovers() == before


def test_ways_of_this_machine() -> None:
    ways = recording.usable_ways(None)
    assert Way(Transport.REDIS) not in ways and Way(Transport.REDIS) in recording.usable_ways("redis://x")
    assert (Way(Transport.RING, Cores.TWO) in ways) == (len(os.sched_getaffinity(0)) > 1)
