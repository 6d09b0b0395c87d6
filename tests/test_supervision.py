"""Host processes are watched until each has ended, whatever they do, and are ended together."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import unruly_worker
from channels import HANG, Start, eventually
from test_process import PROXIMAL, WAIT, no_process_is_left

import cwasi_fastpath as cwasi
from cwasi_fastpath import process, supervision
from cwasi_fastpath.deployment import Options, run
from cwasi_fastpath.modes import Mode
from cwasi_fastpath.process import HostProcess
from cwasi_fastpath.spanned import SpannedChannel
from cwasi_fastpath.supervision import end_all, run_all, supervise
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow

__all__ = ["no_process_is_left"]


@pytest.fixture
def unruly(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What the host process of the function "unruly" does, and at which word of its parent's."""

    def does(what: str) -> None:
        monkeypatch.setattr(process, "WORKER", "unruly_worker")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        monkeypatch.setenv(unruly_worker.ENVIRONMENT, what)

    return does


def circle() -> Workflow:
    """Two functions that wait for each other for ever."""
    functions = (FunctionSpec("unruly", WAIT), FunctionSpec("other", WAIT))
    edges = (EdgeSpec("there", "unruly", "other", "out", "in"), EdgeSpec("back", "other", "unruly", "out", "in"))
    return Workflow(functions, edges)


@pytest.mark.parametrize("word", ["ready", "run"])
def test_a_process_dies_but_not_its_child(start: Start, unruly: Callable[[str], None], word: str) -> None:
    """Nobody hangs up."""
    unruly(f"{word}:dies, but not its child")
    running = start(run, circle(), Options(mode=Mode.PROXIMAL))
    with pytest.raises(cwasi.HostDied, match=r"of unruly \(pid \d+\) was killed by SIGKILL"):
        running.result(HANG)


def test_the_time_is_up_for_who_never_ceases_to_speak(
    start: Start, guests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = HostProcess([FunctionSpec("talker", guests / "sink.wasm")], None)
    talker._send({"ready": True})
    assert select.select([talker.descriptors[0]], (), (), HANG)[0]   # what stays there, as if more always came
    monkeypatch.setattr(HostProcess, "said", lambda self: {"answer": 0})
    monkeypatch.setattr(supervision, "GRACE_SECONDS", 0.0)
    try:
        running = start(supervise, [talker], time.monotonic(), 0.0)
        with pytest.raises(cwasi.GuestTimeout, match="still running when the time was up: talker"):
            running.result(HANG)
    finally:
        talker.close()


@pytest.mark.parametrize("does", ["says nothing", "hangs up"])
def test_nobody_waits_for_the_end_of_who_has_hung_up(
    start: Start, unruly: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    """Those to which it was connected learn that it is gone, and what they say is heard."""
    unruly(f"run:{does}")
    for module in (process, supervision):
        monkeypatch.setattr(module, "GRACE_SECONDS", 2 * HANG)
    heard, outcome = [], HostProcess.outcome
    monkeypatch.setattr(HostProcess, "outcome", lambda self, told: (heard.append(self), outcome(self, told))[1])
    workflow = circle()
    processes = {function.name: HostProcess([function], None) for function in workflow.functions}
    one, other = processes.values()
    try:
        for edge in workflow.edges:
            ends = ((edge.sender, edge.sender_port),), ((edge.receiver, edge.receiver_port),)
            channel = SpannedChannel(edge.channel, {(edge.sender, edge.receiver): PROXIMAL}, *ends)
            channel.connect(processes, None, 1, None)
        running = start(supervise, [one, other], run_all([one, other]), None)
        eventually(lambda: heard == [other])
        assert one._child.returncode is None and not running.done()
        one._child.kill()
        with pytest.raises(cwasi.HostDied, match=r"of unruly \(pid \d+\) was killed by SIGKILL"):
            running.result(HANG)
    finally:
        one._child.kill()
        end_all(list(processes.values()))


def test_all_are_ended_together(start: Start, guests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for one that is stopped."""
    monkeypatch.setattr(supervision, "GRACE_SECONDS", 2 * HANG)
    stopped, other = (HostProcess([FunctionSpec(name, guests / "sink.wasm")], None) for name in ("stopped", "other"))
    for one in (stopped, other):
        one.await_ready()
    os.kill(stopped.pid, signal.SIGSTOP)
    ending = start(end_all, [stopped, other])
    try:
        eventually(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
        assert not ending.done()
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    ending.result(HANG)
    assert (stopped._child.returncode, other._child.returncode) == (0, 0)


def test_those_that_do_not_go_are_waited_for_together(guests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    wait = subprocess.Popen.wait

    def noted(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waited.extend([] if timeout is None else [timeout])
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", noted)
    monkeypatch.setattr(supervision, "GRACE_SECONDS", 0.5)
    stopped = [HostProcess([FunctionSpec(name, guests / "sink.wasm")], None) for name in ("a", "b", "c")]
    for one in stopped:
        os.kill(one.pid, signal.SIGSTOP)
    end_all(stopped)
    assert [one._child.returncode for one in stopped] == [-signal.SIGKILL] * 3
    assert len(waited) == 3 and sum(waited) <= 0.5
