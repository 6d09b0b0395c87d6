"""When the cost policy switches, and when it does not: on plain data, a window after the other."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cwasi_fastpath as cwasi
from cwasi_fastpath import errors
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import EdgeFacts, Locality, Transport
from cwasi_fastpath.policy import Cores, CostPolicy, Decision, Limits, Objective, Policy, Request, Way, ruled_out
from cwasi_fastpath.policy.comparisons import AlwaysPolicy, StaticPolicy, ThresholdPolicy, policy_named
from cwasi_fastpath.policy.decision import RING_BYTES, ruled_out_way
from cwasi_fastpath.policy.generate import generate

RING, ONE, TWO = Way(Transport.RING), Way(Transport.RING, Cores.ONE), Way(Transport.RING, Cores.TWO)
PIPE, TCP, REDIS = Way(Transport.PIPE), Way(Transport.TCP), Way(Transport.REDIS)
WAYS = frozenset({RING, ONE, TWO, PIPE, TCP, REDIS})
COSTS = generate("steady", seconds=0.1).costs
HERE = EdgeFacts(Locality.PROCESS)
EDGE = Request(HERE, available=frozenset(Transport), ways=WAYS)
SMALL = Observation(
    3000, 256.0, 0.0, seconds=0.02, latency_ns=600.0, rate=150e3, burst=1.0, contention=0.0, others=0.0
)  # fmt: skip


class Edge:
    """An edge in use, and a policy that is asked after each window."""

    def __init__(self, policy: Policy, way: Way, **options: object) -> None:
        self.policy = policy
        self.request = replace(EDGE, current=way, **options)   # type: ignore[arg-type]

    @property
    def way(self) -> Way:
        assert self.request.current is not None
        return self.request.current

    def window(self, observation: Observation | None, seconds: float = 0.02) -> Way:
        """One more; the policy's answer is followed."""
        now = self.request.now + seconds
        history, way = self.policy.step(replace(self.request, observation=observation, now=now))
        assert way is not None
        decided = self.policy.decide(replace(self.request, observation=observation, now=now, history=history))
        assert decided is not None and decided.way == way, "decide() explains what step() has chosen"
        if way != self.way:
            history = history.switched(now, way)
        self.request = replace(self.request, now=now, history=history, current=way)
        return self.way


def settled(way: Way = TWO, observation: Observation = SMALL, **options: object) -> Edge:
    edge = Edge(CostPolicy(COSTS), way, **options)
    for _ in range(30):
        edge.window(observation)
    return edge


def test_stays_where_nothing_is_better() -> None:
    assert settled().way == TWO


def test_leaves_what_is_worse() -> None:
    edge = Edge(CostPolicy(COSTS), PIPE)
    assert edge.window(replace(SMALL, latency_ns=28_000.0)) == TWO


def test_large_messages_go_where_one_cache_has_them() -> None:
    edge = settled()
    large = replace(SMALL, messages=10, mean_bytes=1e6, rate=500.0, latency_ns=350e3, parked=1.0)
    edge.window(large)
    assert edge.way == ONE, "what was measured fits, so the first window is believed"


def test_an_unexplained_window_is_waited_out() -> None:
    edge = settled()
    edge.window(replace(SMALL, others=1.0))   # and messages take no longer than before
    assert edge.way == TWO
    edge.window(SMALL)
    assert edge.way == TWO


def test_others_on_the_cores() -> None:
    edge = settled()
    edge.window(replace(SMALL, others=0.8, latency_ns=20_000.0, contention=0.3))
    assert edge.way == ONE
    for _ in range(5):
        edge.window(replace(SMALL, others=0.8, latency_ns=1800.0))
    assert edge.way == ONE
    for _ in range(5):
        edge.window(replace(SMALL, others=0.0, latency_ns=1800.0))
    assert edge.way == TWO, "they have gone"


def test_who_waits_for_a_core_knows_before_others_are_seen() -> None:
    edge = settled()
    assert edge.window(replace(SMALL, latency_ns=60_000.0, contention=0.9)) == ONE, "a hundred times as long"
    assert edge.request.history is not None and edge.request.history.held is not None
    for _ in range(5):
        assert edge.window(replace(SMALL, others=0.9, latency_ns=1800.0, contention=0.5)) == ONE


def test_a_core_that_others_had_once_says_nothing() -> None:
    late = replace(SMALL, latency_ns=5000.0, contention=0.4)
    edge = settled()
    for window in (late, SMALL, late, late, SMALL):
        assert edge.window(window) == TWO
    ways = [edge.window(late if edge.way == TWO else replace(SMALL, latency_ns=1000.0)) for _ in range(4)]
    assert ways[:3] == [TWO, TWO, TWO] and ways[3] != TWO, "but where it lasts, it does"


def test_what_came_for_no_reason_may_be_gone() -> None:
    edge = settled()
    while edge.way == TWO:
        edge.window(replace(SMALL, latency_ns=60_000.0))
    ways = [edge.window(replace(SMALL, latency_ns=600.0 if edge.way == TWO else 1900.0)) for _ in range(250)]
    assert ways[20] != TWO and ways[-1] == TWO, "not at once, but after some seconds"
    assert edge.request.history is not None and edge.request.history.switches == 2


def test_what_costs_more_than_the_model_says() -> None:
    """For no reason that can be seen: three windows in a row."""
    edge = settled()
    ways = [edge.window(replace(SMALL, latency_ns=60_000.0 if edge.way == TWO else 1900.0)) for _ in range(30)]
    assert ways[0] == TWO and TWO not in ways[3:] and ways[3:] == [ways[3]] * 27
    assert edge.request.history is not None and edge.request.history.switches == 1


def test_few_messages_are_not_worth_a_switch() -> None:
    rare = replace(SMALL, messages=1, rate=0.05, seconds=20.0, latency_ns=28_000.0)
    edge = Edge(CostPolicy(COSTS), PIPE)
    for _ in range(5):
        edge.window(rare, seconds=20.0)
    assert edge.way == PIPE
    decision = edge.policy.decide(edge.request)
    assert decision is not None and "less than the switch takes" in decision.reason
    for _ in range(20):   # but what they would have saved adds up
        edge.window(rare, seconds=20.0)
    assert edge.way != PIPE


def test_a_trial_that_was_in_vain_is_not_repeated_at_once() -> None:
    """Two cores take 15 % more than predicted, one core is predicted at less, and takes more."""
    window = replace(SMALL, mean_bytes=1700.0, rate=400e3, messages=8000)
    model = CostPolicy(COSTS).decide(replace(EDGE, current=TWO, observation=window))
    assert model is not None
    prices = {one.way: one.ns for one in model.predictions}
    edge = Edge(CostPolicy(COSTS), TWO)
    switches = []
    for number in range(2000):
        was = edge.way
        takes = prices[TWO] * 1.6 if was == TWO else prices[was] * 1.9
        edge.window(replace(window, latency_ns=takes))
        if edge.way != was:
            switches.append(number)
    assert len(switches) <= 12 and edge.way == TWO
    visits = sum(b - a for a, b in zip(switches[::2], switches[1::2], strict=False))
    assert visits <= 60


def test_where_the_way_in_use_is_not_possible_any_more() -> None:
    edge = settled()
    _, way = edge.policy.step(replace(edge.request, facts=EdgeFacts(Locality.ELSEWHERE), observation=None))
    assert way == TCP
    _, none = edge.policy.step(replace(edge.request, available=frozenset()))
    assert none is None and edge.policy.decide(replace(edge.request, available=frozenset())) is None


# ---- bad input ----


@pytest.mark.parametrize(
    "observation",
    [
        None,
        Observation(0, 0.0, 0.0),
        Observation(10, nan, 0.0),
        Observation(10, inf, 0.0),
        Observation(-10, 256.0, 0.0),
        Observation(2**80, 256.0, 0.0),
    ],
)
def test_without_sense_the_last_choice_holds(observation: Observation | None) -> None:
    edge = settled()
    before = edge.request.history
    for _ in range(5):
        edge.window(observation)
    assert edge.way == TWO and edge.request.history == before


@pytest.mark.parametrize("now", [nan, inf, -inf])
def test_without_a_time_the_last_choice_holds(now: float) -> None:
    edge = settled()
    history, way = edge.policy.step(replace(edge.request, observation=replace(SMALL, latency_ns=1e9), now=now))
    assert way == TWO and history == edge.request.history


@pytest.mark.parametrize("jump", [-1e6, -5.0, 5.0, 1e6])
def test_clocks_that_jump(jump: float) -> None:
    edge = settled()
    edge.window(SMALL, seconds=jump)
    for _ in range(20):
        edge.window(SMALL)
    assert edge.way == TWO and edge.request.history is not None and edge.request.history.switches == 0


def test_hostile_figures_are_named_and_change_nothing() -> None:
    edge = settled()
    for latency in (nan, inf, -1.0, 1e300):
        edge.window(replace(SMALL, latency_ns=latency))
    assert edge.way == TWO
    decision = edge.policy.decide(replace(edge.request, observation=replace(SMALL, latency_ns=nan)))
    assert decision is not None and "latency_ns was no possible value, and was left out" in decision.lacked


figures = st.none() | st.floats() | st.sampled_from([nan, inf, -inf, -1.0, 0.0, 1e308])
wild = st.builds(
    Observation, st.integers(-5, 10**7), st.floats(), st.floats(), seconds=figures, latency_ns=figures, rate=figures,
    burst=figures, cpu_ns=figures, contention=figures, others=figures, srtt_ns=figures, bytes_per_second=figures,
    network_age=figures, syscalls_ns=figures, woken_ns=figures,
)  # fmt: skip
moments = st.floats(-1e9, 1e9) | st.sampled_from([nan, inf, -inf])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(wild, moments), max_size=12),
    st.sampled_from(Locality),
    st.booleans(),
    st.frozensets(st.sampled_from(sorted(WAYS)), min_size=1),
    st.builds(Limits, st.booleans(), st.booleans(), st.none() | st.integers(0, 2**24)),
)
def test_never_what_is_ruled_out_whatever_is_observed(
    windows: list[tuple[Observation, float]], locality: Locality, trust: bool, ways: frozenset[Way], limits: Limits
) -> None:
    facts = EdgeFacts(locality, same_trust=trust)
    request = replace(EDGE, facts=facts, ways=ways, limits=limits)
    policy = CostPolicy(COSTS)
    for observation, now in windows:
        asked = replace(request, observation=observation, now=now)
        history, way = policy.step(asked)
        assert policy.step(asked) == (history, way), "the same question has the same answer"
        if way is None:
            assert all(ruled_out_way(request, one) for one in ways)
            return
        assert ruled_out_way(request, way) is None
        if way != request.current:
            history = history.switched(now, way)
        request = replace(request, history=history, current=way)


# ---- what the user wants ----


def test_limits() -> None:
    assert ruled_out(replace(EDGE, limits=Limits(durable=True)), Transport.RING) == "messages are to be durable"
    assert ruled_out(replace(EDGE, limits=Limits(durable=True)), Transport.REDIS) is None
    isolated = CostPolicy(COSTS).decide(replace(EDGE, limits=Limits(isolated=True)))
    assert isolated is not None and isolated.transport is Transport.PIPE
    for limit, possible in ((RING_BYTES, True), (RING_BYTES - 1, False)):
        assert (ruled_out(replace(EDGE, limits=Limits(memory_bytes=limit)), Transport.RING) is None) is possible


def test_pinned_is_pinned() -> None:
    edge = settled(way=PIPE, observation=replace(SMALL, latency_ns=28_000.0), pinned=True)
    assert edge.way == PIPE
    decision = edge.policy.decide(edge.request)
    assert decision is not None and "ring: pinned to pipe by the user" in decision.alternatives


def test_threads_that_cannot_be_placed() -> None:
    request = replace(EDGE, ways=frozenset())
    assert ruled_out_way(request, ONE) == "the threads of its ends cannot be placed from here"
    decision = CostPolicy(COSTS).decide(request)
    assert decision is not None and decision.cores is Cores.FREE


def test_objectives() -> None:
    busy = replace(SMALL, rate=20e3, messages=400)
    fast = CostPolicy(COSTS).decide(replace(EDGE, observation=replace(busy, rate=400e3, messages=8000)))
    frugal = CostPolicy(COSTS).decide(replace(EDGE, observation=busy, objective=Objective(latency=0, cpu=1)))
    assert fast is not None and fast.way == TWO
    assert frugal is not None and frugal.way == ONE, "nobody spins"
    for weights in ({"latency": -1.0}, {"latency": nan}, {"latency": inf}, {"latency": 0.0}):
        with pytest.raises(errors.BadSpec, match="weights of an objective"):
            Objective(**weights)


def test_the_decision_explains_itself() -> None:
    edge = settled()
    decision = edge.policy.decide(replace(edge.request, now=edge.request.now + 7, lacked=("no tracer",)))
    assert decision is not None and decision.way == TWO and "no tracer" in decision.lacked
    assert decision.basis == "3000 messages of 0.2 KiB seen, 0.6 us each, 7 s ago"
    by_way = {one.way: one for one in decision.predictions}
    assert set(by_way) == set(WAYS)
    assert all(one.low < one.ns < one.high for one in by_way.values())
    assert by_way[TWO].high / by_way[TWO].low < by_way[ONE].high / by_way[ONE].low, "it was measured"
    text = decision.explain()
    assert text.startswith("local, ring: the peer is in this process; cheapest at 0.6 us")
    assert "\n  not ring/one core (about " in text


# ---- other policies ----


def test_comparisons_do_what_they_say() -> None:
    far = replace(EDGE, facts=EdgeFacts(Locality.ELSEWHERE))
    chosen = [
        (StaticPolicy(), EDGE, RING),
        (StaticPolicy(), replace(EDGE, limits=Limits(isolated=True)), PIPE),
        (StaticPolicy(), far, TCP),
        (ThresholdPolicy(), replace(EDGE, observation=SMALL), TWO),
        (ThresholdPolicy(), replace(EDGE, observation=replace(SMALL, mean_bytes=1e6)), ONE),
        (ThresholdPolicy(), replace(far, observation=replace(SMALL, mean_bytes=1e6)), REDIS),
        (AlwaysPolicy(PIPE), EDGE, PIPE),
        (AlwaysPolicy(PIPE), far, TCP),
        (AlwaysPolicy(PIPE), replace(far, available=frozenset({Transport.REDIS})), REDIS),
    ]
    for policy, request, way in chosen:
        decision = policy.decide(request)
        assert decision is not None and decision.way == way
    assert StaticPolicy().decide(replace(EDGE, available=frozenset())) is None


def test_policies_have_names() -> None:
    assert isinstance(policy_named("cost", COSTS), CostPolicy)
    always = policy_named("always:ring/two cores", COSTS)
    assert isinstance(always, AlwaysPolicy) and always.way == TWO
    for name in ("", "costs", "always:", "always:pigeon"):
        with pytest.raises(errors.BadSpec, match="is unknown: use"):
            policy_named(name, COSTS)


def test_a_policy_of_ones_own_has_a_step() -> None:
    class Mine(cwasi.Policy):
        def decide(self, request: Request) -> Decision | None:
            assert request.history is not None and request.history.observation == SMALL
            return Decision(cwasi.Mode.PROXIMAL, Transport.PIPE, "because")

    history, way = Mine().step(replace(EDGE, observation=SMALL, now=3.0))
    assert way == PIPE and history.observed_at == 3.0


ASKED = replace(SMALL, mean_bytes=64.0, burst=0.0, rate=300e3, messages=6000)


@pytest.mark.parametrize("left", [0.05, 0.3])
def test_a_switch_after_which_few_answers_come_is_a_mistake(left: float) -> None:
    """Though the few that are measured take no longer: the others wait for a core."""
    edge = Edge(CostPolicy(COSTS), PIPE)
    while edge.way == PIPE:
        edge.window(replace(ASKED, latency_ns=28_000.0))
    assert edge.way == TWO
    few = replace(ASKED, rate=300e3 * left, messages=max(1, int(6000 * left)))
    seen = [edge.window(few) for _ in range(6)]
    assert seen[2] != TWO
    for _ in range(100):   # two seconds
        edge.window(replace(ASKED, latency_ns=2000.0))
        assert edge.way != TWO, "not again, so soon"


def test_a_switch_to_a_core_that_others_want_is_no_mistake_for_long() -> None:
    """They may leave, and that is seen."""
    edge = Edge(CostPolicy(COSTS), PIPE)
    while edge.way == PIPE:
        edge.window(replace(ASKED, latency_ns=28_000.0))
    edge.window(replace(ASKED, rate=3e3, messages=60, latency_ns=150e3, contention=0.9))
    assert edge.way == ONE
    ways = [edge.window(replace(ASKED, latency_ns=600.0 if edge.way == TWO else 1800.0, others=0.0)) for _ in range(50)]
    assert ways[5] != TWO and ways[-1] == TWO, "within a second"


def test_pauses_are_no_slowness() -> None:
    """Of messages that are answered, but of which each comes a while after the answer."""
    edge = settled(observation=replace(ASKED, latency_ns=600.0))
    seldom = replace(ASKED, messages=10, rate=500.0, latency_ns=20_000.0, parked=0.5)
    for _ in range(10):
        edge.window(seldom)
    history = edge.request.history
    assert history is not None and history.held is not None and history.held.rate == 500.0
    kinds = {record.kind for record in history.records}
    assert len(kinds) > 1, "what was learnt before is not mixed with this"


def test_so_few_messages_that_none_was_timed_come_after_pauses() -> None:
    """And not as fast as the way carries them, though each of them is answered."""
    edge = settled(observation=replace(ASKED, latency_ns=600.0))
    for rate, pauses in ((1e6, False), (4.0, True)):
        for _ in range(3):
            edge.window(replace(ASKED, messages=1, rate=rate, seconds=0.25, latency_ns=None, parked=1.0), seconds=0.25)
        history = edge.request.history
        assert history is not None and history.held is not None and (history.held.burst == 1.0) is pauses


@pytest.mark.parametrize(("messages", "windows"), [(10_000, 1), (50, 2)])
def test_many_messages_after_few_are_believed_where_one_window_of_them_pays(messages: int, windows: int) -> None:
    """Though they take no longer than those few did, and though on one core it cannot be seen what waits on two."""
    seldom = replace(ASKED, messages=25, rate=500.0, seconds=0.05, latency_ns=20_000.0, parked=1.0, others=None)
    edge = settled(observation=seldom, ways=frozenset({ONE, TWO}))
    assert edge.way == ONE, "who has two cores sleeps in between"
    for _ in range(10):
        edge.window(replace(seldom, latency_ns=1800.0, parked=0.0), seconds=0.05)
    history = edge.request.history
    assert edge.way == ONE and history is not None and history.held is not None and history.held.apart == 0.0
    many = replace(ASKED, messages=messages, rate=200e3, seconds=0.05, latency_ns=1800.0, others=None)
    assert [edge.window(many, seconds=0.05) for _ in range(windows)] == [*[ONE] * (windows - 1), TWO]


def test_what_changes_after_a_switch_is_answered_at_once() -> None:
    """Else a way is not left within three windows."""
    seldom = replace(ASKED, messages=25, rate=500.0, seconds=0.05, latency_ns=20_000.0, parked=1.0, others=None)
    edge = settled(observation=seldom, ways=frozenset({ONE, TWO}))
    assert edge.way == ONE and edge.request.history is not None
    seldom = replace(seldom, latency_ns=1800.0, parked=0.0)
    for _ in range(10):
        edge.window(seldom, seconds=0.05)
    just = edge.request.history.switched(edge.request.now, ONE)
    assert not just.changed_since()
    edge.request = replace(edge.request, history=just)
    assert edge.window(seldom, seconds=0.05) == ONE
    assert edge.window(replace(ASKED, latency_ns=1800.0, others=None), seconds=0.05) == TWO


def test_a_switch_after_which_as_many_messages_came_was_no_mistake() -> None:
    """Though soon after that there are few, which wait for a core: the load became less."""
    edge = Edge(CostPolicy(COSTS), PIPE)
    while edge.way == PIPE:
        edge.window(replace(ASKED, latency_ns=28_000.0))
    assert edge.way == TWO and edge.window(replace(ASKED, cpu_ns=20_000.0)) == TWO
    for _ in range(3):
        edge.window(replace(ASKED, rate=4e3, messages=80, cpu_ns=20_000.0, contention=0.9))
    history = edge.request.history
    assert history is not None and not [trial for trial in history.trials if trial.barred]


def test_fewer_messages_of_ends_that_wait_for_nothing_are_no_mistake() -> None:
    """The load became less just then."""
    edge = Edge(CostPolicy(COSTS), PIPE)
    while edge.way == PIPE:
        edge.window(replace(ASKED, latency_ns=28_000.0, cpu_ns=20_000.0))
    assert edge.way == TWO
    few = replace(ASKED, rate=4e3, messages=80, cpu_ns=20_000.0)
    assert edge.window(few) == TWO
    assert edge.request.history is not None and not edge.request.history.trials
    assert edge.window(replace(few, contention=0.9)) == TWO, "one window, which says nothing of the switch any more"


def test_few_messages_of_ends_that_wait_for_a_core_are_a_mistake() -> None:
    edge = Edge(CostPolicy(COSTS), PIPE)
    while edge.way == PIPE:
        edge.window(replace(ASKED, latency_ns=28_000.0, cpu_ns=20_000.0))
    few = replace(ASKED, rate=4e3, messages=80, cpu_ns=20_000.0, contention=0.9)
    assert edge.window(few) != TWO


def test_messages_that_came_by_a_clock_on_a_slow_way_do_so_on_a_fast_one() -> None:
    """On the slow one they seemed to wait for each other; that they do not is seen as soon as they take less time."""
    edge = Edge(CostPolicy(COSTS), TWO, ways=frozenset({ONE, TWO}))
    clock = replace(ASKED, rate=4e3, messages=80, cpu_ns=100e3)
    while edge.way == TWO:
        edge.window(replace(clock, latency_ns=45_000.0, parked=1.0))
    for _ in range(20):
        assert edge.window(replace(clock, latency_ns=2500.0, contention=0.5)) == ONE


def test_a_switch_after_which_fewer_messages_are_sent_may_be_right() -> None:
    """Where nobody answers, their number says nothing of the way."""
    edge = Edge(CostPolicy(COSTS), PIPE)
    while edge.way == PIPE:
        edge.window(replace(SMALL, latency_ns=28_000.0))
    for _ in range(30):
        assert edge.window(replace(SMALL, rate=7e3, messages=140)) == TWO


# ---- what a tracer tells ----

UNPLACED = frozenset({RING, PIPE, TCP})


def test_a_stream_leaves_a_transport_whose_system_calls_take_longer_than_was_thought() -> None:
    """Nobody knows the latency of a message in a full queue; what its calls take is known with a tracer."""
    stream = replace(SMALL, latency_ns=None, others=None)
    throughput = Objective(latency=0.0, throughput=1.0)
    for seen, way in ((stream, PIPE), (replace(stream, syscalls_ns=100.0), PIPE),
                      (replace(stream, syscalls_ns=200_000.0), TCP)):  # fmt: skip
        assert settled(PIPE, seen, ways=frozenset({PIPE, TCP}), objective=throughput).way == way


def test_receivers_that_are_slow_to_run_explain_why_messages_are() -> None:
    """So it is left at once, for one core, on which nobody sleeps; unexplained, one waits for more."""
    quick = replace(SMALL, parked=0.05, latency_ns=1600.0, woken_ns=20_000.0)
    slow = replace(quick, latency_ns=50_000.0)
    for seen, way in ((slow, TWO), (replace(slow, woken_ns=1e6), ONE)):
        edge = settled(TWO, quick, ways=frozenset({TWO, ONE}))
        assert edge.window(seen) == way


@pytest.mark.parametrize("way", sorted(UNPLACED))
def test_a_tracer_that_goes_changes_nothing(way: Way) -> None:
    """The last choice holds: what it told goes on to be reckoned with on the way that it was told of."""
    untold = replace(SMALL, latency_ns=None, contention=None, others=None, parked=0.3)
    told = replace(untold, contention=0.7, woken_ns=2e6, syscalls_ns=500.0, srtt_ns=80_000.0)
    edge = settled(way, told, ways=UNPLACED)
    before, held = edge.way, edge.request.history
    for _ in range(30):
        assert edge.window(untold) == before
    after = edge.request.history
    assert held is not None and after is not None and after.switches == held.switches
    assert after.held == held.held and after.held is not None and after.held.woken == 2e6 and after.held.contention
