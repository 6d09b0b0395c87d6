"""What the tests of the tracer share: a tracer that skips where there can be none, and a host in a dozen lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cwasi_fastpath.trace_report import Process, TraceReport
from cwasi_fastpath.tracer import Tracer, requirements

# What a host does to be told apart, and nothing more; `enter` is the plain store.
HOST = """
import json, mmap, os, socket, sys, threading

control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect("\\0" + os.environ["CWASI_TRACER"][1:])
namespace = os.stat("/proc/self/ns/pid")
HELLO = json.dumps({"hello": 3, "namespace": [namespace.st_dev, namespace.st_ino]}).encode()
control.send(HELLO)
data, fds, _, _ = socket.recv_fds(control, 4096, 1)
count = json.loads(data)["slots"]
slots = memoryview(mmap.mmap(fds[0], 8 * count)).cast("I")
null = os.open("/dev/null", os.O_WRONLY)

numbers = {}

def ask(request):
    if isinstance(request, dict) and request.keys() == {"function"}:   # we number them ourselves
        request["id"] = numbers.setdefault(request["function"], len(numbers) + 1)
    control.send(json.dumps(request).encode())
    return json.loads(control.recv(4096))

def slot(tid):
    return 2 * (tid % count)

def enter(function):
    at = slot(threading.get_native_id())
    slots[at] = threading.get_native_id()
    slots[at + 1] = function

def write(times):
    for _ in range(times):
        os.write(null, b"x")
"""


@contextmanager
def attached(light: bool = False) -> Iterator[Tracer]:
    """A tracer. Skips the test where this machine or user lacks something, and only then."""
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")
    with Tracer(light) as tracer:
        yield tracer


def traced(tracer: Tracer, argv: list[str]) -> TraceReport:
    before = tracer.snapshot()
    with tracer.spawn(argv, stderr=subprocess.PIPE, text=True) as command:
        _, stderr = command.communicate(timeout=300)
    assert command.returncode == 0, stderr
    report = tracer.snapshot().since(before)
    assert (report.lost, report.lost_times, report.lost_threads) == (0, 0, 0)
    assert (report.lost_switches, report.lost_traffic) == (0, 0)
    return report


def traced_host(tracer: Tracer, body: str) -> TraceReport:
    with subprocess.Popen(["true"]):  # whoever is not traced must not show up
        return traced(tracer, [sys.executable, "-c", HOST + body])


def owner_name(owner: str | Process) -> str:
    """A function's without what tells it from those of other hosts, or `[comm]` of a process."""
    return str(owner).partition("@")[0]


def calls(report: TraceReport, owner: str, syscall: str = "write") -> tuple[int, int]:
    """(count, bytes) of a function, of whatever host, or of all processes of the name `[comm]`."""
    rows = [row for row in report.rows if owner_name(row.owner) == owner and row.syscall == syscall]
    return sum(row.count for row in rows), sum(row.bytes for row in rows)
