"""Further host processes: what they report, how they end, and that they never outlive who made them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from channels import HANG, by_age, held

import cwasi_fastpath as cwasi
from cwasi_fastpath.deployment import Options, run
from cwasi_fastpath.modes import Mode, Transport
from cwasi_fastpath.policy import Decision
from cwasi_fastpath.process import MESSAGE_BYTES, HostProcess, raise_error
from cwasi_fastpath.spanned import SpannedChannel
from cwasi_fastpath.supervision import run_all, supervise
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow

WAIT = Path(__file__).parent / "guests/wait.wat"
PROXIMAL = Decision(Mode.PROXIMAL, Transport.RING, "for the test")


def pair(guests: Path, count: int = 100, size: int = 1000, **second: object) -> Workflow:
    arguments = (str(count), str(size))
    return Workflow(
        (
            FunctionSpec("source", guests / "source.wasm", arguments),
            FunctionSpec("sink", guests / "sink.wasm", arguments, stdout=Path(os.devnull), **second),   # type: ignore[arg-type]
        ),
        (EdgeSpec("frames", "source", "sink", "out", "in"),),
    )


def waiting_pair() -> Workflow:
    """Two functions that wait for each other for ever."""
    return Workflow(
        (FunctionSpec("a", WAIT), FunctionSpec("b", WAIT)),
        (EdgeSpec("there", "a", "b", "out", "in"), EdgeSpec("back", "b", "a", "out", "in")),
    )


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert left == []


# ---- deployments ----


def test_one_process_where_nothing_keeps_functions_apart(guests: Path) -> None:
    report = run(pair(guests), Options())
    (edge,) = report.edges
    assert (report.processes, edge.decision.mode, edge.decision.transport) == (1, Mode.LOCAL, Transport.RING)
    assert (edge.metrics.sent, edge.metrics.received, edge.metrics.bytes) == (100, 100, 100_000)
    assert set(report.cpu_seconds) == {"source", "sink"} and report.seconds > 0


def test_a_process_each(guests: Path) -> None:
    report = run(pair(guests), Options(mode=Mode.PROXIMAL, sample=1))
    (edge,) = report.edges
    assert (report.processes, edge.decision.mode) == (2, Mode.PROXIMAL)
    assert (edge.metrics.sent, edge.metrics.received, edge.metrics.bytes) == (100, 100, 100_000)
    assert edge.metrics.p50_ns is not None and edge.metrics.p99_ns is not None
    assert set(report.cpu_seconds) == {"source", "sink"}


@pytest.mark.parametrize("transport", [Transport.RING, Transport.PIPE])
@pytest.mark.parametrize("size", [0, 100_000, 6_000_000])
def test_the_transport_that_was_asked_for(guests: Path, transport: Transport, size: int) -> None:
    (edge,) = run(pair(guests, 7, size), Options(mode=Mode.PROXIMAL, transport=transport)).edges
    assert edge.decision.transport is transport and edge.metrics.received == 7


def test_trust_domains_have_a_process_each_and_share_no_memory(guests: Path) -> None:
    report = run(pair(guests, trust="others"), Options())
    (edge,) = report.edges
    assert (report.processes, edge.decision.mode, edge.decision.transport) == (2, Mode.PROXIMAL, Transport.PIPE)
    assert any("ring" in line and "different trust domains" in line for line in edge.decision.alternatives)


def test_functions_of_one_domain_share_a_process(guests: Path) -> None:
    arguments = ("20", "1000")
    workflow = Workflow(
        (
            FunctionSpec("source", guests / "source.wasm", arguments),
            FunctionSpec("echo", guests / "echo.wasm"),
            FunctionSpec("sink", guests / "sink.wasm", arguments, stdout=Path(os.devnull), trust="others"),
        ),
        (EdgeSpec("one", "source", "echo", "out", "in"), EdgeSpec("two", "echo", "sink", "out", "in")),
    )
    report = run(workflow, Options())
    assert report.processes == 2
    assert [(edge.decision.mode, edge.decision.transport) for edge in report.edges] == [
        (Mode.LOCAL, Transport.RING),
        (Mode.PROXIMAL, Transport.PIPE),
    ]
    assert [edge.metrics.received for edge in report.edges] == [20, 20]


# ---- errors come out as they were ----


def test_the_cause_of_a_failure_is_named(guests: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for transport in (Transport.RING, Transport.PIPE):
        workflow = Workflow(
            (
                FunctionSpec("source", guests / "source.wasm", ("1000000", "1000")),
                FunctionSpec("echo", guests / "echo.wasm"),
                FunctionSpec("trap", guests / "trap.wasm"),
            ),
            (EdgeSpec("one", "source", "echo", "out", "in"), EdgeSpec("two", "echo", "trap", "out", "in")),
        )
        with pytest.raises(cwasi.GuestTrap, match="function trap trapped"):
            run(workflow, Options(mode=Mode.PROXIMAL, transport=transport))
    assert "Traceback" not in capfd.readouterr().err


def test_an_exit_status(guests: Path) -> None:
    functions = FunctionSpec("sink", guests / "sink.wasm"), FunctionSpec("w", guests / "writer.wasm", ("0",))
    workflow = Workflow(functions, ())
    with pytest.raises(cwasi.GuestExit, match="function sink ended with status 1") as caught:
        run(workflow, Options(mode=Mode.PROXIMAL))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_module_that_cannot_be_loaded(
    guests: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], first: bool
) -> None:
    """Its process says so, in one line, whatever it is told afterwards."""
    good, bad = guests / ("sink.wasm" if first else "source.wasm"), tmp_path / "missing.wasm"
    paths = (bad, good) if first else (good, bad)
    workflow = Workflow(
        (FunctionSpec("source", paths[0]), FunctionSpec("sink", paths[1])),
        (EdgeSpec("frames", "source", "sink", "out", "in"),),
    )
    with pytest.raises(cwasi.BadModule, match=r"missing\.wasm: No such file"):
        run(workflow, Options(mode=Mode.PROXIMAL))
    assert "Traceback" not in capfd.readouterr().err


def test_the_time_is_up(guests: Path) -> None:
    workflow = Workflow(
        (FunctionSpec("spin", guests / "spin.wasm"), FunctionSpec("w", guests / "writer.wasm", ("0",))), ()
    )
    with pytest.raises(cwasi.GuestTimeout, match="spin"):
        run(workflow, Options(mode=Mode.PROXIMAL, timeout=0.3))


def test_arguments_that_are_too_long(guests: Path) -> None:
    first, second = (FunctionSpec(name, guests / "writer.wasm", ("x" * MESSAGE_BYTES,)) for name in "wv")
    workflow = Workflow((first, second), ())
    with pytest.raises(cwasi.BadSpec, match=r"description of w has [\d,]+ bytes"):
        run(workflow, Options(mode=Mode.PROXIMAL))


def test_long_arguments(guests: Path) -> None:
    """The longest that still fits gets there whole."""
    first, second = (FunctionSpec(name, guests / "writer.wasm", ("0" * (MESSAGE_BYTES - 1000),)) for name in "wv")
    workflow = Workflow((first, second), ())
    run(workflow, Options(mode=Mode.PROXIMAL))


# ---- children that say what cannot be ----


@pytest.mark.parametrize("said", [b"{", b"[]", b"[" * 100_000, b"7"])
def test_a_process_that_speaks_nonsense(said: bytes, guests: Path) -> None:
    found = HostProcess([FunctionSpec("sink", guests / "sink.wasm")], None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with ours, theirs:
            real, found._socket = found._socket, ours
            theirs.send(said)
            with pytest.raises(cwasi.HostDied, match=r"of sink .* speaks nonsense"):
                found.receive()
            found._socket = real
    finally:
        found.close()


@pytest.mark.parametrize("error", [7, {}, {"type": "Error"}, {"type": 1, "message": "", "exit_code": 1}])
def test_a_failure_that_is_none(error: object) -> None:
    with pytest.raises(cwasi.Corrupted):
        raise_error({"error": error})


@pytest.mark.parametrize("kind", ["ValueError", "annotations", "Nothing", "Busy"])
def test_a_failure_that_is_one_of_ours_or_none(kind: str) -> None:
    told = {"type": kind, "message": "of my\x1b own", "exit_code": 1, "happened_ns": 7}
    with pytest.raises(cwasi.Error, match=r"^of my own$") as raised:
        raise_error({"error": told})
    assert type(raised.value).__name__ == ("Busy" if kind == "Busy" else "Error") and raised.value.happened_ns == 7


# ---- death ----


def host_processes(count: int) -> list[psutil.Process]:
    """Our host processes, once there are so many."""
    until = time.monotonic() + HANG
    while time.monotonic() < until:
        found = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                found += [child] if "cwasi_fastpath.worker" in " ".join(child.cmdline()) else []
        if len(found) == count:
            return by_age(found)
        time.sleep(0.01)
    raise AssertionError("they never started")


@pytest.mark.parametrize("transport", [Transport.RING, Transport.PIPE])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_process_that_is_killed(guests: Path, transport: Transport, victim: int, tmp_path: Path) -> None:
    """The error names its function and the signal; its neighbour ends too."""
    workflow = pair(guests, 1 << 30, 1000)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, workflow, Options(mode=Mode.PROXIMAL, transport=transport))
        processes = host_processes(2)
        time.sleep(0.5)   # in mid-stream
        processes[victim].kill()
        with pytest.raises(cwasi.HostDied) as caught:
            running.result(HANG)
    name = ("source", "sink")[victim]
    assert str(caught.value) == (
        f"the host process of {name} (pid {processes[victim].pid}) was killed by SIGKILL"
    )
    assert caught.value.exit_code == 137


def test_a_host_process_that_is_killed_while_all_wait() -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, waiting_pair(), Options(mode=Mode.PROXIMAL))
        processes = host_processes(2)
        time.sleep(0.5)
        processes[0].terminate()
        with pytest.raises(cwasi.HostDied, match=r"of a .* was killed by SIGTERM"):
            running.result(HANG)


def test_a_host_process_that_is_killed_before_it_runs(guests: Path) -> None:
    process = HostProcess([FunctionSpec("sink", guests / "sink.wasm")], None)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(cwasi.HostDied, match="was killed by SIGKILL"):
        process.await_ready()
    process.close()
    process.close()


def test_a_host_process_whose_connection_ends_goes_at_once(guests: Path) -> None:
    """Also in the middle of an endless loop."""
    process = HostProcess([FunctionSpec("spin", guests / "spin.wasm")], None)
    process.await_ready()
    process.run()
    child = psutil.Process(process.pid)
    time.sleep(0.2)
    process._socket.close()   # as the parent's death would
    assert child.wait(HANG) == 0
    process.close()


def test_processes_by_hand(guests: Path) -> None:
    source, sink = pair(guests).functions
    processes = [HostProcess([function], None) for function in (source, sink)]
    assert "host process" in repr(processes[0]) and "source" in repr(processes[0])
    channel = SpannedChannel("frames", {("source", "sink"): PROXIMAL}, (("source", "out"),), (("sink", "in"),))
    channel.connect({"source": processes[0], "sink": processes[1]}, None, 1, None)
    seconds, outcomes = supervise(processes, run_all(processes), None)
    for process in processes:
        process.close()
    assert seconds > 0
    (sent,), (received,) = outcomes[0].ends, outcomes[1].ends
    assert (sent.channel, sent.function, sent.sends) == ("frames", "source", True)
    assert (received.channel, received.function, received.sends) == ("frames", "sink", False)
    assert sent.metrics.messages == received.metrics.messages == 100
    assert sum(received.metrics.latency) == 100


def test_ctrl_c_ends_all_hosts() -> None:
    """Only the main thread gets it: so in a process of its own."""
    program = f"""
import os, psutil, signal, threading
from pathlib import Path
from cwasi_fastpath.deployment import Options, run
from cwasi_fastpath.modes import Mode
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow
wait = Path({str(WAIT)!r})
workflow = Workflow((FunctionSpec("a", wait), FunctionSpec("b", wait)),
                    (EdgeSpec("there", "a", "b", "out", "in"), EdgeSpec("back", "b", "a", "out", "in")))
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    run(workflow, Options(mode=Mode.PROXIMAL))
except KeyboardInterrupt:
    print("interrupted", psutil.Process().children())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG)
    assert (done.stdout, done.stderr) == ("interrupted []\n", "")


def test_threads_end_with_the_run(guests: Path) -> None:
    before = held()
    run(pair(guests), Options(mode=Mode.PROXIMAL))
    assert not held() - before
