"""Recording a trace: real messages on every way; no test asserts a time."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from statistics import mean

import psutil
import pytest
from channels import HANG

from cwasi_fastpath import errors, paced_ways, timed_ways
from cwasi_fastpath.bench import recording
from cwasi_fastpath.bench.wire import HERE, THERE, a_wire
from cwasi_fastpath.capabilities import held, keep_only
from cwasi_fastpath.cli.policy import _read
from cwasi_fastpath.modes import EdgeFacts, Locality, Transport
from cwasi_fastpath.neighbour import neighbours
from cwasi_fastpath.policy import Cores, Way
from cwasi_fastpath.policy.comparisons import policy_named
from cwasi_fastpath.policy.oracle import oracle
from cwasi_fastpath.policy.regret import regret
from cwasi_fastpath.policy.replay import replay
from cwasi_fastpath.policy.trace import lines_of

TCP = Way(Transport.TCP)
WAYS = [Way(Transport.RING, Cores.ONE), Way(Transport.PIPE), TCP]
NAMESPACE = Path("/proc/thread-self/ns/net")
POLICIES = ("cost", "static", "thresholds", "always:tcp", "always:pipe", "always:redis")
may_make_a_wire = pytest.mark.skipif(
    "CAP_SYS_ADMIN" not in held() or not os.access("/dev/net/tun", os.W_OK), reason="it takes root to make a network"
)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured first takes a while, on a busy machine, which is none to measure on, but good enough for us."""
    monkeypatch.setattr(recording, "_FIRST_ROUNDS", 5)
    for module in (timed_ways, paced_ways):
        monkeypatch.setattr(module, "LONGEST", HANG)


Leftovers = tuple[set[str], set[int], set[int], set[tuple[str, str]]]


def leftovers() -> Leftovers:
    """Threads, places, processes, and files, by their number."""
    threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("cwasi recording")}
    children = {child.pid for child in psutil.Process().children()}
    files = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):   # that of this directory is closed by now
            files.add((link.name, str(link.readlink())))
    return threads, set(os.sched_getaffinity(0)), children, files


def nothing_is_left(before: Leftovers) -> bool:
    """What other tests have left may be closed meanwhile."""
    *found, files = leftovers()
    return found == list(before[:3]) and not files - before[3]


@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=may_make_a_wire if name == "link" else ()) for name in recording.SCENARIOS]
)
def test_every_way_that_leads_there_is_measured_in_every_block(scenario: str, tmp_path: Path) -> None:
    before = leftovers()
    trace = recording.record(scenario, 0.05, WAYS)
    assert nothing_is_left(before)
    phases = recording.SCENARIOS[scenario]
    assert len(trace.changes or ()) == len(phases) - 1 and len(trace.blocks) >= len(phases)
    far = {phase.place for phase in phases} - {Locality.PROCESS}
    assert {block.facts for block in trace.blocks} == {EdgeFacts(phase.place) for phase in phases}
    for block in trace.blocks:
        near = block.facts.locality is Locality.PROCESS
        assert set(block.measured) == (set(WAYS) if near else {TCP})
        assert near == (block.srtt_ns is None)
        assert all(one.latency_ns > 0 for one in block.measured.values())
        # Those that come after pauses do so whatever their way is.
        seldom = {one.rate is None and one.cpu_ns is None for one in block.measured.values()}
        assert len(seldom) == 1 and (scenario == "bursty" or seldom == {False})
        for one in block.measured.values():
            halves = [half.latency_ns for half in one.halves or ()]
            assert len(halves) == 2 and one.latency_ns == pytest.approx(sum(halves) / 2, abs=0.2)
    assert {block.size for block in trace.blocks} == {phase.size for phase in phases}
    known = {TCP} if scenario == "link" else set(WAYS)
    assert set(trace.costs.curves) == known and set(trace.costs.switch) == {way.transport for way in known}
    path = tmp_path / "t.trace"
    path.write_text("".join(lines_of(trace)))
    assert _read(path) == trace
    best = oracle(trace)
    for name in POLICIES:
        found = replay(trace, policy_named(name, trace.costs), name)
        assert regret(found, best).share >= -1e-9
        assert all(stint.way in trace.blocks[stint.block].measured for stint in found.stints)
        assert found.forced == (len(far) if scenario == "migration" and found.ways[0] != TCP else 0)


@may_make_a_wire
def test_a_network_that_gets_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its time, and that is what the kernel sees, until it is good again."""
    good, slow, _ = recording.SCENARIOS["link"]
    monkeypatch.setattr(recording, "SCENARIOS", {"link": (good, slow)})
    trace = recording.record("link", 0.6, [TCP])
    slowed = [block for block in trace.blocks if block.at >= (trace.changes or ())[0]]
    assert all(block.measured[TCP].latency_ns >= 2e6 for block in slowed)
    assert (slowed[-1].srtt_ns or 0.0) >= 2e6, "it is smoothed, so not all of the 4 ms at once"


@may_make_a_wire
def test_a_wire_carries_both_ways_and_is_gone_afterwards() -> None:
    before, namespace = leftovers(), NAMESPACE.stat().st_ino
    with a_wire() as wire:
        assert wire.inside(lambda: NAMESPACE.stat().st_ino) != namespace
        assert NAMESPACE.stat().st_ino == namespace, "nobody else is in it"
        with wire.inside(lambda: socket.create_server((HERE, 0))) as listener:
            port = listener.getsockname()[1]
            with wire.inside(lambda: socket.create_connection((THERE, port))) as one, listener.accept()[0] as other:
                assert other.getpeername()[0] == THERE, "as if it came from another node"
                threading.Thread(target=one.sendall, args=(b"x" * (1 << 20),)).start()
                assert len(other.recv(1 << 20, socket.MSG_WAITALL)) == 1 << 20
                wire.becomes(delay=0.05)
                begin = time.monotonic()
                other.sendall(b"y")
                assert one.recv(1) == b"y" and time.monotonic() - begin >= 0.05
    assert nothing_is_left(before)


def test_a_wire_that_may_not_be_made() -> None:
    before = leftovers()

    def without_rights() -> None:
        keep_only(())
        with a_wire():
            pass

    with ThreadPoolExecutor(1) as thread, pytest.raises(errors.Unavailable, match="Remedy: run it as root"):
        thread.submit(without_rights).result()
    assert nothing_is_left(before)


def test_what_cannot_be_recorded() -> None:
    with pytest.raises(errors.BadSpec, match="scenario 'alike' cannot be recorded: use steady"):
        recording.record("alike", 0.1, WAYS)
    with pytest.raises(errors.BadSpec, match="scenario 'migration' needs a way to another node: tcp, or redis"):
        recording.record("migration", 0.1, WAYS[:2])


def test_the_crowd_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a recording fails in the middle."""
    before = leftovers()

    def fails(*_: object) -> None:
        assert len(leftovers()[2]) == len(before[2]) + 1, "the other process is there"
        raise RuntimeError("in the middle")

    monkeypatch.setattr(recording, "SCENARIOS", {"contention": (recording.Phase(crowded=True),)})
    monkeypatch.setattr(recording, "_block", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        recording.record("contention", 0.1, WAYS)
    assert nothing_is_left(before)


def test_what_others_take_is_measured_of_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs during which somebody had a core, and of none after he has left."""
    crowded, alone = recording.Phase(crowded=True), recording.Phase()
    monkeypatch.setattr(recording, "SCENARIOS", {"contention": (crowded, alone)})
    monkeypatch.setattr(recording.Busy, "unknown", lambda _: 0.125)   # it is a busy machine
    trace = recording.record("contention", 1.0, WAYS)
    beside = [block.at < (trace.changes or ())[0] for block in trace.blocks]
    for way in WAYS:
        measured = [block.measured[way] for block in trace.blocks]
        halves = [[half.others for half in one.halves or ()] for one in measured]
        assert [one.others for one in measured] == pytest.approx([mean(map(float, both)) for both in halves], abs=1e-3)
        seen = [there for there, both in zip(beside, halves, strict=True) if both != [0.125, 0.125]]
        assert seen and all(seen)
        assert all((half or 0.0) >= 0.125 for both in halves for half in both)


def test_what_nobody_was_known_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the kernel counts, over some looks; what we took ourselves, or a neighbour, is not in it."""
    with neighbours([max(os.sched_getaffinity(0))]) as pids, closing(recording.Busy(pids)) as busy:
        clock, ours, theirs = iter(range(0, 10**9, 10**8)), 2, 3
        took = iter([0, 10, 30, 60, 100])
        monkeypatch.setattr(time, "monotonic_ns", lambda: next(clock))
        monkeypatch.setattr(time, "process_time_ns", lambda: ours)
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _: theirs)
        monkeypatch.setattr("cwasi_fastpath.bench.busy.busy_ns", lambda stat: {
            max(os.sched_getaffinity(0)): next(took) * 10**6 + ours + theirs, 4000: 10**9
        })
        assert [round(busy.unknown(), 6) for _ in range(5)] == [0.0, 0.1, 0.15, 0.2, 0.3]


def test_ways_of_this_machine() -> None:
    ways = recording.usable_ways(None)
    assert Way(Transport.REDIS) not in ways and Way(Transport.REDIS) in recording.usable_ways("redis://x")
    assert (Way(Transport.RING, Cores.TWO) in ways) == (len(os.sched_getaffinity(0)) > 1)
