"""What cwasi-trace may do: all that its caller may while it attaches, next to nothing after; and not as root alone."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tracing import HOST

from cwasi_fastpath.tracer import requirements

TRACE = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
NOBODY = 65534
CAP_DAC_OVERRIDE, CAP_KILL, CAP_BPF = 1 << 1, 1 << 5, 1 << 39
NAMED = "-all,+bpf,+perfmon"
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
WITH_BOTH = [*AS_NOBODY, f"--inh-caps={NAMED}", f"--ambient-caps={NAMED}"]
WAITS_FOR_US = "read line && exec "
ONE_FUNCTION = HOST + 'enter(ask({"function": "works"})["id"]); write(1009); enter(0); write(23)'
REAL_HOST = """
import os, sys
import cwasi_fastpath as cwasi

null = os.open("/dev/null", os.O_WRONLY)

def write(times):
    for _ in range(times):
        os.write(null, b"x")

with cwasi.function("before"):
    print("ready", flush=True)
sys.stdin.readline()
with cwasi.function("works"):
    write(1009)
"""


@pytest.fixture(scope="module", autouse=True)
def needs_tracing() -> None:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")


@pytest.fixture(scope="module")
def nobody() -> list[str]:
    """What makes a command another user's, with the two capabilities; tried, since it must be able to read the code."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("becoming another user takes root and setpriv")
    tried = subprocess.run([*WITH_BOTH, sys.executable, "-c", "import cwasi_fastpath"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"uid {NOBODY} cannot run it here: {tried.stderr}")
    return WITH_BOTH


def status(path: Path, *names: str) -> dict[str, str]:
    """Of a thread; one that has ended meanwhile can do nothing."""
    try:
        text = path.read_text()
    except OSError:
        return {name: "1" if name == "NoNewPrivs" else "0" for name in names}
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return {name: lines[name] for name in names}


def capabilities(path: Path) -> set[int]:
    """All sets of a thread that say what it may do, or may come to."""
    return {int(bits, 16) for bits in status(path, "CapInh", "CapPrm", "CapEff", "CapAmb").values()}


@contextmanager
def settled(argv: list[str], before: tuple[str, ...] = (), **kwargs: Any) -> Iterator[subprocess.Popen[str]]:
    """cwasi-trace, when all its threads have given up what they do not need: last, that an exec gives them new ones."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*before, *TRACE, *argv], text=True, **pipes, **kwargs) as process:
        try:
            deadline = time.monotonic() + 240
            while any(status(thread, "NoNewPrivs")["NoNewPrivs"] != "1" for thread in threads(process.pid).values()):
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def threads(pid: int) -> dict[str, Path]:
    return {thread.name: thread / "status" for thread in Path(f"/proc/{pid}/task").iterdir()}


def test_root_keeps_next_to_nothing() -> None:
    """A host that comes later has its functions told apart all the same."""
    if os.geteuid() != 0:
        pytest.skip("root's capabilities take root")
    command = [*("--json", "--openmetrics=:0", "--"), "sh", "-c", WAITS_FOR_US + '"$@"', "sh"]
    with settled([*command, sys.executable, "-c", ONE_FUNCTION]) as tracer:
        kept = [max(capabilities(thread)) for thread in threads(tracer.pid).values()]
        assert sorted(kept) == [0, 0, CAP_BPF, CAP_BPF | CAP_KILL], "its port's, its rubbish's, its socket's, its own"
        stdout, stderr = tracer.communicate("go\n", timeout=240)
    assert tracer.returncode == 0, stderr
    report = json.loads(stdout)
    assert writes(report) == {"works": 1009, None: 23}
    assert report["tracer"]["capabilities"] == ["CAP_KILL", "CAP_BPF"]


def writes(report: dict[str, Any]) -> dict[str | None, int]:
    """By function; of processes all together, without what the shell and Python print themselves."""
    counted: dict[str | None, int] = {}
    for row in report["rows"]:
        if row["syscall"] == "write" and row["count"]:
            counted[row["function"]] = counted.get(row["function"], 0) + row["count"]
    return counted


SHOW = ["grep", "-E", "^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)", "/proc/self/status"]


@pytest.mark.parametrize("who", ["as we are", "nobody"])
def test_the_command_has_what_its_caller_had(who: str, request: pytest.FixtureRequest) -> None:
    before: list[str] = [] if who == "as we are" else request.getfixturevalue("nobody")
    alone = subprocess.run([*before, *SHOW], capture_output=True, text=True, timeout=60)
    done = subprocess.run([*before, *TRACE, "--", *SHOW], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert alone.stdout and done.stderr == alone.stdout


def test_another_user_with_the_two_capabilities_can_trace(nobody: list[str]) -> None:
    """And hosts of that user tell it their functions; it keeps one of the two."""
    command = ["--json", "--", "sh", "-c", WAITS_FOR_US + '"$@"', "sh", sys.executable, "-c", ONE_FUNCTION]
    with settled(command, before=tuple(nobody)) as tracer:
        kept = [max(capabilities(thread)) for thread in threads(tracer.pid).values()]
        assert sorted(kept) == [0, CAP_BPF, CAP_BPF], "its rubbish's, its socket's, its own"
        stdout, stderr = tracer.communicate("go\n", timeout=240)
    assert tracer.returncode == 0, stderr
    assert writes(json.loads(stdout)) == {"works": 1009, None: 23}


@contextmanager
def real_host(before: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that runs before its tracer comes, and waits for a line then."""
    argv = [*before, sys.executable, "-c", REAL_HOST]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None and host.stdout.readline() == "ready\n"
            yield host
        finally:
            host.kill()


def traced_late(host: subprocess.Popen[str], before: list[str]) -> dict[str, Any]:
    with settled(["--json", "-p", str(host.pid)], before=tuple(before)) as tracer:
        host.communicate("go\n", timeout=240)
        stdout, stderr = tracer.communicate(timeout=240)
    assert tracer.returncode == 0, stderr
    report: dict[str, Any] = json.loads(stdout)
    return report


def test_a_host_that_runs_already_tells_its_own_user(nobody: list[str]) -> None:
    with real_host(AS_NOBODY) as host:
        report = traced_late(host, nobody)
    assert writes(report) == {"works": 1009}
    assert report["tracer"]["capabilities"] == ["CAP_BPF"]


def test_a_host_that_runs_already_tells_root_which_cannot_look_into_it_any_more(nobody: list[str]) -> None:
    with real_host(AS_NOBODY) as host:
        report = traced_late(host, [])
    assert writes(report) == {"works": 1009}
    assert report["tracer"]["capabilities"] == ["CAP_BPF"], "no command, so nobody to pass a signal on to"


def test_hosts_of_others_are_counted_by_process_and_the_report_says_so(nobody: list[str]) -> None:
    with real_host([]) as host:
        report = traced_late(host, nobody)
    assert writes(report) == {None: 1009}
    (lack,) = [lack for lack in report["missing"] if "uid 0" in lack["name"]]
    assert f"uid {NOBODY}" in lack["reason"] and "root" in lack["remedy"]


def test_what_is_kept_up_to_date_goes_on_without_privileges(nobody: list[str], tmp_path: Path) -> None:
    """A directory of somebody else, which root may not write to without a capability: that one is kept, then."""
    others = tmp_path / "others"
    others.mkdir(mode=0o755)
    os.chown(others, NOBODY, NOBODY)
    page, recording = others / "it.prom", others / "it.jsonl"
    command = ["--record", str(recording), f"--openmetrics={page}", "-i", "0.1", "--", "sh", "-c", WAITS_FOR_US + "cat"]
    with settled(command) as tracer:
        kept = max(capabilities(Path(f"/proc/{tracer.pid}/status")))
        assert kept == CAP_DAC_OVERRIDE | CAP_KILL | CAP_BPF
        first = page.stat().st_ino
        deadline = time.monotonic() + 240
        while page.stat().st_ino == first:
            assert time.monotonic() < deadline and tracer.poll() is None
            time.sleep(0.01)
        _, stderr = tracer.communicate("go\n", timeout=240)
    assert tracer.returncode == 0, stderr
    assert json.loads(recording.read_text().splitlines()[-1])["status"] == 0


def test_signals_reach_a_command_that_has_become_another_users(nobody: list[str]) -> None:
    waits = "print('ready', flush=True); import signal; signal.pause()"
    with settled(["--json", "--", *AS_NOBODY, sys.executable, "-c", waits]) as tracer:
        assert tracer.stderr is not None
        assert select.select([tracer.stderr], [], [], 240)[0] and tracer.stderr.readline() == "ready\n"
        tracer.terminate()
        stdout, _ = tracer.communicate(timeout=240)
    assert (tracer.returncode, json.loads(stdout)["status"]) == (143, 143)
