"""The policy of the host that sends, where the receiver is in another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from channels import HANG, Fork, Start, control_ended, eventually, is_of, status_of
from test_steward import PIPE, REDIS, RING, TCP, Told, in_turn, stewards

import cwasi_fastpath as cwasi
from cwasi_fastpath import meeting
from cwasi_fastpath.endpoint import SENDER
from cwasi_fastpath.explanation import Explanation
from cwasi_fastpath.metrics import Observation, sane
from cwasi_fastpath.modes import Locality, Transport
from cwasi_fastpath.observing import Counts

COUNT, SIZE = "2000000000", 2000


@pytest.fixture(autouse=True)
def directory(runtime_directory: Path) -> Iterator[Path]:
    yield runtime_directory
    control_ended()


def sink_host(guests: Path, said: Path) -> None:
    """The other process: a host whose guest checks each message, and says at the first that is wrong, or not there."""
    with cwasi.Host() as host:
        sink = host.load(guests / "sink.wasm", arguments=(COUNT, str(SIZE)), stderr=said)
        rx = cwasi.open_receiver("lab", timeout=HANG)
        host.attach(sink, rx, port="in")
        with suppress(cwasi.GuestExit):   # it wants more than ever come
            host.run()
        assert rx.metrics().messages > 0


def all_came(said: Path) -> bool:
    """Whether what a sink has said is that its sender is gone, after messages that all were right."""
    words = said.read_text() if said.exists() else ""
    assert "a byte" not in words
    return f"the result of receive is -15, not {SIZE}" in words


class Across:
    """A host whose guest sends to a guest of another process."""

    def __init__(
        self, told: cwasi.Policy, guests: Path, fork: Fork, start: Start, said: Path, **how: Any
    ) -> None:
        """said: where the sink says what was wrong."""
        self.said = said
        self.peer = fork(lambda: sink_host(guests, said))
        self.host = cwasi.Host(policy=told)
        self.source = self.host.load(guests / "source.wasm", arguments=(COUNT, str(SIZE)), stderr=Path(os.devnull))
        self.tx = cwasi.open_sender("lab", timeout=HANG, **how)
        self.tx.sample(1)
        self.host.attach(self.source, self.tx, port="out")
        self.running: Future[None] = start(self.host.run)

    def until(self, condition: Callable[[], bool]) -> None:
        eventually(lambda: condition() or self.running.done())
        assert not self.running.done(), self.running.result()

    @property
    def transport(self) -> Transport:
        named = meeting.named_end("lab", SENDER)
        assert named is not None and named.meeting is not None
        return named.meeting.decision.transport

    def end(self) -> None:
        """Both sides end well."""
        self.host.stop()
        with suppress(cwasi.GuestExit):
            self.running.result(HANG)
        self.host.close()
        assert status_of(self.peer) == 0 and all_came(self.said)


@pytest.fixture
def said(tmp_path: Path) -> Path:
    return tmp_path / "said"


def test_it_goes_from_way_to_way_between_two_processes(guests: Path, fork: Fork, start: Start, said: Path) -> None:
    policy = Told(in_turn(RING, PIPE, TCP))
    run = Across(policy, guests, fork, start, said)
    run.until(lambda: {request.current for request in policy.asked} >= {RING, PIPE, TCP})
    run.end()
    assert not stewards()
    assert {request.facts.locality for request in policy.asked} == {Locality.NODE}
    seen = [request.observation for request in policy.asked if request.observation is not None]
    assert all(one == sane(one) and is_of(SIZE, one) and one.rate for one in seen)


def test_what_the_policy_is_told_of_both_ends(guests: Path, fork: Fork, start: Start, said: Path) -> None:
    policy = Told()
    run = Across(policy, guests, fork, start, said)
    run.until(lambda: len(policy.asked) > 3)
    explained = run.host.explain("lab")
    run.end()
    seen = [request.observation for request in policy.asked if request.observation is not None]
    assert len(seen) == len(policy.asked) and explained is not None
    assert 0 < sum(one.messages for one in seen) <= run.tx.metrics().messages
    assert {one.srtt_ns for one in seen} == {None}
    # Where its messages queue, the latency is that of the queue, and the policy is not told.
    assert explained.observation["latency_ns"] > 0 and explained.mode == "proximal"
    assert all(one.latency_ns is not None for one, asked in zip(seen, policy.asked, strict=True)
               if not asked.objective.throughput)  # fmt: skip


def test_what_the_user_has_chosen_stays(guests: Path, fork: Fork, start: Start, said: Path) -> None:
    policy = Told(lambda request: PIPE)
    run = Across(policy, guests, fork, start, said, transport="ring")
    run.until(lambda: len(policy.asked) > 2)
    assert all(request.pinned for request in policy.asked) and run.transport is Transport.RING
    assert "  pinned: ring was asked for" in run.tx.explain()
    run.end()


def test_a_switch_by_hand_is_the_last_word(guests: Path, fork: Fork, start: Start, said: Path) -> None:
    policy = Told(in_turn(RING, PIPE))
    run = Across(policy, guests, fork, start, said)
    run.until(lambda: len({request.current for request in policy.asked}) > 1)
    run.tx.switch("tcp", HANG)
    asked = len(policy.asked)
    run.until(lambda: len(policy.asked) > asked + 2)
    assert policy.asked[-1].pinned and run.transport is Transport.TCP
    assert "  pinned: a switch was asked for" in run.tx.explain()
    run.end()


def test_a_change_that_fails_is_held_and_told(
    guests: Path, fork: Fork, start: Start, said: Path, tmp_path: Path
) -> None:
    policy = Told(lambda request: request.current)
    run = Across(policy, guests, fork, start, said, redis=f"unix://{tmp_path}/none.sock", policy=policy)
    policy.answer = lambda request: REDIS
    run.until(lambda: "  held: " in run.tx.explain())
    text = run.tx.explain()
    assert "a change to redis failed, and " in text and "none.sock" in text
    sent = run.tx.metrics().messages
    run.until(lambda: run.tx.metrics().messages > sent)
    run.end()


def test_it_is_explained_from_either_side(guests: Path, fork: Fork, start: Start) -> None:
    """The sender is in the child; here is its receiver, which asks there."""

    def send() -> None:
        policy = Told()
        with cwasi.Host(policy=policy) as host:
            source = host.load(guests / "source.wasm", arguments=(COUNT, str(SIZE)), stderr=Path(os.devnull))
            tx = cwasi.open_sender("lab", timeout=HANG)
            host.attach(source, tx, port="out")
            with suppress(cwasi.GuestExit):   # the receiver leaves
                host.run()

    pid = fork(send)
    with cwasi.Host() as host:
        sink = host.load(guests / "sink.wasm", arguments=(COUNT, str(SIZE)), stderr=Path(os.devnull))
        rx = cwasi.open_receiver("lab", timeout=HANG)
        host.attach(sink, rx, port="in")
        running = start(host.run)
        eventually(lambda: "  seen " in rx.explain() or running.done())
        found = host.explain("lab")
        assert isinstance(found, Explanation) and is_of(SIZE, Observation(**found.observation))
        assert "lacked: no tracer" in str(found) and found.mode == "proximal"
        with pytest.raises(cwasi.BadSpec, match="size 'large'"):
            rx.what_if(size="large")
        shell = subprocess.run(
            [sys.executable, "-m", "cwasi_fastpath.cli", "explain", "lab", "--json", "--if-size", "10x"],
            capture_output=True, text=True, timeout=HANG, check=True,
        )  # fmt: skip
        [told] = json.loads(shell.stdout)["told"]
        assert told["pid"] == pid and told["explanation"]["way"] == "ring" and told["what_if"]["if"] == {"size": "10x"}
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)
    with pytest.raises(cwasi.ChannelClosed):
        rx.explain()
    assert status_of(pid) == 0


@pytest.mark.parametrize("killed", ["sender", "receiver"])
def test_a_side_is_killed_while_the_steward_switches(
    guests: Path, fork: Fork, start: Start, said: Path, killed: str
) -> None:
    """What was sent comes in order, without a gap; who is left hears of the death, and leaves nothing."""
    ready, told = os.pipe()

    def here() -> None:
        policy = Told(in_turn(RING, PIPE, TCP))
        run = Across(policy, guests, fork, start, said)
        run.until(lambda: run.tx.epoch > 1)
        os.write(told, run.peer.to_bytes(8, "little"))
        with suppress(cwasi.GuestExit):
            run.running.result(HANG)
        run.host.close()
        assert not stewards() and status_of(run.peer) == -signal.SIGKILL

    pid = fork(here)
    peer = int.from_bytes(os.read(ready, 8), "little")
    os.kill(pid if killed == "sender" else peer, signal.SIGKILL)
    if killed == "receiver":
        assert status_of(pid) == 0
    else:
        assert status_of(pid) == -signal.SIGKILL
        eventually(lambda: not Path(f"/proc/{peer}").exists())
        assert all_came(said)
    os.close(ready)
    os.close(told)


@pytest.mark.parametrize("plain", [None, 7, [], [1] * 5, [1.0] * 6, [-1] + [0] * 5, [1 << 64] + [0] * 5, ["1"] * 6])
def test_what_a_receiver_says_is_checked(plain: object) -> None:
    assert Counts.of_plain(plain) is None
    assert Counts.of_plain([1, 2, 3, 4, 5, 6]) == Counts(1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "plain", [None, {}, {"channel": "lab"}, {"channel": "lab", "way": "ring", "mode": "local", "seconds": []},
              {"channel": "lab", "way": "ring", "mode": "local", "more": 1},
              {"channel": "lab", "way": "ring", "mode": "local", "alternatives": [{"way": "ring", "ns": "x"}]},
              {"channel": "lab", "way": "ring", "mode": "local", "observation": {"a": 1}, "age_seconds": 1.0},
              {"channel": "lab", "way": "ring", "mode": "local", "alternatives": [{"way": "ring", "ns": 10**400}]},
              {"channel": "lab", "way": "ring", "mode": "local", "changes": 1, "seconds": 10**400},
              {"channel": "lab", "way": "ring", "mode": "local", "changes": 1}],
    ids=lambda plain: str(plain)[:80],
)  # fmt: skip
def test_an_explanation_that_is_none(plain: object) -> None:
    with pytest.raises(cwasi.Corrupted):
        Explanation.of_plain(plain)
