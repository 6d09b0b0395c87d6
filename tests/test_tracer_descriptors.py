"""A tracer that may have few descriptors lets in fewer hosts, and says why; the command has the limit of its caller."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tracing import HOST, attached, calls, owner_name, traced

HOSTS = HOST + """
from cwasi_fastpath._native import lib
statistics = lib.cwasi_statistics_create()
others = []
while True:
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.settimeout(60)
    other.connect(control.getpeername())
    others.append(other)
    try:
        other.send(HELLO)
        reply, passed, _, _ = socket.recv_fds(other, 4096, 1)
    except (BrokenPipeError, ConnectionResetError):
        break
    if b"error" in reply:
        break
    os.close(passed[0])
    socket.send_fds(other, [b'{"statistics": 1}'], [statistics])
    assert b"taken" in other.recv(4096)
print(len(others))
sys.stdout.flush()
sys.stdin.readline()
"""
FEW = f"""
import resource, subprocess, sys
from cwasi_fastpath.tracer import Tracer
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 575))
with Tracer() as tracer:
    shell = tracer.spawn(["sh", "-c", "ulimit -n"], stdout=subprocess.PIPE, text=True)
    print(shell.communicate()[0].strip())
    pipes = {{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}}
    with tracer.spawn([sys.executable, "-c", {HOSTS!r}], text=True, **pipes) as host:
        print(host.stdout.readline().strip())
        tracer.snapshot()
        host.communicate("go\\n")
        sys.exit(host.returncode)
"""


def test_no_more_hosts_than_descriptors() -> None:
    with attached():
        pass   # or it is skipped
    done = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["256", str((575 - 512) // 3)]


@contextmanager
def none_left() -> Iterator[None]:
    """Of descriptors, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LATE = HOST + """
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.settimeout(60)
control.connect("\\0" + os.environ["CWASI_TRACER"][1:])
control.send(b"{}")
control.recv(4096)
print("ready", flush=True)
sys.stdin.readline()
control.send(HELLO)
print(control.recv(4096).decode(), flush=True)
"""


def test_a_host_is_told_that_there_are_none_left() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with attached() as tracer, tracer.spawn([sys.executable, "-c", LATE], text=True, **pipes) as host:
        assert host.stdin is not None and host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        with none_left():
            host.stdin.write("go\n")
            host.stdin.flush()
            assert "Too many open files" in host.stdout.readline()
        report = traced(tracer, [sys.executable, "-c", HOST + 'enter(ask({"function": "later"})["id"]); write(23)'])
        host.communicate(timeout=60)
    assert calls(report, "later") == (23, 23)
    assert all(owner_name(row.owner) != "other" for row in report.rows)
