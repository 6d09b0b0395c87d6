"""Into how many messages the time of a function went that has several channels to other host processes, some of which
say nothing of their ends, or lie.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cwasi_fastpath import doings
from cwasi_fastpath.channel import Edge
from cwasi_fastpath.feed import with_told
from cwasi_fastpath.figures import Figures, Spent
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import EdgeFacts, Locality, Mode, Transport
from cwasi_fastpath.observing import Counts
from cwasi_fastpath.parent import Parent
from cwasi_fastpath.policy import Decision, EdgeHistory, Policy, Request, Way
from cwasi_fastpath.spanned import SpannedChannel
from cwasi_fastpath.steward import Steward
from cwasi_fastpath.tally import Tally

SECOND = 1_000_000_000
RATE = 1000
"""Messages a second from f to g."""
DECISION = Decision(Mode.PROXIMAL, Transport.PIPE, "a test")
FACTS = EdgeFacts(Locality.NODE, same_user=True, same_trust=False)


class Asked(Policy):
    """Stays, and keeps what it was told last of each channel's messages."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def decide(self, request: Request) -> Decision | None:
        return None

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        self.requests.append(request)
        return EdgeHistory(), None


class Process:
    """Of one function, which tells what the test says."""

    def __init__(self, function: str, stack: ExitStack) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        stack.enter_context(self._theirs)
        self.tally = Tally(ours, function, [function])

    def tells(self, counts: list[Counts], second: float, in_calls: float) -> None:
        """in_calls: the part of each second that it was in system calls."""
        at = round(second * SECOND)
        figures = Figures(at, round(at * in_calls), *[0] * 4, None, None, *[0] * 4).plain()
        unknown = 2**64 - 1
        row = [unknown, unknown, 1, at, *(unknown if one is None else one for one in figures)]
        self._theirs.recv(9)
        ends = b"".join(struct.pack("=6Q", *one) for one in counts)
        self._theirs.send(ends + struct.pack(f"={doings.ROW_BYTES // 8}Q", *row))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def channel(sender: str, receiver: str, processes: dict[str, Process]) -> SpannedChannel:
    edge: Edge = sender, receiver
    made = SpannedChannel(sender + receiver, {edge: DECISION}, ((sender, ""),), ((receiver, ""),), facts={edge: FACTS})
    for name in edge:
        process: Any = processes[name]
        made._rows.append((process, process.tally.joined(name)))
    return made


def of_messages(number: int) -> Counts:
    return Counts(number, 64 * number)


def silent(number: int) -> Counts | None:
    return None


def back(number: int) -> Counts:
    return Counts(10**9 - number)


def looks(steward: Steward) -> Iterator[tuple[float, int]]:
    """In each: the second, and how many messages there were by then."""
    for look in range(40):
        steward.look(look / 10, threading.Event())
        yield look / 10, round(RATE * look / 10)


@pytest.mark.parametrize("lie", [silent, back])
def test_of_who_sends_to_a_process_that_does_not_tell(lie: Callable[[int], Counts | None], stack: ExitStack) -> None:
    """Most of its time goes into messages to that."""
    processes = {name: Process(name, stack) for name in "fgh"}
    policy = Asked()
    steward = Steward(Parent(policy), [channel("f", "g", processes), channel("f", "h", processes)])
    for second, few in looks(steward):
        processes["f"].tells([of_messages(few), of_messages(9 * few)], second, 0.1)
        processes["g"].tells([of_messages(few)], second, 0.0)
        if few == 0 or (told := lie(9 * few)) is not None:
            processes["h"].tells([of_messages(0) if few == 0 else told], second, 0.0)
    seen = policy.requests[-1].observation
    assert seen is not None and seen.rate == pytest.approx(RATE)
    assert seen.syscalls_ns == pytest.approx(0.1 * SECOND / (10 * RATE), rel=0.3)


def test_of_who_receives_from_a_process_that_says_that_it_sends_more(stack: ExitStack) -> None:
    processes = {name: Process(name, stack) for name in "fgh"}
    policy = Asked()
    steward = Steward(Parent(policy), [channel("f", "g", processes), channel("h", "g", processes)])
    for second, few in looks(steward):
        processes["f"].tells([of_messages(few)], second, 0.0)
        processes["g"].tells([of_messages(few), of_messages(few)], second, 0.1)
        processes["h"].tells([of_messages(10**6 * few)], second, 0.0)
    seen = [one.observation for one in policy.requests if one.observation is not None]
    ours = next(one for one in reversed(seen) if one.rate == pytest.approx(RATE))
    assert ours.syscalls_ns == pytest.approx(0.1 * SECOND / (2 * RATE), rel=0.3)


def test_a_message_comes_from_one_of_several_senders() -> None:
    """What it takes of the senders is not what one takes of each of them."""
    ends = (("a", ""), ("b", "")), (("c", ""),)
    fan = SpannedChannel("abc", dict.fromkeys([("a", "c"), ("b", "c")], DECISION), *ends)
    half = Figures(0, 0, SECOND // 2, *[0] * 9)
    spent = dict.fromkeys("abc", Spent(1.0, half))
    seen = Observation(4 * RATE, 64.0, 0.0, rate=4 * RATE)
    told = with_told(seen, fan, spent, {"a": RATE, "b": 3 * RATE, "c": 4 * RATE})
    assert told.cpu_ns == pytest.approx(3 * SECOND / 2 / (4 * RATE))
