"""What cwasi-trace counts is what strace and bpftrace count of the same work, call by call.

Where they differ is said here: the return of the exec is in theirs and not in ours, which begins behind it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tracing import attached, calls, traced

from cwasi_fastpath.probes.syscall_names import syscall_name
from cwasi_fastpath.trace_report import TraceReport

# Prime numbers of calls that Python makes for nothing else, in four threads and in a child.
WORK = """
import os, socket, threading

here, there = socket.socketpair()
file = os.memfd_create("work")

def times(count, call, *arguments):
    for _ in range(count):
        call(*arguments)

threads = [threading.Thread(target=times, args=work) for work in (
    (1009, os.getpgid, 0), (503, os.sched_yield), (211, os.pwrite, file, b"x" * 7, 0), (101, here.send, b"y" * 13))]
for thread in threads: thread.start()
for thread in threads: thread.join()
times(97, os.pwrite, file, b"z", 5)
times(89, there.recv, 13)
if os.fork() == 0:
    times(1013, os.getpgid, 0)
    os._exit(0)
os.wait()
"""
WORKED = {"getpgid": 1009 + 1013, "sched_yield": 503, "pwrite64": 211 + 97, "sendto": 101, "recvfrom": 89}
DD = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=1009", "status=none"]


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here (apt install {program})")
    return found


def ours(argv: list[str]) -> tuple[Counter[str], TraceReport]:
    with attached() as tracer:
        report = traced(tracer, argv)
    counted: Counter[str] = Counter()
    for row in report.rows:
        counted[row.syscall] += row.count
    return counted, report


def by_strace(argv: list[str], tmp_path: Path) -> Counter[str]:
    summary = tmp_path / "summary"
    command = [needs("strace"), "-f", "-c", "-U", "calls,name", "-o", str(summary)]
    done = subprocess.run([*command, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ *(\d+) +(\w+)$", summary.read_text(), flags=re.M)
    return Counter({name: int(count) for count, name in rows if name != "total"})


# Children too.
PROGRAM = """
tracepoint:sched:sched_process_fork /pid == cpid/ { @children[args->child_pid] = 1 }
tracepoint:raw_syscalls:sys_exit /pid == cpid || @children[pid]/ { @calls[args->id] = count() }
"""


def by_bpftrace(argv: list[str]) -> Counter[str]:
    """With tracefs mounted for it alone, as it does not see to that itself."""
    mount = "mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\""
    command = [needs("bpftrace"), "-f", "json", "-e", PROGRAM, "-c", " ".join(argv)]
    done = subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", *command], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    if '"@calls"' not in done.stdout:
        pytest.skip(f"bpftrace cannot trace here: {done.stderr.strip() or done.stdout}")
    maps = [json.loads(line) for line in done.stdout.splitlines() if '"@calls"' in line]
    return Counter({syscall_name(int(number)): count for number, count in maps[-1]["data"]["@calls"].items()})


def worked(counted: Counter[str]) -> dict[str, int]:
    return {name: counted[name] for name in WORKED}


def test_the_work_is_counted_alike_by_all(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    argv = [sys.executable, str(tmp_path / "work.py")]
    counted, report = ours(argv)
    assert worked(counted) == WORKED
    sent, received = (sum(row.bytes for row in report.rows if row.syscall == name) for name in ("sendto", "recvfrom"))
    assert (sent, received) == (101 * 13, 89 * 13)
    assert worked(by_strace(argv, tmp_path)) == WORKED
    assert worked(by_bpftrace(argv)) == WORKED


def test_every_call_of_a_program_is_one_of_straces(tmp_path: Path) -> None:
    """From its first to its last, and no other: but for the exec that begins it."""
    counted, report = ours(DD)
    assert calls(report, "[dd]") == (1009, 1009)
    assert by_strace(DD, tmp_path) - counted == Counter(execve=1)
    assert counted - by_strace(DD, tmp_path) == Counter()
