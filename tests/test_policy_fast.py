"""Where nothing is new a decision does little; it comes to the same as all of it would."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import EdgeFacts, Locality, Transport
from cwasi_fastpath.policy import Cores, CostPolicy, EdgeHistory, Objective, Request, Way
from cwasi_fastpath.policy.generate import SCENARIOS, generate
from cwasi_fastpath.policy.replay import replay
from cwasi_fastpath.policy.trace import Trace


class Logged(CostPolicy):
    """Remembers what it answered."""

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        answer = super().step(request)
        self.answers = (*getattr(self, "answers", ())[-50:], answer)
        self.log = hash((getattr(self, "log", 0), answer[0]._replace(outlook=None), answer[1]))
        return answer


class Thorough(Logged):
    """Looks at everything each time."""

    def _as_before(self, request: Request, old: EdgeHistory, seen: Observation) -> None:
        return None


def answering(trace: Trace) -> Trace:
    """Each of its messages waits for an answer to the one before; and now and then the ends wait for their cores."""
    blocks = []
    for number, block in enumerate(trace.blocks):
        waited = 0.4 if number % 50 in (20, 40, 41, 42, 43) else 0.0
        measured = {
            way: replace(one, rate=0.4e9 / one.latency_ns, contention=waited)
            for way, one in block.measured.items()
        }
        blocks.append(replace(block, burst=0.1, measured=measured))
    return replace(trace, blocks=tuple(blocks))


@pytest.mark.parametrize("of", [lambda trace: trace, answering], ids=["generated", "answering"])
@pytest.mark.parametrize("objective", [Objective(), Objective(1.0, 0.5, 0.2)], ids=["latency", "mixed"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_comes_to_the_same(scenario: str, objective: Objective, of: Callable[[Trace], Trace]) -> None:
    trace = of(generate(scenario, seed=7, seconds=12.0))
    quick, thorough = Logged(trace.costs), Thorough(trace.costs)
    assert replay(trace, quick, "cost", objective) == replay(trace, thorough, "cost", objective)
    assert quick.answers == thorough.answers and quick.log == thorough.log, "all that is remembered, too"


def calls_in(work: Callable[[], Any]) -> int:
    """How many functions in Python it calls."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()   # what is there to be thrown away is of others, and may have something to call
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return calls


def steady_edge() -> tuple[CostPolicy, Request]:
    ways = frozenset(Way(transport) for transport in Transport) | {Way(Transport.RING, cores) for cores in Cores}
    policy = CostPolicy(generate("steady", seconds=0.1).costs)
    seen = Observation(1000, 500.0, 0.0, seconds=1.0, latency_ns=900.0, rate=1000.0, burst=1.0, others=0.0)
    request = Request(
        EdgeFacts(Locality.PROCESS), available=frozenset(Transport), ways=ways, observation=seen,
        current=Way(Transport.RING),
    )  # fmt: skip
    return policy, request


def test_where_nothing_is_new_it_calls_little() -> None:
    """A few functions once each, however many ways there are; to compare them takes some for each."""
    policy, request = steady_edge()
    steady, compared = set(), set()
    for number in range(60):
        request = replace(request, now=float(number))
        calls = calls_in(lambda now=request: policy.step(now))
        history, way = policy.step(request)
        if number > 20:
            (steady if history.idle else compared).add(calls)
        if way is not None and way != request.current:
            history = history.switched(float(number), way)
        request = replace(request, history=history, current=way)
    assert max(steady) <= 25 and max(steady) < min(compared)


def test_where_nothing_is_new_the_ways_are_compared_ever_more_seldom() -> None:
    """Until something is new."""
    policy, request = steady_edge()
    compared = []
    for number in range(200):
        if number == 150:
            assert request.observation is not None
            request = replace(request, observation=replace(request.observation, mean_bytes=50_000.0))
        request = replace(request, now=float(number))
        history, way = policy.step(request)
        if not history.idle:
            compared.append(number)
        if way is not None and way != request.current:
            history = history.switched(float(number), way)
        request = replace(request, history=history, current=way)
    assert compared == [0, 1, 11, 31, 71, 111, 150, 160, 180]
