"""Half-seen switches are those that the kernel itself does not show, of commands and of processes that ran before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hidden import chain_of_switches
from tracing import attached

from cwasi_fastpath.tracer import Tracer

SLEEPERS = 4
SLEEPS = 503
WORK = f"""
import sys, threading, time

def sleep():
    for _ in range({SLEEPS}):
        time.sleep(0.0005)

threads = [threading.Thread(target=sleep) for _ in range({SLEEPERS})]
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def started(tracer: Tracer, running: bool) -> tuple[subprocess.Popen[str], int | None]:
    """The work, waiting for a line; with the descriptor of attach() if it ran before it was traced."""
    argv = [sys.executable, "-c", WORK]
    if not running:
        return tracer.spawn(argv, stdin=subprocess.PIPE, text=True), None
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True)
    return process, tracer.attach(process.pid)


@pytest.mark.parametrize("running", [False, True], ids=["command", "running"])
def test_what_is_half_seen_is_what_the_kernel_did_not_show(running: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with attached(light=True) as tracer, chain_of_switches(monkeypatch) as chain:
        before = tracer.snapshot()
        process, descriptor = started(tracer, running)
        with process:
            process.communicate("go\n", timeout=100)
        report = tracer.snapshot().since(before)
        if descriptor is not None:
            tracer.detach(process.pid)
            os.close(descriptor)
        breaks = chain.breaks()
    (row,) = report.scheduling
    assert row.voluntary + row.involuntary > 0
    assert row.unseen <= breaks, (row, breaks)
    assert report.lost_switches == 0
