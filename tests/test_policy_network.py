"""A network that nobody goes through: what is known of it ages, and it is tried for a moment if it is good again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import pytest

from cwasi_fastpath.kept import Kept
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import EdgeFacts, Locality, Transport
from cwasi_fastpath.policy import CostPolicy, EdgeHistory, Request, Way
from cwasi_fastpath.policy.generate import generate
from cwasi_fastpath.policy.known_network import KnownNetwork
from cwasi_fastpath.policy.trial import Trial
from cwasi_fastpath.transport.tcp_info import Network

TCP, REDIS = Way(Transport.TCP), Way(Transport.REDIS)
COSTS = generate("link", seconds=0.1).costs
GOOD, BAD = 150e3, 4e6
WINDOW = 0.05


@dataclass
class Edge:
    """Between two nodes, with 500 messages a second, whose latency nobody sees. srtt: of the network, by the time."""

    srtt: Callable[[float], float]
    policy: CostPolicy = field(default_factory=lambda: CostPolicy(COSTS))
    window: float = WINDOW
    tells: bool = True
    """Whether it is told for how long nobody has seen the network."""
    known: KnownNetwork[Observation] = field(default_factory=KnownNetwork)
    request: Request = field(default_factory=lambda: Request(
        EdgeFacts(Locality.ELSEWHERE), available=frozenset({Transport.TCP, Transport.REDIS}), current=TCP,
        ways=frozenset({TCP, REDIS}),
    ))  # fmt: skip
    switches: list[tuple[float, Way]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def run(self, until: float) -> None:
        while (now := self.request.now + self.window) < until:
            seen = Observation(
                round(500 * self.window), 1024.0, 0.0, seconds=self.window, rate=500.0, srtt_ns=self.srtt(now)
            )
            self.step(now, seen)

    def step(self, now: float, seen: Observation) -> None:
        current = self.request.current
        found = self.known.met(seen if current == TCP else None, now, True)
        age = self.known.unseen(now) if self.tells else None
        srtt = None if found is None else found.srtt_ns
        request = replace(self.request, now=now, observation=replace(seen, srtt_ns=srtt, network_age=age))
        history, way = self.policy.step(request)
        if way is not None and way != current:
            self.switches.append((now, way))
            decision = self.policy.decide(replace(request, history=history))
            assert decision is not None and decision.way == way
            self.reasons.append(decision.reason)
            history = history.switched(now, way)
        self.request = replace(request, history=history, current=way)

    @property
    def looks(self) -> Iterator[tuple[float, float]]:
        """When the network was tried, and for how long."""
        for (begin, way), (end, _) in pairwise(self.switches):
            if way == TCP:
                yield begin, end - begin


def _always(srtt: float, now: float) -> float:
    return srtt


def bad_from(begin: float, end: float = 1e9) -> Callable[[float], float]:
    return lambda now: BAD if begin <= now < end else GOOD


def test_a_network_that_was_seen_is_no_guess() -> None:
    """Though nothing of this machine was measured but its parts, and nobody tells what messages take."""
    for srtt in (5e6, 100e6):
        edge = Edge(partial(_always, srtt), CostPolicy(replace(COSTS, curves={})))
        edge.run(0.5)
        assert [way for _, way in edge.switches] == [REDIS]
        history = edge.request.history
        assert history is not None and not history.trials, "it was sure"


def test_a_network_that_stays_bad_is_tried_a_window_at_a_time_and_less_and_less() -> None:
    edge = Edge(bad_from(10.0), window=0.25)
    edge.run(3610.0)
    begins = [begin for begin, _ in edge.looks]
    assert {round(lasted, 6) for _, lasted in edge.looks} == {0.25}, "one window shows it"
    pauses = [after - before for before, after in pairwise(begins)]
    late = 10 * edge.window   # the ways are not compared in each window
    assert all(after > before - late for before, after in pairwise(pauses)) and pauses[-1] > 30 * pauses[0]
    assert 3 < len(begins) < 60 and edge.request.current == REDIS


def test_it_comes_back_when_the_network_has_recovered() -> None:
    edge = Edge(bad_from(10.0, 50.0))
    edge.run(70.0)
    came, way = edge.switches[-1]
    assert way == TCP and 50.0 <= came < 57.0
    assert len(edge.switches) == 2 + 2 * len(list(edge.looks)), "there, back, and what was tried in between"


def test_after_a_network_was_good_for_some_time_pauses_are_short_again() -> None:
    edge = Edge(lambda now: BAD if 10.0 <= now < 50.0 or now >= 100.0 else GOOD)
    edge.run(104.0)
    again = [begin for begin, _ in edge.looks if begin > 100.0]
    assert len(again) >= 2 and again[0] < 103.0


def test_what_is_watched_is_not_tried() -> None:
    edge = Edge(bad_from(10.0))
    edge.run(10.5)
    edge.known.watch(30.0)
    edge.run(30.0)
    assert not list(edge.looks) and edge.request.current == REDIS
    edge.run(40.0)
    assert list(edge.looks), "nobody has sounded it meanwhile"


def test_it_comes_back_when_a_sounding_finds_it_good() -> None:
    edge = Edge(bad_from(10.0))
    edge.run(12.0)
    for second in range(12, 20):
        edge.known.watch(second + 2.0)
        edge.known.sounded(Observation(0, 0.0, 0.0, srtt_ns=BAD), second)
        edge.run(second + 1.0)
    assert edge.request.current == REDIS
    edge.known.watch(25.0)
    edge.known.sounded(Observation(0, 0.0, 0.0, srtt_ns=GOOD), 20.0)
    edge.srtt = lambda now: GOOD
    edge.run(20.5)
    assert edge.request.current == TCP and edge.switches[-1][0] < 20.0 + 5 * WINDOW


def test_what_is_told_as_new_is_not_doubted() -> None:
    """As where somebody else sees the network."""
    edge = Edge(bad_from(10.0), tells=False)
    edge.run(60.0)
    assert [way for _, way in edge.switches] == [REDIS]


def test_what_is_not_told_any_more_is_long_ago() -> None:
    edge = Edge(bad_from(10.0))
    edge.run(10.5)
    assert edge.request.current == REDIS
    edge.known = KnownNetwork()
    edge.run(10.8)
    assert list(edge.looks) and edge.request.current == REDIS


def test_a_way_that_is_never_good_is_not_tried() -> None:
    """Its network as it usually is would not make it cheaper than that in use."""
    curves = {**COSTS.curves, REDIS: replace(COSTS.curves[REDIS], latency_ns=(10.0,) * 6)}
    edge = Edge(lambda now: BAD, CostPolicy(replace(COSTS, curves=curves)))
    edge.run(60.0)
    tried = list(edge.looks)
    assert edge.request.current == REDIS and not tried


def test_it_says_why() -> None:
    edge = Edge(bad_from(10.0))
    edge.run(11.5)
    assert "tried for a moment, as its network may be good again" in edge.reasons[1]
    assert "cheaper than tcp" in edge.reasons[2]


def test_a_host_leaves_at_once_what_it_only_looks_at() -> None:
    kept = Kept(None, None, 1, frozenset(), frozenset())   # type: ignore[arg-type]
    kept.channel = type("Channel", (), {"transport": Transport.TCP})()
    kept.saw(Observation(10, 1024.0, 0.0), 100.0)
    assert not kept.settled(100.05)
    kept.history = EdgeHistory(trials=(Trial(TCP, 101.0, 1.0, brief=True),))
    assert kept.settled(100.05) and not kept.settled(101.05), "it is not looked at any more"


def test_how_long_ago_a_network_was_seen() -> None:
    known: KnownNetwork[Network] = KnownNetwork()
    assert known.age(5.0) is None
    known.met(Network(1e6, 1e6, None, 0), 10.0, True)
    assert known.age(10.0) is None, "now"
    known.met(None, 12.5, True)
    assert known.age(12.5) == 2.5
    assert known.age(9.0) is None, "a clock that goes back makes nothing older"
    known.met(None, 610.0, True)
    assert known.seen is None and known.age(610.0) is None


@pytest.mark.parametrize("window", [0.02, 1.0])
def test_windows_of_any_length(window: float) -> None:
    edge = Edge(bad_from(10.0, 70.0), window=window)
    edge.run(120.0)
    assert edge.switches[-1][1] == TCP
    assert all(lasted < 1.5 * window for _, lasted in edge.looks)


# ---- what is known, with soundings ----


def seen(rtt: float, rate: float | None = None, least: float | None = None) -> Network:
    return Network(rtt, rtt if least is None else least, rate, 0)


def test_what_is_sounded_again_and_again_is_not_unseen() -> None:
    known: KnownNetwork[Network] = KnownNetwork()
    known.met(seen(4e6), 10.0, True)
    known.met(None, 11.0, True)
    assert known.unseen(11.0) == known.age(11.0) == 1.0
    known.watch(20.0)
    assert known.unseen(19.0) is None and known.age(19.0) == 9.0
    known.watch(15.0)
    assert known.unseen(19.0) is None and known.unseen(20.0) == 10.0


def test_a_rate_that_the_kernel_goes_on_telling_is_no_news() -> None:
    """It tells the last that it has measured, also when less is sent by now: so the round trip is what it is now."""
    known: KnownNetwork[Network] = KnownNetwork()
    for now in range(40):
        known.met(seen(2e6 if now > 10 else 2e5, 5e6, 1e5), now, True)
        assert known.seen is not None
        assert known.seen.srtt_ns == (1e5 if now == 0 else 2e5 if now <= 10 else 2e6)
        assert known.gives == (5e6 if now < 30 else None)
    known.met(seen(2e6, 4e6, 1e5), 40.0, True)
    assert known.seen is not None and known.seen.srtt_ns == 1e5 and known.gives == 4e6


def test_a_sounding_is_what_is_known_then() -> None:
    known: KnownNetwork[Network] = KnownNetwork()
    known.met(seen(4e6), 10.0, True)
    known.met(None, 11.0, True)
    known.sounded(seen(3e5), 12.0)
    assert known.seen == seen(3e5) and known.age(12.5) == 0.5 and known.by_sounding
    known.sounded(seen(5e6), 11.5)
    assert known.seen == seen(3e5), "an old one"
    known.met(seen(1e6), 13.0, True)
    known.sounded(seen(3e5), 12.5)
    assert known.seen == seen(1e6) and known.age(13.0) is None and not known.by_sounding, "messages have since"


def test_what_it_gives_by_messages_and_by_soundings() -> None:
    known: KnownNetwork[Network] = KnownNetwork()
    known.met(seen(4e6, 1e6), 10.0, True)
    known.met(None, 11.0, True)
    known.sounded(seen(3e5, 9e6), 39.0)
    assert known.gives == 1e6, "it may have been for a moment"
    known.sounded(seen(3e5, 9e6), 41.0)
    assert known.gives == 9e6
    known.sounded(seen(9e7), 42.0)
    assert known.gives == 9e6, "so much is not seen where there and back takes long"
    known.sounded(seen(3e5), 43.0)
    assert known.gives is None


def test_a_sounding_that_sees_less_is_believed_at_once() -> None:
    known: KnownNetwork[Network] = KnownNetwork()
    known.met(seen(4e6, 1e6), 10.0, True)
    known.met(None, 11.0, True)
    known.sounded(seen(3e5, 1e5), 12.0)
    assert known.gives == 1e5
    known.sounded(seen(3e5, 9e6), 13.0)
    assert known.gives == 1e6, "what messages have shown still counts"


@dataclass
class Sender:
    """Who leaves tcp where it shows a limit, and comes back where none is known."""

    limit: Callable[[float], float | None]
    """What the network gives to messages, by the time;"""
    sounds: Callable[[float], float | None]
    """and what soundings see."""
    known: KnownNetwork[Network] = field(default_factory=KnownNetwork)
    returns: list[float] = field(default_factory=list)

    def run(self, begin: float, until: float) -> None:
        direct = True
        for now in range(round(begin), round(until)):
            rate = self.limit(now)
            told = None if rate is None else rate + now % 2   # one news after the other
            self.known.met(seen(2e5, told) if direct else None, now, True)
            if not direct:
                self.known.sounded(seen(2e5, self.sounds(now)), now - 0.1)
                if self.known.gives is None:
                    self.returns.append(now)
            direct = self.known.gives is None


@pytest.mark.parametrize("sees", [None, 8e6])
def test_a_network_that_gives_more_only_for_a_moment_is_seldom_believed(sees: float | None) -> None:
    """A bucket of tokens, which every sounding finds full."""
    sender = Sender(lambda now: 2e6, lambda now: None if sees is None or now % 60 > 30 else sees)
    sender.run(10, 610)
    assert 3 <= len(sender.returns) <= 5
    sender.run(610, 10 * 3600)
    hour = [one for one in sender.returns if one > 9 * 3600]
    assert len(hour) <= 1
    pauses = [after - before for before, after in pairwise(sender.returns)]
    assert max(pauses) < 1.1 * 3600, "but again and again"


def test_one_that_has_become_good_is_believed_as_before() -> None:
    """What it was limited to, soundings have seen, too."""
    def limit(now: float) -> float | None:
        return 2e6 if now % 300 < 100 else None

    sender = Sender(limit, limit)
    sender.run(0, 3000)
    assert [one % 300 for one in sender.returns] == [100] * 10


def test_who_has_been_wrong_about_it_and_then_right_begins_anew() -> None:
    """A bucket for ten minutes, a good network for two hours, a bucket again."""
    def limit(now: float) -> float | None:
        return None if 600 <= now < 7800 else 2e6

    sender = Sender(limit, lambda now: None)
    sender.run(0, 8400)
    before, after = ([one for one in sender.returns if begin <= one < begin + 600] for begin in (0, 7800))
    assert len(before) == len(after) and after[0] - 7800 <= 32
