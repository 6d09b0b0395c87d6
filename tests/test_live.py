"""Live runs: a load on a script, real guests, every message checked, and nothing left behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path

import psutil
import pytest
from channels import by_age, eventually, held, is_gone
from test_cli_policy import Page

import cwasi_fastpath as cwasi
from cwasi_fastpath import errors
from cwasi_fastpath.live import moving, pair, play, script
from cwasi_fastpath.live.elsewhere import Elsewhere
from cwasi_fastpath.live.page import page
from cwasi_fastpath.live.pair import CHANNELS
from cwasi_fastpath.live.play import kept_to, some_cores
from cwasi_fastpath.live.played import Played, as_plain
from cwasi_fastpath.live.table import HEADINGS, compared, rows
from cwasi_fastpath.modes import Mode, Transport
from cwasi_fastpath.neighbour import neighbours
from cwasi_fastpath.policy import Decision, EdgeHistory, Request, Way
from cwasi_fastpath.policy.comparisons import StaticPolicy

SHORT = """
small  seconds=0.3                        # as fast as they come
paced  seconds=0.3 size=4KiB rate=500
large  seconds=0.3 size=1MiB busy=1
"""
RING, PIPE = Way(Transport.RING), Way(Transport.PIPE)


Leftovers = tuple[set[object], set[psutil.Process], set[int]]


def leftovers() -> Leftovers:
    """Descriptors and threads of ours, processes, and cores."""
    gc.collect()   # an error holds its frames, and these the guests' memory
    files = {one for one in held() if not isinstance(one, threading.Thread)}
    threads = {thread for thread in threading.enumerate() if "live" in thread.name or "steward" in thread.name}
    return files | threads, set(psutil.Process().children(recursive=True)), os.sched_getaffinity(0)


def nothing_is_left(before: Leftovers) -> bool:
    """What other tests have left may end meanwhile."""
    mine, children, cores = leftovers()
    return not mine - before[0] and not children - before[1] and cores == before[2]


class ByTurns(StaticPolicy):
    """Goes to the other transport in each window."""

    def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
        return EdgeHistory(), RING if request.current == PIPE else PIPE


def played(text: str, policy: str, make: Callable[..., cwasi.Policy] | None = None) -> Played:
    return play.play(script.parse(text, "test"), policy, make=make)


@pytest.fixture(scope="module")
def once() -> None:
    """What a process makes once and keeps."""
    played("first seconds=0.05", "static")


@pytest.mark.usefixtures("once")
def test_a_run_goes_as_its_script_says() -> None:
    before = leftovers()
    told: list[tuple[str, float]] = []
    lines = script.parse(SHORT, "test")
    found = play.play(lines, "static", lambda phase, share: told.append((phase, share)))
    assert nothing_is_left(before)
    assert tuple(part.phase for part in found.parts) == lines and found.policy == "static"
    assert {phase for phase, _ in told} == {"small", "paced", "large"}
    assert all(0 <= share <= 1 for _, share in told) and found.cores == some_cores()
    end = 0.0
    for part in found.parts:
        assert end <= part.begin < part.end and part.messages > 0
        assert all(part.begin < one.at <= part.end and one.total_ns > 0 for one in part.slices)
        assert part.explanation["channel"] == CHANNELS[0] and "ring" in part.text
        end = part.end
    assert found.parts[1].messages <= 2 * (500 * 0.3 + 1), "no faster than it is to be"
    assert found.messages == sum(part.messages for part in found.parts)
    assert [change.channel for change in found.changes] == list(CHANNELS), "the way that each began on"


def test_nothing_is_lost_where_it_switches_all_the_time() -> None:
    found = played("turns seconds=1.5\nlarge seconds=0.5 size=256KiB", "turns", lambda costs: ByTurns())
    assert found.changes[0].way == "ring" and found.messages > 0
    ways = [change.way for change in found.ways(CHANNELS[0])]
    assert all(one != other for one, other in pairwise(ways)) and set(ways) <= {"ring", "pipe"}


def test_what_is_made_of_it() -> None:
    runs = [played(SHORT, name) for name in ("cost", "static")]
    plain = as_plain(runs, CHANNELS[0])
    assert [one["policy"] for one in plain] == ["cost", "static"]
    for one in plain:
        assert one["messages"] == sum(phase["messages"] for phase in one["phases"])
        assert [phase["phase"] for phase in one["phases"]] == ["small", "paced", "large"]
        assert [phase["size"] for phase in one["phases"]] == [64, 4096, 1 << 20]
        assert one["ways"][0]["way"] == "ring" and one["ways"][0]["mode"] == "local"
    table = rows(runs, CHANNELS[0])
    assert len(table) == 2 * 3 + 2 and {len(row) for row in table} == {len(HEADINGS)}
    words = "\n".join(compared(*runs, CHANNELS[0]))
    assert "4 KiB 500 times a second" in words and "1 MiB as fast as they come back, 1 busy neighbour" in words
    assert words.count("by the rule static, which is on ring: predicted ") == 3 and words.count("measured ") == 3
    text = page(runs, CHANNELS[0], {"cpu": "<b>"}, HEADINGS, table)
    assert Page(text).plots == 2 and "&lt;b&gt;" in text


def test_a_way_and_its_mode_are_those_of_one_moment() -> None:
    """Though a switch may come at any time."""

    class Switches:
        decisions = cycle((Decision(Mode.LOCAL, Transport.RING, ""), Decision(Mode.PROXIMAL, Transport.PIPE, "")))

        @property
        def decision(self) -> Decision:
            return next(self.decisions)

        @property
        def mode(self) -> Mode:
            return self.decision.mode

    both = pair.Pair.__new__(pair.Pair)
    both._channels = dict.fromkeys(CHANNELS, Switches())   # type: ignore[arg-type]
    assert set(both.ways().values()) == {("ring", "local"), ("pipe", "proximal")}


@pytest.mark.usefixtures("swept_directory")
def test_another_process_that_ends_before_it_goes_on_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    hear = Elsewhere.hear

    def last_heard(elsewhere: Elsewhere, word: str) -> None:
        hear(elsewhere, word)
        elsewhere.kill()
        monkeypatch.setattr(moving, "SECONDS", 0.5)   # nobody else comes

    monkeypatch.setattr(Elsewhere, "hear", last_heard)
    with pytest.raises(errors.HostDied, match="the other process of a live run ended with status -9"):
        played("one seconds=60 receiver=process", "static")


def test_a_policy_that_fails_changes_nothing() -> None:
    class Fails(StaticPolicy):
        def step(self, request: Request) -> tuple[EdgeHistory, Way | None]:
            raise ZeroDivisionError("of my own")

    found = played("one seconds=0.3", "fails", lambda costs: Fails())
    assert [change.way for change in found.changes] == ["ring", "ring"] and found.messages > 0


@pytest.mark.usefixtures("once")
def test_a_message_that_is_wrong_is_noticed(module: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest that answers changes a word of each."""
    text = pair.MODULE.read_text()
    sent = "(drop (call $must (call $channel_send (global.get $out) (global.get $message) (local.get $length)"
    assert text.count(sent) == 1
    wrong = text.replace(sent, "(i64.store (global.get $message) (i64.const -1))" + sent)
    monkeypatch.setattr(pair, "MODULE", module(wrong, "wrong"))
    before = leftovers()
    with pytest.raises(errors.Corrupted, match="a message of a live run was wrong"):
        played("one seconds=5", "static")
    assert nothing_is_left(before)


@pytest.mark.usefixtures("once")
def test_an_error_in_the_middle_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = leftovers()

    def stop(phase: str, share: float) -> None:
        assert len(psutil.Process().children()) > len(before[1]), "the neighbour is there"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play.play(script.parse("one seconds=60 busy=1", "test"), "static", stop)
    assert nothing_is_left(before)


# ---- scripts ----


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no phase; write a line for each, as: quiet seconds=2 size=64"),
        ("# only this", "it has no phase"),
        ("\none size=2GiB", "2: size=2GiB: give 8 bytes to 64 MiB, as 64, 4KiB or 1MiB"),
        ("one size=7", "1: size=7: give 8 bytes"),
        ("one size=65MiB", "size=65MiB: give 8 bytes"),
        ("one seconds=0", "seconds=0: give a number from 0.05 to 3600"),
        ("one seconds=nan", "seconds=nan: give a number"),
        ("one seconds=1e999", "seconds=1e999: give a number"),
        ("one rate=-1", "rate=-1: give a number from 1"),
        ("one busy=65", "busy=65: give the number of busy neighbours, 0 to 64"),
        ("one busy=x", "busy=x: give the number"),
        ("one receiver=moon", "receiver=moon: use here or process"),
        ("one colour=red", "'colour=red': use seconds=, size=, rate=, busy=, receiver="),
        ("one size", "'size': use seconds="),
        ("one size=64 size=64", "size= is there twice"),
        ("size=64", "'size=64' is no name; begin the line with one"),
        ("One", "phase name 'One' is refused"),
        ("one\ntwo\none", "3: there is a phase 'one' already"),
    ],
)
def test_scripts_that_are_none(text: str, words: str) -> None:
    with pytest.raises(errors.BadSpec) as raised:
        script.parse(text, "the.script")
    assert words in str(raised.value) and str(raised.value).startswith("the.script:")


def test_a_script() -> None:
    (one, other) = script.parse("a\nb seconds=2.5 size=1KiB rate=10 busy=2 receiver=process # why", "x")
    assert one == script.Phase("a") and other == script.Phase("b", 2.5, 1024, 10.0, 2, "process")
    assert [phase.seconds for phase in script.scaled((one, other), 7.0)] == [2.0, 5.0]
    for text in (script.DEFAULT, script.DEMO):
        assert len(script.parse(text, "x")) >= 3


# ---- neighbours and cores ----


def test_neighbours_keep_their_cores_and_end() -> None:
    cores, before = sorted(os.sched_getaffinity(0)), psutil.Process().children()
    with neighbours([cores[0], cores[-1]]):
        children = [child for child in psutil.Process().children() if child not in before]
        assert [os.sched_getaffinity(child.pid) for child in by_age(children)] == [{cores[0]}, {cores[-1]}]
    assert not any(child.is_running() for child in children)


def test_a_neighbour_ends_with_its_parent() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with neighbours([min(os.sched_getaffinity(0))]):
            os.write(writing, f"{psutil.Process().children()[0].pid}".encode())
            os.kill(os.getpid(), 9)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    neighbour = int(os.read(reading, 100))
    os.close(reading)
    eventually(lambda: is_gone(neighbour))


def test_a_neighbour_that_cannot_be_had() -> None:
    before = psutil.Process().children()
    with pytest.raises(errors.Unavailable, match="a busy neighbour cannot run on core 4000"), neighbours([4000]):
        raise AssertionError
    assert set(psutil.Process().children()) <= set(before)


def test_no_more_than_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(some_cores()) <= os.sched_getaffinity(0) and 1 <= len(some_cores()) <= 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7})
    assert some_cores() == (2, 7)
    monkeypatch.undo()
    before = os.sched_getaffinity(0)
    with kept_to([min(before)]):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
