"""The soak: that it finds what it looks for, on made-up counts, and that a short one goes well."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from channels import HANG

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.soak import footprint, message
from cwasi_fastpath.soak.ends import Shape
from cwasi_fastpath.soak.fault import Fault
from cwasi_fastpath.soak.footprint import Footprint
from cwasi_fastpath.soak.functions import Guests
from cwasi_fastpath.soak.lane import Lane, Request, Score
from cwasi_fastpath.soak.soak import PLAYS, Outcome
from cwasi_fastpath.soak.tally import Ending, Tally
from cwasi_fastpath.soak.worker import work

FLAT = Footprint(own_rss=100 << 20, pss=200 << 20, descriptors=50, maps=300, threads=20, processes=5)


# ---- messages and counts ----


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, (1 << 20) + 1, message.LARGEST])
def test_a_message_tells_who_it_is(size: int) -> None:
    data = message.make(3, 77, size)
    assert len(data) == size + 16
    assert message.parse(data) == (3, 77)


def test_a_changed_message_is_no_message() -> None:
    data = bytearray(message.make(0, 5, 100))
    for at in (4, 8, 60, len(data) - 1):
        data[at] ^= 1
        assert message.parse(bytes(data)) is None
        data[at] ^= 1
    assert message.parse(bytes(data)) == (0, 5)
    assert message.parse(bytes(data[:-1])) is None and message.parse(b"short") is None


def test_a_tally_sees_what_is_missing_and_what_is_doubled() -> None:
    with Tally() as tally:
        for number in (0, 1, 4, 4, 2, 5):
            tally.count(1, number, 10)
        assert (tally.done(1), tally.done(0), tally.lost, tally.doubled, tally.bytes) == (6, 0, 2, 2, 60)


def test_a_receiver_counts_what_is_wrong() -> None:
    tx, rx = cwasi.open_channel("lab")
    for data in (message.make(0, 0, 9), b"rubbish", message.make(0, 2, 9), message.make(0, 2, 9)):
        tx.send(data)
    tx.close()
    with Tally() as tally:
        work(rx, 0, tally, 1)
        assert (tally.corrupt, tally.lost, tally.doubled, tally.ending) == (1, 1, 1, Ending.CLOSED)


# ---- memory ----


def test_noise_is_flat_and_a_leak_is_not() -> None:
    dice = random.Random(2)
    noise = [replace(FLAT, own_rss=FLAT.own_rss + dice.randrange(5 << 20)) for _ in range(90)]
    assert all(flat for _, _, flat in footprint.growth(noise).values())
    leak = [replace(FLAT, descriptors=FLAT.descriptors + number) for number in range(90)]
    assert [name for name, (_, _, flat) in footprint.growth(leak).items() if not flat] == ["descriptors"]


def test_an_outcome_is_well_only_where_nothing_is_wrong() -> None:
    def outcome(**wrong: int) -> Outcome:
        lane = Lane(PLAYS[0], 1)
        for name, value in wrong.items():
            setattr(lane.score, name, value)
        return Outcome(1.0, [lane], [FLAT] * 30)

    assert outcome(messages=5).well
    assert not any(outcome(**{name: 1}).well for name in ("lost", "doubled", "corrupt", "hung"))
    assert not replace(outcome(), left=["process 1"]).well
    leak = [replace(FLAT, threads=FLAT.threads + number) for number in range(90)]
    assert replace(outcome(), series=leak).well   # too short to tell
    assert not replace(outcome(), series=leak, seconds=60.0).well


# ---- channels ----

SHAPES = [
    Shape("ring", Transport.RING),
    Shape("pipe", Transport.PIPE, apart=frozenset({(RECEIVER, 0)})),
    Shape("fan-out", Transport.RING, receivers=2, apart=frozenset({(RECEIVER, 1)})),
    Shape("pipes", Transport.PIPE, receivers=2, apart=frozenset({(RECEIVER, 1)})),
    Shape("fan-in", Transport.RING, senders=2, apart=frozenset({(SENDER, 1)})),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("seed", range(3))
def test_an_episode_with_a_fault(shape: Shape, seed: int) -> None:
    score, request = Score(), Request(seed)
    request.fault()
    shape.episode(request, score)
    assert score.flawless, score.complaints
    assert sum(score.faults.values()) == 1 and request.fault()


def test_an_episode_without_a_fault() -> None:
    score, request = Score(), Request(1)
    request.end()
    SHAPES[0].episode(request, score)
    assert score.flawless, score.complaints
    assert not score.faults


def test_guests_that_run_to_their_end() -> None:
    score = Score()
    Guests("windows", ("fill", "check")).episode(Request(1), score)
    assert score.flawless and score.messages > 0 and not score.faults


def test_guests_that_are_stopped() -> None:
    score, request = Score(), Request(1)
    request.fault()
    Guests("calls", ("ask", "answer"), calls=True).episode(request, score)
    assert score.flawless, score.complaints
    assert score.faults[Fault.STOP] == 1


def test_a_guest_that_finds_a_wrong_message() -> None:
    score = Score()
    Guests("mixed up", ("ask", "check")).episode(Request(1), score)
    assert not score.flawless


# ---- the command ----


def run_command(minutes: float) -> None:
    """In a process in which nothing has been left behind before."""
    command = [sys.executable, "-m", "cwasi_fastpath.cli", "soak", "--minutes", str(minutes), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes + 10 * HANG)
    assert done.returncode == 0, done
    found = json.loads(done.stdout)
    assert found["well"], found
    assert {row["name"] for row in found["channels"]} == {play.name for play in PLAYS}
    assert all(row["messages"] > 0 for row in found["channels"])
    assert sum(sum(row["faults"].values()) for row in found["channels"]) >= 3


def test_a_few_seconds() -> None:
    run_command(0.1)


@pytest.mark.stress
def test_a_minute() -> None:
    run_command(1)
