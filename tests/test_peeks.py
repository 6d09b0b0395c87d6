"""What is seen between two looks: that messages come, and that far more do than before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import cwasi_fastpath as cwasi
from cwasi_fastpath.peeks import Peeks
from cwasi_fastpath.policy.rush import PEEK_SECONDS, Rushes, most

Pair = tuple[cwasi.Sender, cwasi.Receiver]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    with ExitStack() as stack:
        made = [cwasi.open_channel(f"lab{number}", "ring") for number in range(2)]
        for pair in made:
            for end in pair:
                stack.callback(end.close)
        yield made


def carry(pair: Pair, messages: int) -> None:
    for _ in range(messages):
        pair[0].send(b"four")
        pair[1].recv()


def test_what_is_no_rush() -> None:
    assert most(0.0) == most(100.0) == 10_000.0 and most(10_000.0) == 80_000.0


def test_rushes_are_answered_now_and_then() -> None:
    one = Rushes()
    assert one.due(1.0)
    one.answer(1.0)
    assert not one.due(1.4) and one.due(1.5)


def test_it_sees_messages_and_a_rush(pairs: list[Pair]) -> None:
    peeks = Peeks([sender for sender, _ in pairs])
    peeks.looked(1.0)
    assert peeks.peek(1.01) == (False, False)
    carry(pairs[1], 50)
    assert peeks.peek(1.02) == (True, False)
    carry(pairs[1], 101)
    assert peeks.peek(1.03) == (True, True), "over 10,000 a second"
    carry(pairs[1], 101)
    assert peeks.peek(1.04) == (True, False), "it is being answered"
    carry(pairs[0], 101)
    assert peeks.peek(1.54) == (True, False), "in half a second"
    carry(pairs[0], 101)
    assert peeks.peek(1.55) == (True, True)


def test_it_is_a_rush_by_what_came_before(pairs: list[Pair]) -> None:
    peeks = Peeks([sender for sender, _ in pairs])
    peeks.looked(1.0)
    carry(pairs[0], 500)   # 5,000 a second
    peeks.looked(1.1)
    carry(pairs[0], 390)
    assert peeks.peek(1.11) == (True, False), "39,000 a second"
    carry(pairs[0], 410)
    assert peeks.peek(1.12) == (True, True), "41,000 a second"


def test_of_who_has_sent_before_it_is_not_known_how_much_that_was(pairs: list[Pair]) -> None:
    """The guests that run have changed, and what they send has not."""
    carry(pairs[0], 500)
    peeks = Peeks([sender for sender, _ in pairs])
    peeks.looked(1.0)
    carry(pairs[0], 200)
    assert peeks.peek(1.01) == (True, False)
    carry(pairs[1], 200)
    assert peeks.peek(1.02) == (True, True), "it has just begun"
    peeks.looked(1.1)
    assert peeks.worthwhile()
    carry(pairs[0], 400)
    assert peeks.peek(1.61) == (True, False)
    carry(pairs[0], 400)
    assert peeks.peek(1.62) == (True, True)


def test_there_are_times_at_which_none_can_be_seen(pairs: list[Pair]) -> None:
    """By then it takes no time to look."""
    sender, _ = pairs[0]
    assert Peeks([sender]).worthwhile()
    assert not Peeks().worthwhile() and not Peeks([sender] * 65).worthwhile()
    fast = Peeks([sender])
    fast.looked(1.0)
    carry(pairs[0], 300)
    fast.looked(1.001)
    assert not fast.worthwhile(), "300,000 a second are not multiplied by eight any more"
    fast.looked(2.0)
    assert fast.worthwhile()


def test_a_clock_that_stands_still_or_goes_back_and_an_end_that_closes(pairs: list[Pair]) -> None:
    peeks = Peeks([sender for sender, _ in pairs])
    peeks.looked(1.0)
    carry(pairs[0], 1000)
    assert peeks.peek(1.0) == (True, False)
    carry(pairs[0], 1000)
    assert peeks.peek(0.5) == (True, False)
    pairs[0][0].close()
    peeks.peek(1.0)
    assert peeks.peek(1.0 + PEEK_SECONDS) == (False, False)
