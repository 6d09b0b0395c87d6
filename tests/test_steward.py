"""The policy while guests run: what it is told, what is done of what it says, and when it is not asked."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from channels import HANG, Start, eventually, is_of
from conftest import WriteModule

import cwasi_fastpath as cwasi
from cwasi_fastpath import guest_cores, observing, pace, steward
from cwasi_fastpath.bench.looking import MESSAGES, SECONDS, Looking, looking
from cwasi_fastpath.explanation import Explanation
from cwasi_fastpath.metrics import Observation, queued, sane
from cwasi_fastpath.modes import Locality, Transport, mode_of
from cwasi_fastpath.observing import Counts
from cwasi_fastpath.policy import Cores, Decision, EdgeHistory, Limits, Objective, Request, Way

RING, PIPE, TCP, REDIS = map(Way, Transport)
ONE, TWO = Way(Transport.RING, Cores.ONE), Way(Transport.RING, Cores.TWO)
CORES = sorted(os.sched_getaffinity(0))
ENDS = ("source", "sink")
SIZE = 100

Answer = Callable[[Request], Any]


class Told(cwasi.Policy):
    """Does what the test says, and remembers what it was asked."""

    def __init__(self, answer: Answer = lambda request: request.current) -> None:
        self.answer = answer
        self.asked: list[Request] = []

    def decide(self, request: Request) -> Decision:
        way = request.current or RING
        return Decision(mode_of(way.transport, request.facts.locality), way.transport, "told", cores=way.cores)

    def step(self, request: Request) -> tuple[EdgeHistory, Any]:
        self.asked.append(request)
        return request.history or EdgeHistory(), self.answer(request)


class Run:
    """A host whose guests pass messages on and check each, for as long as the test wants."""

    def __init__(self, host: cwasi.Host, guests: Path, start: Start, **how: Any) -> None:
        count = "2000000000"
        self.host = host
        self.source = host.load(guests / "source.wasm", arguments=(count, str(SIZE)))
        self.sink = host.load(guests / "sink.wasm", arguments=(count, str(SIZE)))
        self.channel = host.connect("lab", self.source, self.sink, ports=("out", "in"), **how)
        self.running: Future[None] = start(host.run)

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for it, while they run."""
        eventually(lambda: condition() or self.running.done())
        assert not self.running.done(), self.running.result()

    def end(self) -> None:
        """The guests say that they could not go on, and nothing else."""
        self.host.stop()
        with suppress(cwasi.GuestExit):
            self.running.result(HANG)
        received = self.channel.metrics().received
        assert 0 < received <= self.channel.metrics().sent


def stewards() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == steward.THREAD]


def in_turn(*ways: Way) -> Answer:
    """The next of them each time."""
    return lambda request: ways[(ways.index(request.current) + 1) % len(ways)] if request.current in ways else ways[0]


def test_it_goes_from_way_to_way_while_guests_run(guests: Path, start: Start) -> None:
    ways = (RING, PIPE, ONE, TCP, *([TWO] if len(CORES) > 1 else []))
    policy = Told(in_turn(*ways))
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: {request.current for request in policy.asked} >= set(ways))
        last = policy.asked[-1]
        assert last.history is not None and last.history.switches >= len(ways) - 1
        run.end()
    assert not stewards()


def contended(request: Request) -> bool:
    """Whether it is known how long its ends waited for a core."""
    return request.observation is not None and request.observation.contention is not None


def timed(explained: Explanation | None) -> Explanation | None:
    """If any message of its last window was: where the receiver had no core meanwhile, none was."""
    return explained if explained is not None and explained.observation.get("latency_ns") is not None else None


def test_what_the_policy_is_told(guests: Path, start: Start) -> None:
    policy = Told()
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        for end in (*run.channel.senders.values(), *run.channel.receivers.values()):
            end.sample(1)
        run.until(lambda: sum(contended(request) for request in policy.asked) > 3)
        asked = len(policy.asked)
        explained = eventually(lambda: timed(host.explain("lab")))
        run.end()
        sent = run.channel.metrics().sent
    seen = [request.observation for request in policy.asked]
    assert all(one is not None and one == sane(one) for one in seen), seen
    told = [one for one in seen if one is not None]
    assert 0 < sum(one.messages for one in told) <= sent
    assert all(is_of(SIZE, one) for one in told) and {one.burst for one in told} == {None}
    for one in told:
        assert one.seconds and one.rate and math.isclose(one.rate, one.messages / one.seconds)
    # The source may send before the sink's thread has begun, of which nothing is known then; and never again.
    begun = [*map(contended, policy.asked)].index(True)
    for one in told[begun:asked]:
        assert one.contention is not None and one.others is not None and one.cpu_ns is not None
    queued = [one for one, asked in zip(told, policy.asked, strict=True) if asked.objective.throughput]
    assert {one.latency_ns for one in queued} <= {None}, "that is the queue's"
    assert explained.observation["latency_ns"] > 0
    times = [request.now for request in policy.asked]
    assert times == sorted(times)
    for request in policy.asked:
        assert request.current == RING and request.facts.locality is Locality.PROCESS and not request.pinned
        assert request.ways >= {RING, PIPE, TCP, ONE} and REDIS not in request.ways
        assert any("no tracer" in lack for lack in request.lacked)


@pytest.mark.parametrize("how", [{"transport": "ring"}, {"mode": "local"}, {"pin": True}], ids=str)
def test_what_the_user_has_chosen_stays(guests: Path, start: Start, how: dict[str, Any]) -> None:
    policy = Told(lambda request: PIPE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start, **how)
        run.until(lambda: len(policy.asked) > 2)
        assert all(request.pinned for request in policy.asked)
        assert run.channel.transport is Transport.RING and "  pinned: " in run.channel.explain()
        run.end()


def test_a_switch_by_hand_is_the_last_word(guests: Path, start: Start) -> None:
    policy = Told(in_turn(RING, PIPE))
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: len({request.current for request in policy.asked}) > 1)
        host.switch("lab", "tcp", HANG)
        asked = len(policy.asked)
        run.until(lambda: len(policy.asked) > asked + 2)
        assert run.channel.transport is Transport.TCP and policy.asked[-1].pinned
        assert "  pinned: a switch was asked for" in run.channel.explain()
        run.end()


def fails(request: Request) -> Way:
    raise ZeroDivisionError("of my own")


def leaves(request: Request) -> Way:
    sys.exit("enough")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (fails, "ZeroDivisionError: of my own"),
        (leaves, "SystemExit: enough"),
        (lambda request: "ring", "it answered"),
        (lambda request: REDIS, "no server is configured"),
        (lambda request: Way(Transport.TCP, Cores.ONE), "cannot be placed"),
    ],
    ids=["raises", "leaves", "no way", "not there", "not placeable"],
)
def test_of_a_policy_that_fails_the_last_choice_is_held(
    guests: Path, start: Start, answer: Answer, words: str
) -> None:
    policy = Told(lambda request: PIPE if request.current == RING else answer(request))
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        # A change that takes too long is held, too, for a while.
        run.until(lambda: "the policy failed, and pipe is held: " in run.channel.explain())
        assert words in run.channel.explain()
        assert run.channel.transport is Transport.PIPE
        policy.answer = lambda request: PIPE
        run.until(lambda: "  held: " not in run.channel.explain())
        policy.answer = lambda request: RING
        run.until(lambda: run.channel.transport is Transport.RING)
        run.end()


def test_a_change_that_fails_is_tried_again_later(guests: Path, start: Start, tmp_path: Path) -> None:
    policy = Told(lambda request: REDIS)
    with cwasi.Host(policy=policy, redis=f"unix://{tmp_path}/none.sock") as host:
        run = Run(host, guests, start)
        words = "  held: a change to redis failed, and ring is held: "
        run.until(lambda: words in (text := run.channel.explain()) and "none.sock" in text)
        asked = len(policy.asked)
        run.until(lambda: len(policy.asked) > asked + 2)
        run.end()


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests that share a core stay there, whatever others do on it meanwhile."""
    monkeypatch.setattr(guest_cores, "_MUCH", math.inf)


@pytest.mark.usefixtures("unmoved")
def test_a_change_for_which_there_is_no_thread_is_tried_again_later(
    guests: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are the cores other ones then."""

    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("cwasi_fastpath.host.switch_channel", refused)
    policy = Told(lambda request: ONE if request.current != ONE else PIPE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: "a change to pipe failed, and ring/one core is held" in run.channel.explain())
        one, other = places(run)
        assert one == other and len(one) == 1
        run.end()


@pytest.mark.usefixtures("unmoved")
def test_who_was_just_moved_is_not_changed(guests: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it did where others had its core."""
    monkeypatch.setattr(guest_cores.GuestCores, "avoid_others", lambda *how: True)
    policy = Told(lambda request: PIPE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: len(policy.asked) > 10 and run.channel.metrics().received > 10_000)
        assert run.channel.changes == 0 and run.channel.transport == "ring"
        monkeypatch.setattr(guest_cores.GuestCores, "avoid_others", lambda *how: False)
        run.until(lambda: run.channel.changes == 1)
        run.end()


def test_who_is_moved_by_others_stays_there(guests: Path, start: Start) -> None:
    """As by taskset."""
    policy = Told(lambda request: ONE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: policy.asked != [] and policy.asked[-1].current == ONE)
        chosen = {CORES[-1]} if places(run)[0] != {CORES[-1]} else {CORES[0]}
        for guest in (run.source, run.sink):
            assert guest.thread.number is not None
            os.sched_setaffinity(guest.thread.number, chosen)
        policy.answer = lambda request: RING
        run.until(lambda: policy.asked[-1].current == RING)
        assert places(run) == [chosen] * 2
        run.end()


def test_cores_are_given_back_when_the_user_stays_on_the_ring(guests: Path, start: Start) -> None:
    policy = Told(lambda request: ONE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: policy.asked != [] and policy.asked[-1].current == ONE)
        host.switch("lab", "ring", HANG)
        run.until(lambda: places(run) == [set(CORES)] * 2)
        run.end()


def test_messages_of_several_to_several_are_not_too_long_for_what_is_chosen(guests: Path, start: Start) -> None:
    """A pipe takes no more than a page as a whole, and guests that may send more on a ring asked for no switch."""
    policy = Told(lambda request: PIPE)
    with cwasi.Host(policy=policy) as host:
        senders = [
            host.load(guests / "source.wasm", f"source{number}", arguments=("2000000000", "5000"),
                      stderr=Path(os.devnull))
            for number in range(2)
        ]
        receivers = [
            host.load(guests / "merge.wasm", f"merge{number}", arguments=("256", "5000", "2000000", "in"),
                      stderr=Path(os.devnull))
            for number in range(2)
        ]  # fmt: skip
        host.connect("lab", senders, receivers, ports=("out", "in"))
        running = start(host.run)

        def trouble() -> str:
            found = host.explain("lab")
            return "" if found is None else found.trouble

        eventually(lambda: "messages of several senders" in trouble() or running.done())
        assert not running.done() and "pipe, which cannot be" in trouble()
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)


@pytest.mark.usefixtures("unmoved")
def test_cores_are_those_of_the_threads_and_given_back(guests: Path, start: Start) -> None:
    policy = Told(lambda request: ONE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: policy.asked != [] and policy.asked[-1].current == ONE)
        one, other = places(run)
        assert one == other and len(one) == 1 and one <= set(CORES)
        assert str(run.channel.transport) == "ring" and run.channel.decision.cores is Cores.ONE
        if len(CORES) > 1:
            policy.answer = lambda request: TWO
            run.until(lambda: policy.asked[-1].current == TWO)
            one, other = places(run)
            assert len(one) == len(other) == 1 and not one & other
        policy.answer = lambda request: RING
        run.until(lambda: policy.asked[-1].current == RING)
        assert places(run) == [set(CORES), set(CORES)]
        run.end()
    assert sorted(os.sched_getaffinity(0)) == CORES


def places(run: Run) -> list[set[int]]:
    numbers = [guest.thread.number for guest in (run.source, run.sink)]
    return [os.sched_getaffinity(number) for number in numbers if number is not None]


def test_cores_are_given_back_to_who_is_no_pair_any_more(guests: Path, start: Start) -> None:
    policy = Told(lambda request: ONE if ONE in request.ways else request.current)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: any(request.current == ONE for request in policy.asked))
        third = host.load(guests / "sink.wasm", "third", arguments=("1", str(SIZE)))
        host.connect("more", run.source, third, ports=("more", "in"))
        other = start(lambda: host.run(third))
        run.until(lambda: places(run) == [set(CORES)] * 2)
        run.end()
        with suppress(cwasi.GuestExit):
            other.result(HANG)


def test_cores_are_given_back_when_the_user_switches(guests: Path, start: Start) -> None:
    policy = Told(lambda request: ONE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: policy.asked != [] and policy.asked[-1].current == ONE)
        host.switch("lab", "pipe", HANG)
        run.until(lambda: places(run) == [set(CORES)] * 2)
        assert "pipe/one core" not in run.channel.explain()
        run.end()


def test_no_core_is_taken_that_guests_may_not_use(guests: Path, start: Start) -> None:
    policy = Told(lambda request: ONE)
    with cwasi.Host(policy=policy) as host:
        try:
            os.sched_setaffinity(0, {CORES[-1]})
            run = Run(host, guests, start)
            run.until(lambda: policy.asked != [] and policy.asked[-1].current == ONE)
        finally:
            os.sched_setaffinity(0, CORES)
        assert places(run) == [{CORES[-1]}] * 2
        run.end()


def test_cores_that_are_gone_meanwhile(guests: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_cores, "sets", lambda cores, usable: ({usable[0]}, {4095}))
    policy = Told(lambda request: ONE)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: "a change to ring/one core failed, and ring is held" in run.channel.explain())
        numbers = [guest.thread.number for guest in (run.source, run.sink)]
        assert [os.sched_getaffinity(number) for number in numbers if number] == [set(CORES)] * 2
        run.end()


def test_cores_are_for_pairs_alone(guests: Path, start: Start) -> None:
    policy = Told()
    with cwasi.Host(policy=policy) as host:
        count, size = "2000000000", str(SIZE)
        source = host.load(guests / "source.wasm", arguments=(count, size))
        sinks = [host.load(guests / "sink.wasm", f"sink{n}", arguments=(count, size)) for n in (0, 1)]
        host.connect("lab", source, sinks, ports=("out", "in"))
        running = start(host.run)
        eventually(lambda: len(policy.asked) > 1 or running.done())
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)
    assert policy.asked
    for request in policy.asked:
        assert {way.cores for way in request.ways} == {Cores.FREE} and request.receivers == 2
        assert request.observation is not None and request.observation.contention is None


def test_of_calls_one_channel_decides_on_the_cores(guests: Path, start: Start) -> None:
    policy = Told(lambda request: ONE if ONE in request.ways else request.current)
    with cwasi.Host(policy=policy) as host:
        ask = host.load(guests / "ask.wasm", arguments=("2000000000", "from me"), stderr=Path(os.devnull))
        answer = host.load(guests / "answer.wasm", stderr=Path(os.devnull))
        host.connect("questions", ask, answer, calls=True)
        running = start(host.run)

        def both() -> bool:
            ways = {ONE in request.ways for request in list(policy.asked)}
            return len(ways) == 2 and any(request.current == ONE for request in list(policy.asked))

        eventually(lambda: both() or running.done())
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)
    able = [request for request in policy.asked if ONE in request.ways]
    assert able and len(able) < len(policy.asked), "the answers come back on a channel of their own"


def test_of_a_policy_that_hangs_there_is_one_thread(
    guests: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steward, "_PATIENCE", 0.05)
    gate, inside = threading.Event(), threading.Event()

    def hangs(request: Request) -> Any:
        inside.set()
        gate.wait(HANG)
        return request.current

    policy = Told(hangs)
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(inside.is_set)
        host.stop()
        with suppress(cwasi.GuestExit):
            run.running.result(HANG)
        [thread] = stewards()
        count, size = "2000000000", str(SIZE)
        more = [host.load(guests / f"{name}.wasm", f"{name}2", arguments=(count, size)) for name in ENDS]
        host.connect("more", *more, ports=("out", "in"))
        running = start(lambda: host.run(*more))
        asked = len(policy.asked)
        eventually(lambda: {guest.name for guest in more} <= set(host.running()))
        assert stewards() == [thread]
        policy.answer = lambda request: request.current
        gate.set()
        eventually(lambda: len(policy.asked) > asked or running.done())
        assert stewards() == [thread], "it goes on, for those that run now"
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)
    assert not stewards()


def test_guests_that_begin_are_noticed(guests: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is to the next look."""
    monkeypatch.setattr(pace.Pace, "wait", lambda self, peeks, rush, news: news.wait(10 * HANG))
    with cwasi.Host(policy=Told()) as host:
        run = Run(host, guests, start)
        run.until(lambda: host._steward._running == {"source", "sink"})
        more = [host.load(guests / f"{name}.wasm", f"{name}2", arguments=("2000000000", "9")) for name in ENDS]
        host.connect("more", *more, ports=("out", "in"))
        running = start(lambda: host.run(*more))
        eventually(lambda: len(host._steward._running) == 4 or running.done())
        assert not running.done()
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)
        with suppress(cwasi.GuestExit):
            run.running.result(HANG)


def test_guests_that_begin_one_after_the_other_are_looked_at_as_often_as_others(
    guests: Path, start: Start, module: WriteModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is in a window of a moment says nothing; and looks take time."""
    monkeypatch.setattr(pace, "QUICKEST", 10 * HANG)
    policy = Told()
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: host._steward._looked_at is not None and not host._steward._news.is_set())
        looked = host._steward._looked_at
        brief = module('(module (memory (export "memory") 1) (func (export "_start")))')
        host.run(host.load(brief, "more"))
        eventually(lambda: not host._steward._news.is_set())
        host.run(host.load(brief, "one"))
        time.sleep(0.2)
        assert host._steward._looked_at == looked and not policy.asked
        run.end()
    assert not stewards()


@contextmanager
def looks_for(policy: Told) -> Iterator[Looking]:
    """At three channels."""
    with looking(3) as looks:
        looks.steward._host.policy = policy
        yield looks


def test_what_came_before_a_rush_is_not_of_its_window() -> None:
    policy = Told()
    with looks_for(policy) as looks:
        looks.carry(1.0)
        looks.steward._begin_windows(looks._now + 0.05)
        looks.carry(1.0)
        looks.look()
    seen = [request.observation for request in policy.asked]
    assert [one and (one.messages, round(one.seconds or 0.0, 3)) for one in seen] == [(MESSAGES, SECONDS - 0.05)] * 3


def test_what_seemed_a_rush_and_was_all_is_not_lost() -> None:
    """Of those of which nothing more comes; and once."""
    policy = Told()
    with looks_for(policy) as looks:
        looks.carry(1.0)
        looks.steward._begin_windows(looks._now + 0.05)
        looks.carry(0.34)
        looks.look()
        asked = [request.observation for request in policy.asked]
        seconds = sorted(one.seconds for one in asked if one and one.seconds)
        assert seconds == pytest.approx([0.05, 0.05, SECONDS - 0.05])
        assert sum(one.messages for one in asked if one) == 3 * MESSAGES
        looks.look()
        assert len(policy.asked) == 3


def test_what_came_after_a_pause_and_was_no_rush_yet_is_not_lost() -> None:
    policy = Told()
    with looks_for(policy) as looks:
        for at, part in ((0.02, 1.0), (0.04, 0.34)):
            looks.carry(part)
            looks.steward._begin_windows(looks._now + at)
        looks.look()
    assert sum(one.observation.messages for one in policy.asked if one.observation) == 3 * MESSAGES


def test_a_rush_that_ends_as_it_is_seen_is_not_lost() -> None:
    """What comes after it is little."""
    policy = Told()
    with looks_for(policy) as looks:
        for _ in range(50):
            looks.carry(0.34)
        looks.steward._begin_windows(looks._now + 0.05)
        looks.carry(0.34)
        looks.look()
    assert [one.observation and one.observation.messages for one in policy.asked] == [50 * MESSAGES]


def test_nothing_goes_on_when_the_host_is_closed_in_a_run(guests: Path, start: Start) -> None:
    policy = Told(in_turn(RING, PIPE, ONE))
    host = cwasi.Host(policy=policy)
    run = Run(host, guests, start)
    run.until(lambda: len(policy.asked) > 2)
    host.close()
    with suppress(cwasi.Error):
        run.running.result(HANG)
    assert not stewards()


def test_a_forked_child_has_no_steward(guests: Path, start: Start) -> None:
    policy = Told(in_turn(RING, PIPE))
    with cwasi.Host(policy=policy) as host:
        run = Run(host, guests, start)
        run.until(lambda: len(policy.asked) > 1)
        child = os.fork()
        if child == 0:
            os._exit(len(stewards()))
        assert os.waitpid(child, 0)[1] == 0
        asked = len(policy.asked)
        run.until(lambda: len(policy.asked) > asked)
        run.end()


def test_what_it_would_cost_if(guests: Path) -> None:
    with cwasi.Host() as host:
        source, sink = host.load(guests / "source.wasm"), host.load(guests / "sink.wasm")
        channel = host.connect("lab", source, sink)
        told = channel.what_if(size=64)
        assert json.loads(json.dumps(told)) == told and told["if"] == {"size": "64"}
        costs = {
            when: {one["way"]: one["ns"] for one in told[when]["alternatives"] if one["ns"] is not None}
            for when in ("now", "then")
        }
        assert told["now"]["chosen"].startswith("ring")
        assert 0 < costs["then"]["ring"] < costs["now"]["ring"]
        far = channel.what_if(locality="elsewhere")["then"]
        assert far["chosen"] == "tcp"
        why = {one["way"]: one["ruled_out"] for one in far["alternatives"]}
        assert why["ring"] == why["pipe"] == "the peer is on another node" and why["tcp"] is None
        assert channel.what_if(size="10x")["then"]["chosen"]
        for wrong, words in (({"size": "big"}, "size 'big'"), ({"size": "-1x"}, "size '-1x'"), ({"size": "nan"}, "nan"),
                             ({"rate": "2x"}, "none was seen"), ({"locality": "moon"}, "moon")):  # fmt: skip
            with pytest.raises(cwasi.BadSpec, match=words):
                channel.what_if(**wrong)


def test_what_must_hold_holds_from_the_start(guests: Path) -> None:
    with cwasi.Host(limits=Limits(isolated=True)) as host:
        source, sink = host.load(guests / "source.wasm"), host.load(guests / "sink.wasm")
        channel = host.connect("lab", source, sink)
        assert channel.transport is Transport.PIPE and "the ends may not share memory" in channel.explain()
    with cwasi.Host(limits=Limits(durable=True)) as host:
        guests_of_it = host.load(guests / "source.wasm"), host.load(guests / "sink.wasm")
        with pytest.raises(cwasi.NoTransport, match="durable"):
            host.connect("lab", *guests_of_it)


# ---- the parts ----


def test_differences_are_observations() -> None:
    nothing = (Counts(), Counts())
    sent, received = (Counts(), Counts(10, 1000, 1)), (Counts(5, 0, 9, 5), Counts(13, 0, 9, 7, 4, 4000))
    assert observing.observation(sent, received, 2.0) == Observation(
        10, 100.0, 0.25, seconds=2.0, latency_ns=1000.0, rate=5.0
    )
    assert observing.observation(nothing, nothing, 1.0) is None
    assert observing.observation(sent, received, 0.0) is None
    backwards = (received[1], received[0])
    assert observing.observation(sent, backwards, 1.0) is None, "no honest counter goes back"


def test_messages_that_wait_for_others_are_queued() -> None:
    seen = Observation(100, 64.0, 0.0, rate=1000.0, latency_ns=3e6)
    assert queued(seen)
    assert not queued(replace(seen, rate=100.0))
    assert not queued(replace(seen, latency_ns=None))


SLOW = """(module
  (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $recv (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "in")
  (func (export "_start") (local $in i32) (local $left i32)
    (local.set $in (call $open (i32.const 0) (i32.const 2) (i32.const 2)))
    (loop $next
      (if (i32.lt_s (call $recv (local.get $in) (i32.const 64) (i32.const 128) (i32.const -1)) (i32.const 0))
        (then (return)))
      (local.set $left (i32.const 20000))
      (loop $work (br_if $work (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (br $next))))"""


def test_in_a_full_queue_the_stream_counts(guests: Path, start: Start, module: Callable[..., Path]) -> None:
    """A source that writes as fast as it can, for a sink that works for some microseconds on each message."""
    policy = Told()
    with cwasi.Host(policy=policy) as host:
        source = host.load(guests / "source.wasm", arguments=("2000000000", str(SIZE)))
        channel = host.connect("lab", source, host.load(module(SLOW, "slow")), ports=("out", "in"), pin=True)
        channel.receivers["slow"].sample(1)
        channel.senders["source"].sample(1)
        running = start(host.run)
        eventually(lambda: any(request.objective.throughput for request in policy.asked) or running.done())
        eventually(lambda: "its messages wait in a queue" in channel.explain() or running.done())
        assert not running.done()
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)
    assert {request.objective for request in policy.asked} <= {Objective(), Objective(latency=0.0, throughput=1.0)}


def test_messages_that_answer_each_other_are_told_as_such(guests: Path, start: Start) -> None:
    policy = Told()
    with cwasi.Host(policy=policy) as host:
        ask = host.load(guests / "ask.wasm", arguments=("2000000000", "from me"), stderr=Path(os.devnull))
        answer = host.load(guests / "answer.wasm", stderr=Path(os.devnull))
        host.connect("questions", ask, answer, calls=True)
        running = start(host.run)
        eventually(lambda: len(policy.asked) > 3 or running.done())
        host.stop()
        with suppress(cwasi.GuestExit, cwasi.GuestTrap):
            running.result(HANG)
    assert 0.0 in {request.observation.burst for request in policy.asked if request.observation is not None}
