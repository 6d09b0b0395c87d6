"""When its tracer has gone, whichever way, a host counts no more: it costs it what it costs with nobody tracing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tracing import attached

from cwasi_fastpath.host_statistics import read_file

TRACE = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
ROUND = 211
HOST = f"""
import os, signal, sys
import cwasi_fastpath as cwasi

signal.alarm(600)
tx, rx = cwasi.open_channel("lab")
with cwasi.function("goes-on"):
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range({ROUND}):
            tx.send(b"x"); rx.recv()
        print("done", flush=True)
"""


class Host:
    """A program that makes a round of calls for every line that it is given."""

    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", HOST], text=True, **pipes)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def round(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def counted(self) -> int:
        """The calls of its functions in its statistics, 0 where it has none."""
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):   # closed meanwhile
                if "cwasi-statistics" in str(link.readlink()):
                    with link.open("rb") as file:
                        return sum(counts.calls for counts in read_file(file.fileno()).functions)
        return 0

    def counts(self) -> bool:
        """Whether it does, in a round."""
        before = self.counted()
        self.round()
        return self.counted() != before


@pytest.fixture
def host() -> Iterator[Host]:
    with attached():
        pass   # or it is skipped
    host = Host()
    try:
        yield host
    finally:
        host.process.kill()
        host.process.communicate()


def wait_until_it_counts(host: Host, counts: bool) -> None:
    deadline = time.monotonic() + 240
    while host.counts() != counts:
        assert time.monotonic() < deadline
    assert host.counts() == counts


def test_a_tracer_leaves_and_the_next_has_its_own_time_only(host: Host) -> None:
    with attached() as first:
        os.close(first.attach(host.process.pid))
        assert host.counts()
    wait_until_it_counts(host, False)
    with attached() as second:
        os.close(second.attach(host.process.pid))
        for _ in range(3):
            host.round()
        report = second.snapshot()
    (use,) = report.uses
    assert (use.owner, use.calls) == ("goes-on", 3 * 2 * ROUND)
    assert use.ns <= report.seconds * 1e9, "what was before is in no trace"
    assert [end.messages for end in report.ends] == [3 * ROUND] * 2
    wait_until_it_counts(host, False)


def test_a_tracer_is_killed(host: Host) -> None:
    argv = [*TRACE, "-p", str(host.process.pid)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        try:
            wait_until_it_counts(host, True)
        finally:
            tracer.send_signal(signal.SIGKILL)
    wait_until_it_counts(host, False)


def test_of_two_tracers_the_first_may_leave_and_the_second_goes_on(host: Host) -> None:
    with attached() as second:
        with attached() as first:
            os.close(first.attach(host.process.pid))
            assert host.counts()
            os.close(second.attach(host.process.pid))
            assert host.counts()
        for _ in range(3):
            assert host.counts(), "the one that has left was not listened to any more"
        (use,) = second.snapshot().uses
        assert use.calls == 4 * 2 * ROUND
    wait_until_it_counts(host, False)


NEW_NAMES = """
import sys
import cwasi_fastpath as cwasi

with cwasi.function("first"):
    print("ready", flush=True)
    sys.stdin.readline()
for number in range(3):
    with cwasi.function(f"new-{number}"):
        pass
print("worked")
"""


def test_a_tracer_that_does_not_answer_is_left() -> None:
    """Only the first new name waits for it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with attached() as tracer, tracer.spawn([sys.executable, "-c", NEW_NAMES], text=True, **pipes) as host:
        assert host.stdout is not None and host.stdout.readline() == "ready\n"
        with tracer._open_control()._lock:   # it would have to take it to answer
            stdout, stderr = host.communicate("go\n", timeout=240)
    assert (stdout, host.returncode) == ("worked\n", 0)
    assert stderr.count("not traced") == 1, stderr


FORKS = """
import os, signal, sys
import cwasi_fastpath as cwasi

signal.alarm(600)
tx, rx = cwasi.open_channel("lab")
with cwasi.function("parent"):
    for _ in range(23):
        if os.fork() == 0:
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
            os._exit(sum(link.startswith("socket:") for link in links))
        left = os.waitstatus_to_exitcode(os.wait()[1])
        tx.send(b"x"); rx.recv()
    print(left)
"""


def test_a_child_keeps_nothing_of_its_parents_connection() -> None:
    """And does not hang it up: the parent is counted on."""
    with attached() as tracer:
        with tracer.spawn([sys.executable, "-c", FORKS], stdout=subprocess.PIPE, text=True) as host:
            stdout, _ = host.communicate(timeout=240)
        uses = [use for use in tracer.snapshot().uses if use.owner == "parent"]
    assert int(stdout) <= 2, "its own, twice"
    assert [use.calls for use in uses] == [2 * 23]
