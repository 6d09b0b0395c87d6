"""Switches are counted as the kernel counts them, and charged to the function that left the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracing import attached, owner_name, traced, traced_host

from cwasi_fastpath.trace_report import SchedulingRow, TraceReport
from cwasi_fastpath.tracer import Tracer

# A function of its own for each attempt, with what the kernel says before and after its begin and its end: switches of
# both kinds, and how long it waited for a CPU (0 on a kernel without schedstat). Where nothing happened between the two
# looks at a border, both count the same; the caller repeats until then.
AROUND = """
import json, time

def status():
    with open(f"/proc/self/task/{threading.get_native_id()}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        delay = int(file.read().split()[1])
    return int(fields["voluntary_ctxt_switches"]), int(fields["nonvoluntary_ctxt_switches"]), delay

def around(name, work, attempts=100):
    seen = {}
    for attempt in range(attempts):
        function = f"{name}-{attempt}"
        number = ask({"function": function})["id"]
        looks = [status()]
        enter(number)
        looks.append(status())
        work()
        looks.append(status())
        enter(0)
        looks.append(status())
        seen[function] = looks
        if looks[0] == looks[1] and looks[2] == looks[3]:
            break
    return seen

def tell(path, seen):
    with open(path, "w") as file:
        json.dump(seen, file)
"""


@pytest.fixture(scope="module", params=[False, True], ids=["full", "light"])
def tracer(request: pytest.FixtureRequest) -> Iterator[Tracer]:
    with attached(light=request.param) as tracer:
        lacking = tracer.snapshot().missing
        assert not any(lack.remedy.startswith("report it") for lack in lacking), lacking
        if any(lack.name == "scheduling" for lack in lacking):
            pytest.skip(f"scheduling cannot be traced here: {lacking}")
        yield tracer


def scheduling(report: TraceReport, owner: str) -> SchedulingRow:
    (row,) = [row for row in report.scheduling if owner_name(row.owner) == owner]
    return row


def compared(report: TraceReport, seen: dict[str, list[list[int]]]) -> tuple[SchedulingRow, int]:
    """The row of the attempt that was exact, and how long it waited for a CPU, ns; that it and all others say what the
    kernel says is asserted.
    """
    exact = []
    rows = {owner_name(row.owner): row for row in report.scheduling}
    for name, looks in seen.items():
        counted = (rows[name].voluntary, rows[name].involuntary)
        for kind in (0, 1):
            before, first, last, after = (look[kind] for look in looks)
            # Now and then a kernel does not trace a switch; it is then known that there was one.
            assert counted[kind] <= after - before, (name, kind, looks, rows[name])
            assert counted[kind] + rows[name].unseen >= last - first, (name, kind, looks, rows[name])
        if looks[0] == looks[1] and looks[2] == looks[3]:
            exact.append((rows[name], looks[2][2] - looks[1][2]))
    assert exact, f"something intervened in every attempt: {seen}"
    return exact[-1]


def test_voluntary_switches_are_those_of_the_kernel(tracer: Tracer, tmp_path: Path) -> None:
    report = traced_host(
        tracer,
        AROUND
        + f"""
def sleep():
    start = status()[0]
    while status()[0] < start + 1009:  # a sleep may end before its thread has left the CPU
        time.sleep(0.0001)

tell({str(tmp_path / "seen")!r}, around("sleeps", sleep))
""",
    )
    row, _ = compared(report, json.loads((tmp_path / "seen").read_text()))
    assert row.voluntary + row.unseen >= 1009
    assert row.unseen < 101
    assert row.voluntary - row.unseen <= row.wakeups <= row.voluntary
    assert sum(row.histogram) == row.wakeups
    assert 0 < row.wakeup_ns <= row.run_queue_ns <= row.off_cpu_ns
    assert row.off_cpu_ns - row.run_queue_ns >= row.wakeups * 50_000, "of the 100 us that each sleeps"


def test_involuntary_switches_are_those_of_the_kernel(tracer: Tracer, tmp_path: Path) -> None:
    """Two processes want one CPU. What the one waits for it is what the kernel calls its run delay."""
    report = traced_host(
        tracer,
        AROUND
        + f"""
import signal
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
rival = os.fork()
if rival == 0:
    while True:
        pass

def compute():
    start = status()[1]
    while status()[1] < start + 23:
        for _ in range(10_000):
            pass

try:
    seen = around("computes", compute, 20)
finally:
    os.kill(rival, signal.SIGKILL)
    os.waitpid(rival, 0)
tell({str(tmp_path / "seen")!r}, seen)
""",
    )
    row, delay = compared(report, json.loads((tmp_path / "seen").read_text()))
    assert row.involuntary + row.unseen >= 23
    if delay and not row.unseen:  # 0 on a kernel without schedstat
        assert row.run_queue_ns == pytest.approx(delay, rel=0.05)


def test_functions_that_wait_for_each_other_are_told_apart(tracer: Tracer, tmp_path: Path) -> None:
    """One sleeps until the other, in another thread of the same process, writes to it; only the former waits long. The
    other may wait for the interpreter: no longer than it is in its function by the clock.
    """
    report = traced_host(
        tracer,
        f"""
import time
out, into = os.pipe()
entered, inside = threading.Event(), 0

def patient():
    enter(ask_id["patient"])
    entered.set()
    for _ in range(101):
        os.read(out, 1)
    enter(0)

def slow():
    global inside
    entered.wait()
    for _ in range(101):
        time.sleep(0.002)  # charged to the process
        begin = time.monotonic_ns()
        enter(ask_id["slow"])
        os.write(into, b"x")
        enter(0)
        inside += time.monotonic_ns() - begin

ask_id = {{name: ask({{"function": name}})["id"] for name in ("patient", "slow")}}
threads = [threading.Thread(target=run) for run in (patient, slow)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with open({str(tmp_path / "inside")!r}, "w") as file:
    file.write(str(inside))
""",
    )
    patient = scheduling(report, "patient")
    assert patient.voluntary + patient.unseen > 0  # where it is late, a byte is there already
    assert patient.off_cpu_ns >= 101 * 2_000_000 * 0.9 or patient.unseen
    slow = [row for row in report.scheduling if owner_name(row.owner) == "slow"]
    assert sum(row.off_cpu_ns - row.run_queue_ns for row in slow) <= int((tmp_path / "inside").read_text())


def test_threads_of_a_child_are_its_own(tracer: Tracer) -> None:
    report = traced(tracer, ["sh", "-c", "for i in 1 2 3 4 5 6 7; do sleep 0.01; done"])
    sleeps = [row for row in report.scheduling if str(row.owner) == "[sleep]"]
    assert len(sleeps) == 7
    assert all(row.voluntary >= 1 and (row.unseen or row.off_cpu_ns >= 10_000_000) for row in sleeps)
    assert scheduling(report, "[sh]").voluntary >= 7


def test_the_report_says_it_as_text_and_as_json() -> None:
    with attached():
        pass
    argv = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
    command = ["--", "sh", "-c", "for i in 1 2 3 4 5 6 7; do sleep 0.02; done"]
    done = subprocess.run([*argv, "-L", *command], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert any(line.startswith("SCHEDULING") for line in lines), done.stderr
    assert any(": from wake-up to running" in line for line in lines)
    assert all(len(line) < 100 for line in lines)
    done = subprocess.run([*argv, "--json", *command], capture_output=True, text=True, timeout=60)
    report: dict[str, Any] = json.loads(done.stdout)
    sleeps = [row for row in report["scheduling"] if row["process"] and row["process"]["comm"] == "sleep"]
    assert len(sleeps) == 7
    for sleep in sleeps:
        assert sleep["voluntary"] >= 1 and (sleep["unseen"] or sleep["off_cpu_ns"] >= 20_000_000)
        assert sum(sleep["histogram"]) == sleep["wakeups"]
    assert report["missing"] == [] and report["lost_switches"] == 0
