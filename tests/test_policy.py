"""The policy on plain data: what it may never do, what it prefers, and that it says why."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwasi_fastpath._native import lib
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import (
    EdgeFacts,
    Locality,
    Mode,
    Transport,
    mode_of,
    nearest_mode,
    parse_mode,
    parse_transport,
)
from cwasi_fastpath.placement import Placement, edge_facts, here
from cwasi_fastpath.policy import Conditions, CostPolicy, Costs, Decision, Request, Way
from cwasi_fastpath.policy.decision import RECEIVERS_MAX, for_several, ruled_out
from cwasi_fastpath.policy.model import predict

COSTS = Costs(
    syscall=100.0, copy_byte=0.05, hop=60.0, wake=20_000.0, pipe_message=800.0, pipe_byte=0.2, redis_message=60_000.0
)
ALL = frozenset(Transport)
HERE = EdgeFacts(Locality.PROCESS)
NEXT_DOOR = EdgeFacts(Locality.NODE)
FAR = EdgeFacts(Locality.ELSEWHERE)

edges = st.builds(EdgeFacts, st.sampled_from(Locality), st.booleans(), st.booleans())
observations = st.none() | st.builds(Observation, st.integers(0, 10**6), st.floats(0, 2**30), st.floats(0, 1))
costs = st.builds(Costs, *[st.floats(0, 1e6)] * 6, st.none() | st.floats(0, 1e7))
requests = st.builds(
    Request,
    edges,
    observations,
    st.none() | st.sampled_from(Mode),
    st.none() | st.sampled_from(Transport),
    st.frozensets(st.sampled_from(Transport)),
)


def choose(facts: EdgeFacts, **options: object) -> Decision | None:
    return CostPolicy(COSTS).decide(Request(facts, available=ALL, **options))   # type: ignore[arg-type]


@given(costs, requests)
def test_constraints_hold_whatever_the_costs(costs: Costs, request_: Request) -> None:
    decision = CostPolicy(costs).decide(request_)
    facts = request_.facts
    if decision is None:
        assert all(ruled_out(request_, transport) for transport in Transport)
        return
    assert ruled_out(request_, decision.transport) is None
    assert decision.transport in request_.available
    assert decision.mode is mode_of(decision.transport, facts.locality)
    assert decision.mode >= nearest_mode(facts.locality), "never nearer than the peer is"
    if not facts.same_trust:
        assert decision.transport is not Transport.RING
    if not facts.same_user:
        assert decision.mode is Mode.REMOTE
    if request_.mode is not None:
        assert decision.mode is request_.mode
    if request_.transport is not None:
        assert decision.transport is request_.transport


@given(costs, requests)
def test_every_transport_is_accounted_for(costs: Costs, request_: Request) -> None:
    """One is chosen; for each of the others there is a price or an obstacle."""
    decision = CostPolicy(costs).decide(request_)
    if decision is not None:
        lines = decision.explain().splitlines()
        assert lines[0] == f"{decision.mode}, {decision.transport}: {decision.reason}"
        named = [line.removeprefix("  not ").split(" ")[0].rstrip(":") for line in lines[1:]]
        assert sorted([*named, decision.transport]) == sorted(Transport)


@given(costs, requests)
def test_the_same_question_has_the_same_answer(costs: Costs, request_: Request) -> None:
    assert CostPolicy(costs).decide(request_) == CostPolicy(replace(costs)).decide(replace(request_))


@given(st.floats(0, 2**30), st.floats(0, 1))
def test_the_cheapest_is_chosen(size: float, parked: float) -> None:
    decision = choose(HERE, observation=Observation(10, size, parked))
    prices = {transport: predict(COSTS, Way(transport), Conditions(size, parked)).ns for transport in Transport}
    assert decision is not None and prices[decision.transport] == min(prices.values())


@pytest.mark.parametrize(
    ("facts", "mode", "transport"),
    [
        (HERE, Mode.LOCAL, Transport.RING),
        (NEXT_DOOR, Mode.PROXIMAL, Transport.RING),
        (FAR, Mode.REMOTE, Transport.TCP),
        (replace(HERE, same_trust=False), Mode.PROXIMAL, Transport.PIPE),
        (replace(NEXT_DOOR, same_trust=False), Mode.PROXIMAL, Transport.PIPE),
        (replace(NEXT_DOOR, same_user=False), Mode.REMOTE, Transport.TCP),
    ],
)
def test_what_a_sane_machine_gets(facts: EdgeFacts, mode: Mode, transport: Transport) -> None:
    decision = choose(facts)
    assert decision is not None and (decision.mode, decision.transport) == (mode, transport)


@pytest.mark.parametrize(
    ("facts", "options", "transport", "obstacle"),
    [
        (replace(HERE, same_trust=False), {}, Transport.RING, "different trust domains"),
        (replace(HERE, same_user=False), {}, Transport.PIPE, "different users"),
        (FAR, {}, Transport.PIPE, "on another node"),
        (FAR, {"mode": Mode.LOCAL}, Transport.REDIS, "local was asked for, but the peer is on another node"),
        (HERE, {"mode": Mode.REMOTE}, Transport.RING, "remote was asked for, and this would be local"),
        (HERE, {"transport": Transport.PIPE}, Transport.RING, "pipe was asked for"),
    ],
)
def test_obstacles_are_named(facts: EdgeFacts, options: dict[str, object], transport: Transport, obstacle: str) -> None:
    request = Request(facts, available=ALL, **options)   # type: ignore[arg-type]
    assert obstacle in (ruled_out(request, transport) or "")


def test_redis_wants_a_server() -> None:
    request = Request(FAR, transport=Transport.REDIS)
    assert CostPolicy(COSTS).decide(request) is None
    assert "give a Redis URL" in (ruled_out(request, Transport.REDIS) or "")


def test_the_reason_names_the_facts_and_the_basis() -> None:
    unseen, seen = choose(HERE), choose(NEXT_DOOR, observation=Observation(12, 2048.0, 0.5))
    assert unseen is not None and seen is not None
    assert "in this process" in unseen.reason and "64 KiB messages, none seen yet" in unseen.reason
    assert "on this node" in seen.reason and "12 messages of 2.0 KiB seen" in seen.reason
    only = choose(FAR, transport=Transport.REDIS)
    assert only is not None and "the only transport left" in only.reason


def test_an_observation_of_no_messages_is_none() -> None:
    assert choose(HERE, observation=Observation(0, 0.0, 0.0)) == choose(HERE)


def test_what_was_observed_changes_the_choice() -> None:
    """Where a pipe's bytes are cheap and a copy is dear, large messages leave the ring."""
    policy = CostPolicy(replace(COSTS, copy_byte=1.0, pipe_byte=0.1, wake=1000.0))
    chosen = [
        policy.decide(Request(NEXT_DOOR, Observation(100, size, 0.0), available=ALL)) for size in (64.0, 1e6)
    ]
    assert [decision and decision.transport for decision in chosen] == [Transport.RING, Transport.PIPE]


# ---- the words ----


def test_a_mode_is_never_nearer_than_its_locality() -> None:
    for transport, locality in product(Transport, Locality):
        if locality is not Locality.ELSEWHERE or transport in (Transport.TCP, Transport.REDIS):
            assert mode_of(transport, locality) >= nearest_mode(locality)


def test_parsing() -> None:
    assert parse_mode("auto") is None and parse_mode(None) is None
    assert [parse_mode(text) for text in ("local", "proximal", "remote")] == list(Mode)
    assert parse_mode(Mode.LOCAL) is Mode.LOCAL
    assert parse_transport(None) is None and parse_transport("pipe") is Transport.PIPE


# ---- placement ----

PLACE = Placement("node-1", 100, 1000)


@pytest.mark.parametrize(
    ("other", "facts"),
    [
        (PLACE, HERE),
        (replace(PLACE, process=101), NEXT_DOOR),
        (replace(PLACE, node="node-2"), FAR),
        (replace(PLACE, trust="others"), replace(HERE, same_trust=False)),
        (replace(PLACE, process=101, uid=0), replace(NEXT_DOOR, same_user=False)),
    ],
)
def test_facts_of_an_edge(other: Placement, facts: EdgeFacts) -> None:
    assert edge_facts(PLACE, other) == edge_facts(other, PLACE) == facts


def test_here_is_here() -> None:
    assert edge_facts(here(), here()) == HERE
    assert edge_facts(here("a"), here("b")) == replace(HERE, same_trust=False)


# ---- several receivers ----


def test_several_receivers_have_what_all_of_them_can() -> None:
    near, apart = Request(HERE, receivers=2), Request(replace(HERE, same_trust=False), receivers=2)
    assert for_several([near, near]) is Transport.RING
    assert for_several([near, apart]) is Transport.PIPE
    assert for_several([replace(near, mode=Mode.PROXIMAL)] * 2) is Transport.PIPE
    assert for_several([Request(NEXT_DOOR, receivers=2)] * 2) is Transport.RING
    served = frozenset(Transport)
    assert for_several([Request(FAR, available=served, receivers=2)] * 2) is Transport.TCP
    assert for_several([Request(FAR, available=served, receivers=RECEIVERS_MAX + 1)]) is Transport.REDIS
    far_ring = Request(HERE, mode=Mode.REMOTE, transport=Transport.RING)
    assert for_several([far_ring]) is Transport.REDIS, "it says why not"
    assert RECEIVERS_MAX == lib.CWASI_READERS_MAX


def test_several_receivers_have_a_server_between_only_where_they_must() -> None:
    decision = choose(HERE, receivers=3)
    assert decision is not None and decision.transport is Transport.RING
    decision = choose(FAR, receivers=3)
    assert decision is not None and decision.transport is Transport.TCP
