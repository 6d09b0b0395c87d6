"""Channels between the host processes of a run change their transport under load; processes are killed and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from channels import HANG, Start, eventually

import cwasi_fastpath as cwasi
from cwasi_fastpath import census, registry, runtime, switch_asked
from cwasi_fastpath.deployment import Options, RunReport, run
from cwasi_fastpath.modes import Mode, Transport
from cwasi_fastpath.redis_server import RedisServer
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]
QUIET = Path(os.devnull)
PROXIMAL = Options(mode=Mode.PROXIMAL)

# From each transport to each other one.
TOUR = ["pipe", "ring", "tcp", "ring", "redis", "pipe", "tcp", "pipe", "redis", "tcp", "redis", "ring"]


def streams(
    guests: Path, senders: str, receivers: str, rounds: int, size: int = 3000, **trust: str
) -> Workflow:
    """256 * rounds messages of each sender; what is wrong in them, or missing, a receiver notices."""
    functions = [
        FunctionSpec(name, guests / "source.wasm", (str(256 * rounds), str(size)), trust=trust.get(name, "default"))
        for name in senders
    ]
    one = ("sink.wasm", (str(256 * rounds), str(size)))
    several = ("merge.wasm", ("256", str(size), str(len(senders) * rounds), "in"))
    for name in receivers:
        module, arguments = one if len(senders) == 1 else several
        functions.append(
            FunctionSpec(name, guests / module, arguments, stdout=QUIET, trust=trust.get(name, "default"))
        )
    edges = [EdgeSpec("frames", sender, receiver, "out", "in") for sender in senders for receiver in receivers]
    return Workflow(tuple(functions), tuple(edges))


def switch_while(running: Future[RunReport], targets: list[str], channel: str = "frames") -> list[str]:
    """From one to the next, as often as it goes; where it went."""
    done: list[str] = []
    while not running.done():
        with suppress(cwasi.ChannelError, cwasi.NoSuchChannel):
            target = targets[len(done) % len(targets)]
            found = switch_asked.ask(channel, target, 0.5)
            assert found.transport == ("redis" if "/" in target else target)
            done.append(found.transport)
    return done


def enough(switches: Iterable[int], least: int) -> bool:
    """Of runs that are longer each time: on a busy machine a short one may be over before there were some."""
    return any(number >= least for number in switches)


def workers(*names: str) -> dict[str, psutil.Process]:
    """The host processes by a function of theirs, once messages flow to each receiver and these have answered."""
    ends, _ = census.census()
    flowing = [end for end in ends if end.function and end.metrics.get("messages")]
    found = {end.function or "": psutil.Process(end.pid) for end in ends}
    if not {"sender", "receiver"} <= {end.role for end in flowing} or not set(names) <= found.keys():
        return {}
    return found


def worker(name: str) -> psutil.Process:
    return eventually(lambda: workers(name))[name]


@pytest.fixture(autouse=True)
def nothing_stays(runtime_directory: Path) -> Iterator[None]:
    before = psutil.Process().num_fds()
    yield
    eventually(lambda: psutil.Process().num_fds() <= before)
    runtime.sweep(runtime_directory)   # of those that were killed
    assert not list(runtime_directory.iterdir())


def test_from_each_transport_to_each_other(guests: Path, start: Start, redis_server: RedisServer) -> None:
    tour = [redis_server.url if name == "redis" else name for name in TOUR]

    def switches(rounds: int) -> int:
        running = start(run, streams(guests, "a", "b", rounds), PROXIMAL)
        done = switch_while(running, tour)   # type: ignore[arg-type]
        (edge,) = running.result(HANG).edges   # type: ignore[attr-defined]
        assert edge.metrics.received == edge.metrics.sent == 256 * rounds
        if done:
            assert edge.decision.transport == done[-1] and edge.decision.reason == "a switch was asked for"
        return len(done)

    assert enough(map(switches, (1500, 6000, 24_000)), len(TOUR)), "else it has not seen all"


@pytest.mark.parametrize(("senders", "receivers"), [("ab", "c"), ("a", "bc"), ("ab", "cd")])
def test_several(guests: Path, start: Start, senders: str, receivers: str) -> None:
    def switches(rounds: int) -> int:
        running = start(run, streams(guests, senders, receivers, rounds), PROXIMAL)
        done = switch_while(running, ["pipe", "ring"])   # type: ignore[arg-type]
        edges = running.result(HANG).edges   # type: ignore[attr-defined]
        assert {edge.metrics.received for edge in edges} == {256 * rounds}
        return len(done)

    assert enough(map(switches, (300, 1500, 7500)), 2)


@pytest.mark.parametrize("target", ["ring", "pipe"])
def test_trust_domains_hold(guests: Path, start: Start, target: str) -> None:
    """Two host processes with a function each, and one with two; only their own domain's memory is shared."""
    running = start(run, streams(guests, "a", "bc", 1500, b="others"), Options())
    eventually(workers)
    if target == "ring":
        with pytest.raises(cwasi.NoTransport, match=r"from a to b: ring: .*different trust domains"):
            switch_asked.ask("frames", target, HANG)
    else:
        assert switch_asked.ask("frames", target, HANG).mode == "proximal"
    assert switch_asked.ask("frames", "tcp", HANG).mode == "remote"
    with pytest.raises(cwasi.BadSpec, match="'smoke' is unknown"):
        switch_asked.ask("frames", "smoke", HANG)
    assert {edge.metrics.received for edge in running.result(HANG).edges} == {256 * 1500}   # type: ignore[attr-defined]


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("targets", [["pipe", "ring"], ["tcp", "ring"], ["redis", "pipe"]], ids="-".join)
def test_a_process_is_killed_in_the_middle(
    guests: Path, start: Start, victim: str, targets: list[str], redis_server: RedisServer
) -> None:
    """The run ends with its death, and nobody hangs; whoever asked for the switch is told."""
    for delay in (0.0, 0.002, 0.01, 0.03):
        running = start(run, streams(guests, "a", "b", 1 << 20), PROXIMAL)
        process = worker(victim)
        tour = [redis_server.url if name == "redis" else name for name in targets]
        switching = start(switch_while, running, tour)
        time.sleep(delay)
        process.kill()
        with pytest.raises(cwasi.HostDied, match="SIGKILL"):
            running.result(HANG)
        switching.result(HANG)


def test_one_of_several_receivers_is_killed(guests: Path, start: Start, tmp_path: Path) -> None:
    """The other one gets everything, and the channel goes on where it is."""
    rounds = 3000
    workflow = streams(guests, "a", "bc", rounds)
    functions = [replace(one, stdout=tmp_path / one.name) if one.name == "b" else one for one in workflow.functions]
    running = start(run, replace(workflow, functions=tuple(functions)), PROXIMAL)
    process = worker("c")
    switching = start(switch_while, running, ["pipe", "ring"])
    time.sleep(0.02)
    process.kill()
    with pytest.raises(cwasi.HostDied, match=r"of c .*SIGKILL"):
        running.result(HANG)
    switching.result(HANG)
    assert (tmp_path / "b").read_text() == f"sink: {256 * rounds} messages ok\n"


def test_a_receiver_that_is_stopped_delays_the_switch(guests: Path, start: Start) -> None:
    rounds = 1000
    running = start(run, streams(guests, "a", "b", rounds), PROXIMAL)
    process = worker("b")
    process.suspend()
    try:
        for _ in range(3):
            with pytest.raises(cwasi.Timeout):
                switch_asked.ask("frames", "pipe", 0.05)
    finally:
        process.resume()
    assert switch_asked.ask("frames", "pipe", HANG).transport == "pipe"
    (edge,) = running.result(HANG).edges   # type: ignore[attr-defined]
    assert edge.metrics.received == 256 * rounds and edge.decision.transport is Transport.PIPE


def test_a_sender_that_is_stopped_is_waited_for(
    guests: Path, start: Start
) -> None:
    """Whether it goes is for it to say; until then nothing is taken back."""
    rounds = 1000
    running = start(run, streams(guests, "a", "b", rounds), PROXIMAL)
    process = worker("a")
    ends, _ = census.census()
    process.suspend()
    try:
        for _ in range(2):   # the second one waits for its turn
            with pytest.raises(cwasi.Timeout):
                asked(ends[0].switcher, "pipe", 0.1)
    finally:
        process.resume()
    assert eventually(lambda: gone_on("pipe"))
    (edge,) = running.result(HANG).edges   # type: ignore[attr-defined]
    assert edge.metrics.received == 256 * rounds and edge.decision.transport is Transport.PIPE


def asked(switcher: str, target: str, timeout: float) -> None:
    """Without a census, which would wait for the process that is stopped."""
    body = {"target": target, "timeout": timeout}
    registry.ask(switcher, "switch-to", body, channel="frames", timeout=timeout + 0.2)


def gone_on(target: str) -> bool:
    with suppress(cwasi.ChannelError):
        return switch_asked.ask("frames", target, 1.0).transport == target
    return False


def switches_of_calls(guests: Path, start: Start, count: int) -> int:
    """Of the questions of two callers, and of the answers to one: how often at least."""
    functions = [
        FunctionSpec(f"ask{n}", guests / "ask.wasm", (str(count), f"from {n}")) for n in (0, 1)
    ]
    answer = FunctionSpec("answer", guests / "answer.wasm")
    edges = tuple(EdgeSpec("questions", f"ask{n}", "answer", None, None, True) for n in (0, 1))
    running = start(run, Workflow((*functions, answer), edges), PROXIMAL)
    answers = start(switch_while, running, ["tcp", "pipe", "ring"], "questions.answers.ask0")
    questions = switch_while(running, ["pipe", "tcp", "ring"], "questions")   # type: ignore[arg-type]
    report: RunReport = running.result(HANG)   # type: ignore[assignment]
    assert {edge.metrics.received for edge in report.edges} == {count}
    return min(len(questions), len(answers.result(HANG)))   # type: ignore[arg-type]


def test_calls(guests: Path, start: Start) -> None:
    assert enough((switches_of_calls(guests, start, count) for count in (20_000, 100_000, 500_000)), 4)


def test_windows(guests: Path, start: Start) -> None:
    def switches(count: int) -> int:
        numbers = (str(count), "5000", "window", "262144")
        functions = (
            FunctionSpec("filler", guests / "filler.wasm", numbers, stdout=QUIET),
            FunctionSpec("summer", guests / "summer.wasm", (*numbers, "scribble"), stdout=QUIET),
        )
        workflow = Workflow(functions, (EdgeSpec("frames", "filler", "summer", "out", "in"),))
        running = start(run, workflow, PROXIMAL)
        done = switch_while(running, ["pipe", "ring", "ring"])   # type: ignore[arg-type]
        (edge,) = running.result(HANG).edges   # type: ignore[attr-defined]
        assert edge.metrics.received == count
        return len(done)

    assert enough(map(switches, (40_000, 200_000, 1_000_000)), 4)


def test_from_the_command_line(guests: Path, runtime_directory: Path) -> None:
    count = str(256 * 5000)
    line = [*CWASI, "run", "--mode", "proximal", "--connect", "frames:a/out:b/in", "--json",
            f"a={guests / 'source.wasm'} {count} 3000", f"b={guests / 'sink.wasm'} {count} 3000"]   # fmt: skip
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        eventually(workers)
        done = command("switch", "frames", "--to", "tcp", "--timeout", "30", "--json")
        assert json.loads(done.stdout) == {"schema": 1, "channel": "frames", "transport": "tcp", "mode": "remote"}
        shown = json.loads(command("ps", "--json").stdout)["ends"]
        assert {(end["transport"], end["pid"] == process.pid) for end in shown} == {("tcp", False)}
        assert {end["switcher"] for end in shown} == {end["switcher"] for end in shown[:1]} != {""}
        assert "a switch was asked for" in command("inspect", "frames").stdout
        refused = command("switch", "frames", "--to", "redis://127.0.0.1:1/0", "--timeout", "5")
        assert refused.returncode in (69, 74) and "Traceback" not in refused.stderr
        report = json.loads(process.stdout.read())   # type: ignore[union-attr]
    (edge,) = report["edges"]
    assert (edge["decision"]["transport"], edge["decision"]["mode"]) == ("tcp", "remote")
    assert edge["metrics"]["received"] == 256 * 5000
    assert command("switch", "frames", "--to", "ring").returncode == 69


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CWASI, *words], capture_output=True, text=True, timeout=HANG)


def test_the_parent_is_killed(guests: Path, runtime_directory: Path) -> None:
    """Its host processes end with it, in the middle of a switch too; who asked is told."""
    line = [*CWASI, "run", "--mode", "proximal", "--connect", "frames:a/out:b/in",
            f"a={guests / 'source.wasm'} 1000000000 64", f"b={guests / 'sink.wasm'} 1000000000 64"]   # fmt: skip
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        children = eventually(workers)
        for number in range(20):
            switch_asked.ask("frames", ("pipe", "ring")[number % 2], HANG)
        os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(list(children.values()), HANG)
    assert not alive
    with pytest.raises((cwasi.NoSuchChannel, cwasi.PeerDied)):
        switch_asked.ask("frames", "pipe", 1.0)
