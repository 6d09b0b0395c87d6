"""Trials of ways that are not sure to be better: how many there are, when, and what ends a pause."""

from __future__ import annotations

from dataclasses import replace
from math import exp

from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import Cores, EdgeHistory, Way
from cwasi_fastpath.policy.choice import Caution, barred
from cwasi_fastpath.policy.comparisons import policy_named
from cwasi_fastpath.policy.generate import generate
from cwasi_fastpath.policy.model import Conditions
from cwasi_fastpath.policy.noise import Noise
from cwasi_fastpath.policy.replay import replay
from cwasi_fastpath.policy.trace import Trace
from cwasi_fastpath.policy.trial import may_try, tried

RING, ONE, TWO = Way(Transport.RING), Way(Transport.RING, Cores.ONE), Way(Transport.RING, Cores.TWO)
PIPE = Way(Transport.PIPE)
CAUTION = Caution()
WINDOW = 0.05
BUSY = Conditions(size=64.0, rate=1e5, others=0.8, way=RING)


def lasting(trace: Trace, deviation: float) -> Trace:
    """With noise that all ways have, and that lasts: nine tenths of it go on to the next block."""
    noise, risen = Noise(9), 0.0
    blocks = []
    for block in trace.blocks:
        risen = 0.9 * risen + (1 - 0.81) ** 0.5 * deviation * noise.normal()
        measured = {way: replace(one, latency_ns=one.latency_ns * exp(risen)) for way, one in block.measured.items()}
        blocks.append(replace(block, measured=measured))
    return replace(trace, blocks=tuple(blocks))


def test_noise_that_lasts_makes_it_try_few_ways() -> None:
    """Half an hour in which all ways cost the same. Where each way had pauses of its own there were 43 switches."""
    trace = lasting(generate("alike", seed=2, seconds=1800, block=0.1), 0.2)
    assert replay(trace, policy_named("cost", trace.costs), "cost").switches <= 14


def test_a_trial_is_the_last_for_some_time() -> None:
    history = EdgeHistory(held=BUSY)
    assert may_try(history, ONE, 10.0)
    history = tried(CAUTION, history, ONE, 10.0, WINDOW)
    assert may_try(history, ONE, 10.0), "it was only just decided"
    history = history._replace(trying=None)
    for way in (ONE, TWO, PIPE):
        assert not may_try(history, way, 11.9) and may_try(history, way, 12.1)
    history = tried(CAUTION, history, PIPE, 12.1, WINDOW)._replace(trying=None)
    assert not may_try(history, TWO, 20.0) and may_try(history, TWO, 20.2), "four times as long"
    assert len(history.trials) == 1


def test_who_was_tried_may_be_left_for_the_way_before() -> None:
    history = tried(CAUTION, EdgeHistory(held=BUSY), ONE, 10.0, WINDOW)._replace(trying=None)
    history = history._replace(held=BUSY._replace(way=ONE))
    assert may_try(history, RING, 10.2) and not may_try(history, TWO, 10.2)
    history = tried(CAUTION, history, RING, 10.2, WINDOW)._replace(trying=None)
    assert not may_try(history, ONE, 10.4), "and that was it"
    assert may_try(history, ONE, 12.1), "until the pause is over, which has not become longer"


def test_a_trial_says_nothing_of_other_conditions() -> None:
    history = tried(CAUTION, EdgeHistory(held=BUSY), ONE, 10.0, WINDOW)._replace(trying=None)
    for other in (BUSY._replace(others=0.4), BUSY._replace(size=4096.0), BUSY._replace(rate=100.0)):
        assert may_try(history._replace(held=other), TWO, 10.1), other
    assert not may_try(history._replace(held=BUSY._replace(others=1.1)), TWO, 10.1), "more of them promise nothing"
    history = tried(CAUTION, history._replace(held=BUSY._replace(size=4096.0)), TWO, 11.0, WINDOW)._replace(trying=None)
    assert not may_try(history._replace(held=BUSY), PIPE, 11.9), "and what it said of these it still does"


def test_few_trials_are_remembered() -> None:
    history = EdgeHistory()
    for number in range(100):
        history = tried(CAUTION, history._replace(held=BUSY._replace(size=64.0 * 3**number)), ONE, 10.0, WINDOW)
    assert len(history.trials) == 8


def test_a_mistake_says_nothing_of_other_conditions() -> None:
    history = barred(CAUTION, EdgeHistory(held=BUSY), TWO, 10.0, WINDOW)
    assert history.bars(TWO, 19.0) and not history.bars(ONE, 10.0)
    alone = history._replace(held=BUSY._replace(others=0.0))
    assert not alone.bars(TWO, 10.3), "who had wanted the cores has gone"
    assert alone.bars(TWO, 10.2), "though not at once: what they do is an average"
