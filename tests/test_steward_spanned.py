"""The policy of a run in several host processes: who has started them asks it while they run, whatever they do."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import lying_worker
import psutil
import pytest
from channels import HANG, Start, eventually, is_of
from test_steward import PIPE, REDIS, RING, TCP, Answer, Told, in_turn, stewards
from test_switch_spanned import asked, workers

import cwasi_fastpath as cwasi
from cwasi_fastpath import census, deployment, doings, explanation_asked, process, runtime, switch_asked, switch_spanned
from cwasi_fastpath.attribution import NO_TRACER
from cwasi_fastpath.deployment import Options, RunReport, run
from cwasi_fastpath.explanation import WhatIf
from cwasi_fastpath.kept import Steered
from cwasi_fastpath.metrics import Observation, sane
from cwasi_fastpath.modes import Locality, Mode, Transport
from cwasi_fastpath.neighbour import neighbours
from cwasi_fastpath.observing import Counts
from cwasi_fastpath.parent import Parent
from cwasi_fastpath.policy import CostPolicy, Costs, Decision, Request
from cwasi_fastpath.policy.costs import Curve
from cwasi_fastpath.process import HostProcess
from cwasi_fastpath.redis_server import RedisServer
from cwasi_fastpath.tally import STALE_SECONDS, Tally
from cwasi_fastpath.thread_watch import Ran
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow

SIZE = 3000
PROXIMAL, REMOTE = str(int(Mode.PROXIMAL)), str(int(Mode.REMOTE))


class OnPipes(Told):
    """Begins with them."""

    def decide(self, request: Request) -> Decision:
        return Decision.for_way(request, request.current or PIPE, "told")


@pytest.fixture(autouse=True)
def nothing_stays(runtime_directory: Path) -> Iterator[None]:
    before = psutil.Process().num_fds()
    yield
    assert not stewards()
    eventually(lambda: psutil.Process().num_fds() <= before)
    runtime.sweep(runtime_directory)   # of those that were killed
    assert not list(runtime_directory.iterdir())


@pytest.fixture(autouse=True)
def none_goes_on(start: Start) -> Iterator[None]:
    """A test that fails would wait for its run, which may have no end."""
    yield
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "worker" in " ".join(child.cmdline()):
                child.kill()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer for a switch than a steward allows, who tries again later and later then."""
    monkeypatch.setattr("cwasi_fastpath.steward._SWITCH_SECONDS", HANG)


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], OnPipes]:
    """Has runs ask a policy that answers so."""

    def made(answer: Answer) -> OnPipes:
        policy = OnPipes(answer)
        monkeypatch.setattr(deployment, "CostPolicy", lambda costs: policy)
        return policy

    return made


def swelling(guests: Path, output: Path, *steps: str, name: str = "frames", **to: str) -> Workflow:
    """From one trust domain to another: messages of a size, until the channel has a mode, and so on."""
    (sender, receiver), *_ = to.items() or [("a", "b")]
    functions = (
        FunctionSpec(sender, guests / "swell.wasm", steps, trust=sender),
        FunctionSpec(receiver, guests / "swell.wasm", stdout=output, trust=receiver),
    )
    return Workflow(functions, (EdgeSpec(name, sender, receiver, "out", "in"),))


def both(one: Workflow, other: Workflow) -> Workflow:
    return Workflow(one.functions + other.functions, one.edges + other.edges)


def all_came(report: RunReport, output: Path) -> bool:
    (edge,) = report.edges
    return edge.metrics.sent == edge.metrics.received > 0 and output.read_text() == (
        f"swell: {edge.metrics.received} messages ok\n"
    )


def explained(channel: str = "frames", **wish: str) -> explanation_asked.Told:
    (told,) = explanation_asked.ask(channel, WhatIf(**wish))
    return told


def text_of(channel: str) -> str:
    """How it is explained; nothing where a process of it is too busy to be found."""
    with suppress(cwasi.Error):
        return explained(channel).text
    return ""


def of_size(policy: Told, size: int) -> list[Request]:
    """What it was asked of the channel with such messages."""
    return [one for one in list(policy.asked) if one.observation is not None and is_of(size, one.observation)]


def fake_costs() -> Costs:
    """Pipes are for up to 1 KiB, tcp is for more, however fast this machine is."""

    def curve(small: float, large: float) -> Curve:
        return Curve((64.0, 1024.0, 1048576.0), (small, large, large), (small, large, large))

    curves = {PIPE: curve(1e2, 1e6), TCP: curve(1e6, 1e3)}
    return Costs(100.0, 0.05, 50.0, 5000.0, 1000.0, 0.1, curves=curves, switch={way.transport: 1.0 for way in curves})


def test_messages_grow(guests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes from tcp to a pipe for the small ones, and back for the large ones."""
    monkeypatch.setattr(deployment.calibration, "costs", lambda redis: fake_costs())
    output = tmp_path / "said"
    report = run(swelling(guests, output, "64", PROXIMAL, "1048576", REMOTE), Options())
    assert all_came(report, output)
    (edge,) = report.edges
    assert edge.decision.transport is Transport.TCP and edge.decision.mode is Mode.REMOTE and edge.changes == 2
    assert "cheaper than pipe" in edge.decision.reason and "1024.0 KiB seen" in edge.decision.reason
    assert any("ring" in line and "different trust domains" in line for line in edge.decision.alternatives)
    assert report.as_dict()["edges"][0]["changes"] == 2   # type: ignore[index]


@pytest.mark.usefixtures("patient")
def test_what_the_policy_is_told(
    guests: Path, tmp_path: Path, asks: Callable[[Answer], OnPipes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    policy, output = asks(in_turn(PIPE, TCP)), tmp_path / "said"
    steps = [word for mode in (REMOTE, PROXIMAL, REMOTE) for word in (str(SIZE), mode)]
    report = run(swelling(guests, output, *steps), Options(sample=1))
    assert all_came(report, output) and report.edges[0].changes == 3
    assert {request.current for request in policy.asked} == {PIPE, TCP}
    seen = [request.observation for request in policy.asked]
    assert all(one is not None and one == sane(one) for one in seen)
    told = [one for one in seen if one is not None]
    assert all(is_of(SIZE, one) and one.rate and one.seconds for one in told)
    assert 0 < sum(one.messages for one in told) <= report.edges[0].metrics.sent
    for request in policy.asked:
        assert request.facts.locality is Locality.NODE and not request.facts.same_trust and not request.pinned
        assert request.lacked == (NO_TRACER,)
    words = [record.getMessage() for record in caplog.records if record.name == "cwasi_fastpath.steward"]
    assert "channel 'frames' goes by tcp now: the policy chose it" in words


@pytest.mark.usefixtures("patient")
def test_who_waits_for_a_core(guests: Path, tmp_path: Path, start: Start, asks: Callable[[Answer], OnPipes]) -> None:
    """Beside a busy neighbour, on the only core that they have."""
    policy, core = asks(lambda request: request.current), max(os.sched_getaffinity(0))
    running = start(run, swelling(guests, tmp_path / "said", str(SIZE), REMOTE), Options())
    for worker in eventually(workers).values():
        for thread in worker.threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {core})

    def waited() -> list[Observation]:
        seen = [request.observation for request in list(policy.asked) if request.observation is not None]
        return [one for one in seen if (one.contention or 0.0) > 0.25]

    with neighbours([core]):
        eventually(waited)
    assert all(one.cpu_ns and one.others is None for one in waited())
    policy.answer = lambda request: TCP
    assert all_came(running.result(HANG), tmp_path / "said")   # type: ignore[arg-type]


@pytest.mark.usefixtures("patient")
def test_by_a_server(
    guests: Path, tmp_path: Path, asks: Callable[[Answer], OnPipes], redis_server: RedisServer
) -> None:
    asks(in_turn(PIPE, REDIS))
    steps = [word for mode in (REMOTE, PROXIMAL, REMOTE) for word in (str(SIZE), mode)]
    report = run(swelling(guests, tmp_path / "said", *steps), Options(redis=redis_server.url))
    assert all_came(report, tmp_path / "said") and report.edges[0].decision.transport is Transport.REDIS


def test_it_is_explained(guests: Path, tmp_path: Path, start: Start, asks: Callable[[Answer], OnPipes]) -> None:
    policy = asks(lambda request: request.current)
    running = start(run, swelling(guests, tmp_path / "said", str(SIZE), REMOTE), Options(sample=1))
    eventually(workers)
    eventually(lambda: "  seen " in text_of("frames"))
    command = [sys.executable, "-m", "cwasi_fastpath.cli", "explain", "frames", "--json", "--if-size", "10x"]
    shell = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True)
    (told,) = json.loads(shell.stdout)["told"]
    assert told["pid"] == os.getpid() and told["explanation"]["way"] == "pipe"
    assert is_of(SIZE, Observation(**told["explanation"]["observation"]))
    assert told["what_if"]["if"] == {"size": "10x"}
    ways = {way["way"]: way for way in told["explanation"]["alternatives"]}
    assert "different trust domains" in ways["ring"]["ruled_out"] and ways["tcp"]["ruled_out"] is None
    with pytest.raises(cwasi.BadSpec, match="size 'large'"):
        explained(size="large")
    policy.answer = lambda request: TCP
    assert all_came(running.result(HANG), tmp_path / "said")   # type: ignore[arg-type]
    with pytest.raises(cwasi.NoSuchChannel):
        explained()


def test_a_switch_by_hand_is_the_last_word(
    guests: Path, tmp_path: Path, start: Start, asks: Callable[[Answer], OnPipes]
) -> None:
    policy = asks(lambda request: request.current)
    running = start(run, swelling(guests, tmp_path / "said", str(SIZE), REMOTE), Options())
    eventually(lambda: policy.asked)
    switch_asked.ask("frames", "pipe", HANG)
    policy.answer, asked = lambda request: TCP, len(policy.asked)
    eventually(lambda: len(policy.asked) > asked + 3)
    assert {(one.pinned, one.current) for one in policy.asked[asked + 1 :]} == {(True, PIPE)}
    assert "  pinned: a switch was asked for" in explained().text
    switch_asked.ask("frames", "tcp", HANG)
    report: RunReport = running.result(HANG)   # type: ignore[assignment]
    assert all_came(report, tmp_path / "said")
    assert report.edges[0].decision.reason == "a switch was asked for" and report.edges[0].changes == 0


def test_a_transport_that_was_asked_for_stays(
    guests: Path, tmp_path: Path, start: Start, asks: Callable[[Answer], OnPipes]
) -> None:
    policy = asks(lambda request: TCP)
    running = start(run, swelling(guests, tmp_path / "said", str(SIZE), REMOTE), Options(transport=Transport.PIPE))
    eventually(lambda: len(policy.asked) > 3)
    assert {(one.pinned, one.current) for one in policy.asked} == {(True, PIPE)}
    assert "  pinned: pipe was asked for" in explained().text
    switch_asked.ask("frames", "tcp", HANG)
    assert all_came(running.result(HANG), tmp_path / "said")   # type: ignore[arg-type]


def test_a_mode_that_was_asked_for_stays(
    guests: Path, tmp_path: Path, start: Start, asks: Callable[[Answer], OnPipes]
) -> None:
    policy = asks(lambda request: RING if request.current == PIPE else TCP)
    workflow = swelling(guests, tmp_path / "said", str(SIZE), REMOTE)
    functions = tuple(FunctionSpec(one.name, one.path, one.arguments, stdout=one.stdout) for one in workflow.functions)
    running = start(run, Workflow(functions, workflow.edges), Options(mode=Mode.PROXIMAL))
    words = "  held: the policy failed, and ring is held: ValueError: it chose tcp, which cannot be: proximal was asked"
    eventually(lambda: policy.asked and policy.asked[-1].current == RING)
    eventually(lambda: words in text_of("frames"))
    switch_asked.ask("frames", "tcp", HANG)
    assert all_came(running.result(HANG), tmp_path / "said")   # type: ignore[arg-type]


# ---- all of a channel, or nothing ----


def several(guests: Path, senders: str, receivers: str) -> Workflow:
    """Without an end."""
    rounds = 1 << 22
    functions = [
        FunctionSpec(name, guests / "source.wasm", (str(256 * rounds), str(SIZE)), trust=name) for name in senders
    ]
    merged = ("256", str(SIZE), str(len(senders) * rounds), "in")
    functions += [FunctionSpec(name, guests / "merge.wasm", merged, trust=name) for name in receivers]
    edges = [EdgeSpec("frames", sender, receiver, "out", "in") for sender in senders for receiver in receivers]
    return Workflow(tuple(functions), tuple(edges))


def ends_by_force(running: Future[object], capfd: pytest.CaptureFixture[str]) -> None:
    """Its processes are killed; no guest had anything to complain about but that."""
    found = list(eventually(workers).values())
    for one in found:   # or who is killed last would complain of the death of the first
        one.suspend()
    eventually(lambda: all(one.status() == psutil.STATUS_STOPPED for one in found))
    for one in found:
        with suppress(psutil.NoSuchProcess):   # who has started it has put an end to it, too
            one.kill()
    with pytest.raises(cwasi.HostDied, match="SIGKILL"):
        running.result(HANG)
    said = capfd.readouterr().err
    assert "a message" not in said and "a byte" not in said and f"not {SIZE}" not in said, said


def carriers() -> set[str | None]:
    """As the processes of all ends say; nothing where one has no time to."""
    ends, failures = census.census()
    return set() if failures else {end.transport for end in ends}


@pytest.mark.parametrize(("senders", "receivers"), [("ab", "c"), ("a", "bc")])
def test_several_go_together(
    guests: Path, start: Start, senders: str, receivers: str, asks: Callable[[Answer], OnPipes],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    policy = asks(in_turn(PIPE, TCP))
    running = start(run, several(guests, senders, receivers), Options())
    eventually(lambda: sum(request.current == TCP for request in policy.asked) > 1 and policy.asked[-1].current == PIPE)
    policy.answer = lambda request: request.current
    eventually(lambda: len(carriers()) == 1)
    assert {request.receivers for request in policy.asked} == {len(receivers)}
    ends_by_force(running, capfd)


def test_several_to_several_do_not_go_where_messages_are_too_long(
    guests: Path, start: Start, asks: Callable[[Answer], OnPipes], capfd: pytest.CaptureFixture[str]
) -> None:
    asks(in_turn(PIPE, TCP))
    running = start(run, several(guests, "ab", "cd"), Options())
    eventually(workers)
    eventually(lambda: "it chose pipe, which cannot be: messages of several senders" in text_of("frames"))
    assert carriers() <= {"tcp"}
    ends_by_force(running, capfd)


def test_where_one_cannot_go_the_others_come_back(
    guests: Path, start: Start, asks: Callable[[Answer], OnPipes], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = switch_spanned.link_to

    def link_to(target: str, *, key: str, **more: Any) -> Any:
        if target == "tcp" and "b" in key:
            raise OSError(24, "Too many open files")
        return real(target, key=key, **more)

    monkeypatch.setattr(switch_spanned, "link_to", link_to)
    asks(lambda request: TCP)
    running = start(run, several(guests, "ab", "c"), Options())
    eventually(workers)
    words = re.compile(r"a change to tcp failed, and pipe is held: .*Too many open files")
    eventually(lambda: words.search(text_of("frames")))
    eventually(lambda: carriers() == {"pipe"})
    ends_by_force(running, capfd)


def test_questions_and_answers(
    guests: Path, start: Start, asks: Callable[[Answer], OnPipes], capfd: pytest.CaptureFixture[str]
) -> None:
    asks(in_turn(PIPE, TCP))
    functions = (
        FunctionSpec("ask", guests / "ask.wasm", ("2000000000", "what"), trust="one"),
        FunctionSpec("answer", guests / "answer.wasm", trust="other"),
    )
    edges = (EdgeSpec("questions", "ask", "answer", None, None, True),)
    running = start(run, Workflow(functions, edges), Options())
    eventually(workers)
    for channel in ("questions", "questions.answers.ask"):
        eventually(lambda channel=channel: re.search(r"  changed ([2-9]|\d\d)", text_of(channel)))   # type: ignore[misc]
    ends_by_force(running, capfd)


# ---- processes that die, hang and lie ----


@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_process_is_killed_when_it_is_to_change(
    guests: Path, tmp_path: Path, start: Start, victim: str, asks: Callable[[Answer], OnPipes]
) -> None:
    """The run ends with its death, and nobody hangs."""

    def kill(request: Request) -> Any:
        workers_now[victim].kill()
        return TCP

    policy = asks(lambda request: request.current)
    running = start(run, swelling(guests, tmp_path / "said", str(SIZE), "9"), Options())
    workers_now = eventually(workers)
    policy.answer = kill
    with pytest.raises(cwasi.HostDied, match="SIGKILL"):
        running.result(HANG)


@pytest.mark.usefixtures("patient")
def test_the_functions_end_in_the_middle_of_a_change(
    guests: Path, tmp_path: Path, asks: Callable[[Answer], OnPipes], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """That is no failure of anything: nobody is warned."""
    caplog.set_level("INFO")
    asks(in_turn(PIPE, TCP))
    ended: list[HostProcess] = []
    change, deaf = Parent.change, HostProcess.deaf

    def noted(self: HostProcess) -> None:
        deaf(self)
        ended.append(self)

    def too_late(self: Parent, channel: Steered, decision: Decision, timeout: float) -> None:
        change(self, channel, decision, timeout)
        eventually(lambda: len(ended) == 2)   # they wanted no more than that
        change(self, channel, Decision(Mode.PROXIMAL, Transport.PIPE, "for the test", ()), timeout)

    monkeypatch.setattr(HostProcess, "deaf", noted)
    monkeypatch.setattr(Parent, "change", too_late)
    report = run(swelling(guests, tmp_path / "said", str(SIZE), REMOTE), Options())
    assert all_came(report, tmp_path / "said")
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "frames" in record.getMessage()]
    assert len(said) == 1 and said[0][0] == "INFO" and "does not run its functions yet, or no more" in said[0][1]


@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_process_that_hangs_keeps_no_other_channel(
    guests: Path, tmp_path: Path, start: Start, victim: str, asks: Callable[[Answer], OnPipes]
) -> None:
    """It is stopped when it is to change; when it goes on, so does its channel, and nothing is lost."""
    said, hanging = tmp_path / "said", []

    def answer(request: Request) -> Any:
        if request.observation is None or not is_of(SIZE, request.observation):
            return other(request)
        met = sum(one.observation.messages for one in of_size(policy, SIZE) if one.observation is not None)
        if processes and met > 3000 and not hanging:   # enough for a change
            hanging.append(processes[victim])
            hanging[0].suspend()
        return TCP if hanging else PIPE

    processes: dict[str, psutil.Process] = {}
    other, policy = in_turn(PIPE, TCP), asks(answer)
    mine = swelling(guests, said, str(SIZE), REMOTE)
    others = swelling(guests, tmp_path / "others", str(SIZE // 2), "9", name="others", c="d")
    running = start(run, both(mine, others), Options())
    processes.update(eventually(lambda: found if len(found := workers()) == 4 else {}))
    (switcher,) = {end.switcher for end in census.census()[0]}
    eventually(lambda: hanging)
    try:
        eventually(lambda: "a change to tcp failed, and pipe is held" in text_of("frames"))
        with pytest.raises(cwasi.Timeout):
            asked(switcher, "tcp", 0.1)
        count = len(policy.asked)
        eventually(lambda: {one.current for one in of_size(policy, SIZE // 2) if one in policy.asked[count:]} > {TCP})
    finally:
        hanging[0].resume()
    eventually(lambda: said.exists() and "messages ok" in said.read_text())
    processes["d"].kill()
    with pytest.raises(cwasi.HostDied, match=r"of d .*SIGKILL"):
        running.result(HANG)


@pytest.mark.parametrize("lie", ["garbage", "too long", "back", "most", "deeds", "silence"])
def test_a_process_that_lies_about_its_ends(
    guests: Path, tmp_path: Path, start: Start, asks: Callable[[Answer], OnPipes], monkeypatch: pytest.MonkeyPatch,
    lie: str, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What it says changes nothing but its own channel: no other one, not the run, and not what the channel carries."""
    monkeypatch.setattr(process, "WORKER", "lying_worker")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv(lying_worker.ENVIRONMENT, lie)
    policy, honest = asks(in_turn(PIPE, TCP)), tmp_path / "honest"
    lies = swelling(guests, tmp_path / "said", "64", "9", name="lies")
    steps = [word for mode in (REMOTE, PROXIMAL, REMOTE) for word in (str(SIZE), mode)]
    running = start(run, both(lies, swelling(guests, honest, *steps, name="honest", c="d")), Options())
    eventually(lambda: honest.exists() and "messages ok" in honest.read_text())
    if lie in ("garbage", "too long"):
        eventually(lambda: "  held: host process " in text_of("lies"))
    assert len(of_size(policy, SIZE)) > 2
    for request in list(policy.asked):
        CostPolicy(fake_costs()).step(request)
    ends_by_force(running, capfd)


def test_a_tally_that_is_not_told() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        tally = Tally(ours, "it", ["f", "g"])
        tally.joined("f")
        assert tally.latest(1.0) is None and tally.lack(1.0 + STALE_SECONDS) == ""
        assert tally.latest(2.0) is None and theirs.recv(9) == b"?", "it is asked once"
        assert tally.lack(2.0 + STALE_SECONDS) == "it has not told for 6 s what its ends have counted"
        theirs.send(bytes(48 + 2 * doings.ROW_BYTES))
        assert tally.latest(2.0) is None, "it was looked at"
        told = tally.latest(3.0)
        assert told is not None and told.at == 2.0 and told.counts[0] == Counts() and tally.lack(99.0) == (
            "it has not told for 96 s what its ends have counted"
        )
        assert told.did.keys() == {"f", "g"} and told.did["g"].thread == Ran(0, 0)
        theirs.send(b"\xff" * (48 + 2 * doings.ROW_BYTES))
        again = tally.latest(4.0)
        assert again is not None and list(again.counts) == [None] and again.at == 3.0
        assert again.did["f"].thread is again.did["f"].told is None
        theirs.send(b"?")
        assert tally.latest(5.0) is None and tally.latest(6.0) is None
        assert tally.lack(6.0) == "it has told what cannot be of its ends, and is not asked any more"
        tally.close()
        tally.close()
        assert tally.latest(7.0) is None
