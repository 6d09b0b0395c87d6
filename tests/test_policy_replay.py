"""Replay: what the oracle is, what a policy sees, how traces are read; and what the cost policy shows on traces that
nobody tuned it on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from traces import COSTS, NEAR, PIPE, RING, TCP, in_halves, trace_of

from cwasi_fastpath import errors
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import EdgeFacts, Locality, Mode, Transport
from cwasi_fastpath.policy import Cores, Decision, EdgeHistory, Policy, Request, Way
from cwasi_fastpath.policy.comparisons import AlwaysPolicy, policy_named
from cwasi_fastpath.policy.generate import SCENARIOS, generate
from cwasi_fastpath.policy.noise import Noise
from cwasi_fastpath.policy.oracle import oracle
from cwasi_fastpath.policy.regret import regret
from cwasi_fastpath.policy.replay import Replay, Stint, observed, replay, with_adaptations
from cwasi_fastpath.policy.trace import Block, Measured, Trace, lines_of, read

REDIS = Way(Transport.REDIS)

# ---- what a policy sees ----


class Curious(Policy):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[Way | None, Observation | None]] = []

    def decide(self, request: Request) -> Decision:
        return Decision(Mode.LOCAL, Transport.RING, "")

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        self.shown.append((request.current, request.observation))
        return EdgeHistory(), PIPE if len(self.shown) == 2 else request.current


def test_a_policy_sees_only_the_way_that_it_is_on() -> None:
    policy = Curious()
    found = replay(trace_of([{RING: 10.0, PIPE: 20.0}] * 4), policy, "curious")
    assert [(way, seen and seen.latency_ns) for way, seen in policy.shown] == [
        (RING, 10.0), (RING, 10.0), (PIPE, 20.0), (PIPE, 20.0),
    ]  # fmt: skip
    assert found.ways == (RING, RING, PIPE, PIPE) and found.switches == 1
    assert found.total_ns == 1000 * (10 + 10 + 20 + 20) + COSTS.switch[Transport.PIPE]


class Shown(Policy):
    """Leaves the ring after so many windows, and remembers what it saw of each."""

    def __init__(self, windows: int) -> None:
        self.windows = windows
        self.seen: list[tuple[Way | None, int, float, float, float | None]] = []

    def decide(self, request: Request) -> Decision:
        return Decision(Mode.LOCAL, Transport.RING, "")

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        seen = request.observation
        assert seen is not None and seen.seconds is not None
        self.seen.append(
            (request.current, seen.messages, round(seen.seconds, 9), round(request.now, 9), seen.latency_ns)
        )
        return EdgeHistory(), PIPE if len(self.seen) >= self.windows else request.current


def closed(costs: list[dict[Way, Measured]], messages: int = 1000) -> Trace:
    """Blocks of 20 ms in which each message waits for the one before it."""
    blocks = [Block(number * 0.02, 0.02, messages, 256.0, one, NEAR, burst=0.0) for number, one in enumerate(costs)]
    return Trace("made by hand", COSTS, tuple(blocks), ())


def test_who_is_on_a_slow_way_looks_again_before_it_has_sent_all() -> None:
    """By the ring each of 1,000 messages and its answer takes 0.2 ms, and a look comes after 50 ms."""
    policy = Shown(2)
    found = replay(closed([{RING: in_halves(1e5), PIPE: in_halves(1e4)}] * 2), policy, "shown")
    assert policy.seen == [
        (RING, 250, 0.05, 0.05, 1e5), (RING, 250, 0.05, 0.1, 1e5), (PIPE, 500, 0.01, 0.11, 1e4),
        (PIPE, 1000, 0.02, 0.13, 1e4),
    ]  # fmt: skip
    assert found.total_ns == 500 * 1e5 + 1500 * 1e4 + COSTS.switch[Transport.PIPE]
    assert [(stint.block, stint.way, stint.messages) for stint in found.stints] == [
        (0, RING, 250), (0, RING, 250), (0, PIPE, 500), (1, PIPE, 1000),
    ]  # fmt: skip
    assert found.ways == (RING, PIPE) and found.switches == 1


def test_on_a_fast_way_a_block_lasts_as_long_as_it_did() -> None:
    policy = Shown(9)
    replay(closed([{RING: in_halves(10.0, 8.0, 12.0), PIPE: in_halves(1e4)}] * 3), policy, "shown")
    assert [(seconds, now) for _, _, seconds, now, _ in policy.seen] == [(0.02, 0.02), (0.02, 0.04), (0.02, 0.06)]
    assert {latency for *_, latency in policy.seen} == {10.0}, "of all of the block"


def test_a_rush_is_looked_at_sooner() -> None:
    """As by a host, which sees it soon, and waits for a window of it."""
    few, many, more = (in_halves(ns) for ns in (1e6, 2e4, 1e4))
    policy = Shown(1_000_000)
    replay(closed([{RING: one, PIPE: one} for one in (few, many, many, more)], 2000), policy, "shown")
    seconds = [seconds for _, _, seconds, _, _ in policy.seen]
    assert seconds == pytest.approx([*[0.05] * 80, 0.025, 0.0275, 0.0275, 0.04, 0.04, 0.04], abs=1e-4)


def test_not_each_rush_is_looked_at_sooner() -> None:
    """There is half a second in between at least."""
    few, many = in_halves(1e5), in_halves(1e4)
    policy = Shown(1_000_000)
    replay(closed([{RING: one, PIPE: one} for one in [few, many] * 3], 2000), policy, "shown")
    looks = [round(now, 9) for *_, now, latency in policy.seen if latency == 1e4]
    assert looks == [0.425, 0.44, 0.88, 1.305, 1.32]


class Leaving(Policy):
    """By the server from the third window on; remembers what it was told of the network."""

    def __init__(self) -> None:
        self.told: list[Observation] = []

    def decide(self, request: Request) -> Decision:
        return Decision.for_way(request, TCP, "")

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        assert request.observation is not None
        self.told.append(request.observation)
        return EdgeHistory(), TCP if len(self.told) < 3 else REDIS


def between_nodes(srtts: list[float], seconds: float, *ways: Way) -> Trace:
    blocks = [
        Block(
            number * seconds, seconds, 10, 64.0, {way: Measured(1e5, 1e5, 0.5, 0.5) for way in ways},
            EdgeFacts(Locality.ELSEWHERE), burst=0.0, others=1.0, srtt_ns=srtt, bytes_per_second=1e9,
        )
        for number, srtt in enumerate(srtts)
    ]   # fmt: skip
    return Trace("made by hand", COSTS, tuple(blocks), ())


def test_of_a_network_it_knows_what_soundings_tell() -> None:
    """Who has left it for a server: it is sounded as often as by a host, and what is found is told when it is over."""
    policy = Leaving()
    replay(between_nodes([1e6 + number for number in range(60)], 0.05, TCP, REDIS), policy, "leaving")
    known = [round((seen.srtt_ns or 0.0) - 1e6) for seen in policy.told]
    assert known[:3] == [0, 1, 2]
    begins = sorted({number for number in known[3:]} - {2})
    assert known[3:] == sorted(known[3:]) and begins == list(range(3, 60, 6)), "every quarter of a second, and a bit"
    assert known.index(9) == 10, "it is over within a window"
    assert all(seen.network_age is None for seen in policy.told), "it is seen again and again"


def test_of_a_network_so_slow_that_no_sounding_is_over_in_time_it_knows_what_it_was() -> None:
    policy = Leaving()
    replay(between_nodes([1e6] * 3 + [1e9] * 17, 1.0, TCP, REDIS), policy, "leaving")
    assert {seen.srtt_ns for seen in policy.told} == {1e6}
    ages = [seen.network_age for seen in policy.told[3:]]
    assert ages == [None] * 6 + [float(age) for age in range(7, 18)], "that it will be seen is hoped for so long"


def test_of_a_receiver_on_another_node_it_knows_nothing() -> None:
    """Its clock is another one, and nobody asks it what it has counted."""
    policy = Leaving()
    replay(between_nodes([1e6] * 5, 0.05, TCP, REDIS), policy, "leaving")
    for seen in policy.told:
        assert (seen.messages, seen.mean_bytes, seen.parked) == (10, 64.0, 0.0)
        assert (seen.latency_ns, seen.cpu_ns, seen.contention, seen.others, seen.burst) == (None,) * 5


def test_what_others_take_may_be_known_of_each_way() -> None:
    """And of each half; else it is that of the block."""
    one, half = Measured(1e3, rate=5e5, others=0.5), Measured(1e3, rate=5e5, others=0.75)
    block = Block(0.0, 0.1, 10, 64.0, {RING: replace(one, halves=(one, half)), TCP: Measured(1e3)}, others=1.0)
    stints = [Stint(0, RING, 10, 0.1), Stint(0, RING, 5, 0.1, half=1), Stint(0, TCP, 10, 0.1)]
    assert [observed(block, stint).others for stint in stints] == [0.5, 0.75, 1.0]


def test_a_network_by_which_there_is_no_way_is_not_sounded() -> None:
    class Staying(Leaving):
        def decide(self, request: Request) -> Decision:
            return Decision.for_way(request, REDIS, "")

        def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
            return super().step(request)[0], REDIS

    policy = Staying()
    replay(between_nodes([1e6] * 30, 0.05, REDIS), policy, "staying")
    assert all(seen.srtt_ns is None and seen.network_age is None for seen in policy.told)


def test_halves_come_one_after_the_other() -> None:
    policy = Shown(9)
    found = replay(closed([{RING: in_halves(50e3, 10e3, 90e3), PIPE: in_halves(1.0)}], 1001), policy, "shown")
    assert [(messages, latency) for _, messages, _, _, latency in policy.seen] == [
        (501, 10e3), (250, 90e3), (250, 90e3),
    ]  # fmt: skip
    assert found.total_ns == 501 * 10e3 + 500 * 90e3


def test_messages_that_wait_for_none_come_as_they_came() -> None:
    policy = Shown(9)
    replay(trace_of([{RING: 1e9, PIPE: 1.0}] * 2), policy, "shown")
    assert [(messages, seconds) for _, messages, seconds, *_ in policy.seen] == [(1000, 0.02)] * 2


def test_a_policy_that_wants_what_is_not_possible() -> None:
    class Stubborn(Curious):
        def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
            return EdgeHistory(), TCP

    found = replay(trace_of([{PIPE: 10.0}] * 3), Stubborn(), "stubborn")
    assert found.ways == (PIPE,) * 3 and (found.switches, found.forced) == (0, 0)


def on(found: Replay, *ways: Way) -> Replay:
    """The same, but on these ways."""
    stints = [replace(stint, way=way) for stint, way in zip(found.stints, ways, strict=True)]
    return replace(found, stints=tuple(stints))


def test_time_to_adapt() -> None:
    costs = [{RING: 10.0, PIPE: 900.0}] * 5 + [{RING: 900.0, PIPE: 9.0}] * 95
    trace = replace(trace_of(costs), changes=(0.1,))
    best = oracle(trace)
    assert best.ways == (RING,) * 5 + (PIPE,) * 95
    late = on(best, *[RING] * 8, *[PIPE] * 92)
    for changes in ((0.1,), None):   # told, or from what the oracle did
        (one,) = with_adaptations(replace(trace, changes=changes), late, best).adaptations
        assert (one.at, round(one.seconds, 6), one.messages, one.done) == (0.1, 0.06, 3000, True)
        assert one.in_time
    (never,) = with_adaptations(trace, on(best, *[RING] * 100), best).adaptations
    assert not never.done and not never.in_time
    assert with_adaptations(trace, on(best, *[PIPE] * 100), best).time_to_adapt is None, "it was there before"


# ---- the cost policy ----

STATIC = ["static", "always:ring/one core", "always:ring/two cores", "always:redis"]
HELD_OUT = (101,)
"""The policy was made with the seeds below 100."""


@pytest.mark.parametrize("seed", HELD_OUT)
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "alike"])
def test_regret_on_traces_that_were_kept_out(scenario: str, seed: int) -> None:
    trace = generate(scenario, seed=seed)
    best = oracle(trace)
    found = with_adaptations(trace, replay(trace, policy_named("cost", trace.costs), "cost"), best)
    assert regret(found, best).share <= 0.02
    for name in STATIC:
        static = replay(trace, policy_named(name, trace.costs), name)
        assert found.total_ns <= static.total_ns * 1.0001 or found.ways[-1] == static.ways[-1] == static.ways[0], name
    # The first is what it learns when it sees the first messages.
    assert found.switches <= 1 + len(trace.changes or ())
    assert all(one.in_time for one in found.adaptations)


@pytest.mark.parametrize("seed", HELD_OUT)
def test_noise_alone_makes_it_switch_never(seed: int) -> None:
    trace = generate("alike", seed=seed)
    assert replay(trace, policy_named("cost", trace.costs), "cost").switches == 0


def test_it_is_deterministic() -> None:
    trace = generate("contention", seconds=5)
    runs = [replay(trace, policy_named("cost", trace.costs), "cost") for _ in range(2)]
    assert runs[0] == runs[1]


# ---- the generator ----


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_seed_makes_the_same_trace(scenario: str) -> None:
    one, two, other = (generate(scenario, seed=seed, seconds=2) for seed in (5, 5, 6))
    assert list(lines_of(one)) == list(lines_of(two)) != list(lines_of(other))
    assert one.seconds == pytest.approx(2, abs=0.5)


def test_an_unknown_scenario() -> None:
    with pytest.raises(errors.BadSpec, match=r"scenario 'storm' is unknown: use steady, bursty"):
        generate("storm")


def test_chance() -> None:
    noise = Noise(7)
    values = [noise.normal() for _ in range(20_000)]
    average = sum(values) / len(values)
    assert abs(average) < 0.03 and abs(sum(value * value for value in values) / len(values) - 1) < 0.05
    assert all(0 <= noise.uniform() < 1 for _ in range(1000))


# ---- files ----


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_trace_goes_through_its_file(scenario: str) -> None:
    trace = generate(scenario, seconds=1)
    assert read(lines_of(trace), "t") == trace
    assert read(lines_of(replace(trace, changes=None)), "t").changes is None


def test_halves_go_through_a_file() -> None:
    trace = closed([{RING: in_halves(10.0, 8.0, 12.0), PIPE: in_halves(5.0)}])
    assert read(lines_of(trace), "t") == trace


def damaged(lines: list[str], number: int, change: Mapping[str, object]) -> list[str]:
    return [*lines[:number], json.dumps({**json.loads(lines[number]), **change}) + "\n", *lines[number + 1 :]]


LINES = list(lines_of(generate("link", seconds=0.2)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "t is empty"),
        (["hello\n"], "t, line 1: this is no trace"),
        (["[1]\n"], "t, line 1: this is no trace"),
        (["[" * 100_000], "t, line 1: this is no trace"),
        (['{"kind":"cwasi-trace"}\n'], "line 1: this is no trace"),
        (damaged(LINES, 0, {"schema": 2}), "its format is 2, and this version reads 1"),
        (damaged(LINES, 0, {"costs": {}}), "line 1: syscall is a number"),
        (damaged(LINES, 0, {"name": 5}), "line 1: name is a printable text"),
        (damaged(LINES, 0, {"changes": ["a"]}), "line 1: changes is a number"),
        (LINES[:-1], r"t is cut off after 9 blocks: record it again"),
        ([*LINES[:-1], LINES[-1][:5]], "line 11: no object of JSON; the file is damaged or cut off"),
        (LINES[:3] + LINES[4:], "cut off after 8 blocks"),
        ([*LINES, LINES[3]], "line 12: there is something after the end"),
        ([LINES[0], '{"end":0}\n'], "t has no blocks"),
        ([LINES[0], LINES[2], LINES[1]], "line 3: blocks come in the order of their times"),
        (damaged(LINES, 1, {"seconds": 0}), "line 2: a block takes 1 us or more"),
        (damaged(LINES, 1, {"at": 1e15}), "line 2: a block takes 1 us or more, and begins in the first 1e.08 s"),
        (damaged(LINES, 0, {"about": {"load": math.nan}}), "line 1: about has a number that is none"),
        (damaged(LINES, 1, {"messages": -1}), "line 2: messages is a number from 0"),
        (damaged(LINES, 1, {"size": 1e400}), "line 2: size is a number from 0"),
        (damaged(LINES, 1, {"size": None}), "line 2: size is a number from 0"),
        (damaged(LINES, 1, {"measured": {}}), "line 2: measured has what was measured of one way"),
        (damaged(LINES, 1, {"measured": {"tcp": {}}}), "line 2: latency_ns was not measured"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": "x"}}}), "line 2: latency_ns is a number"),
        (damaged(LINES, 1, {"measured": {"smoke": {"latency_ns": 1}}}), "line 2: way 'smoke' is unknown"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": 1, "rate": 0}}}), "line 2: rate is how many"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": 1, "rate": 5e-324}}}), "take 3600 s or less"),
        (damaged(LINES, 1, {"messages": 1e15, "measured": {"tcp": {"latency_ns": 1, "rate": 1}}}), "not those by tcp"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": 1, "halves": 5}}}), "line 2: halves are two"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": 1, "halves": [{}]}}}), "line 2: halves are two"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": 1, "halves": [{}, {}]}}}), "latency_ns was not"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": 1, "halves": [1, 2]}}}), "is an object of JSON"),
        (damaged(LINES, 1, {"measured": {"tcp": {"latency_ns": 1, "rate": 1e9, "halves": 2 * [{"latency_ns": 1}]}}}),
         "rate is of each half"),
        (damaged(LINES, 1, {"facts": ["mars", True, True]}), r"line 2: facts are \[process or node or elsewhere"),
        (damaged(LINES, 1, {"facts": 7}), "line 2: facts are"),
    ],
)
def test_what_is_no_trace(lines: list[str], message: str) -> None:
    with pytest.raises(errors.BadSpec, match=message):
        read(lines, "t")


def test_ways_of_a_trace() -> None:
    assert generate("link", seconds=0.2).ways == [Way(Transport.REDIS), TCP]
    assert Way(Transport.RING, Cores.ONE) in generate("steady", seconds=0.2).ways
    always = AlwaysPolicy(TCP)
    assert set(replay(generate("link", seconds=0.2), always, "x").ways) == {TCP}


def test_a_way_that_was_forced_is_no_mistake_as_fewer_messages_come_by_it() -> None:
    """That before carried more of them, but is not there any more."""
    ring, tcp, redis = (Way(kind) for kind in (Transport.RING, Transport.TCP, Transport.REDIS))
    near = {ring: Measured(500.0, rate=1e6)}
    far = {tcp: Measured(31e3, rate=16e3), redis: Measured(330e3, rate=1.5e3)}
    blocks = [Block(0.02 * number, 0.02, 20_000, 64.0, near, burst=0.0) for number in range(50)]
    blocks += [
        Block(0.02 * number, 0.02, 320, 64.0, far, EdgeFacts(Locality.ELSEWHERE), burst=0.0, srtt_ns=10e3)
        for number in range(50, 100)
    ]
    costs = generate("migration", seconds=1.0).costs
    found = replay(Trace("moved", costs, tuple(blocks)), policy_named("cost", costs), "cost")
    assert found.forced == 1 and found.switches == 0 and set(found.ways) == {ring, tcp}
