"""Busy neighbours: processes that want a core each, all the time. They end with us, however we end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from .errors import Unavailable

_WORK = """
import os, sys
os.write(1, b".")
while os.getppid() == int(sys.argv[1]): sum(range(100_000))
"""
"""It is told its parent: that may be gone before it could ask who that is."""


@contextmanager
def neighbours(cores: Sequence[int]) -> Iterator[list[int]]:
    """One on each of these cores, which are busy from now on: their pids. Raises Unavailable."""
    with ExitStack() as stack:
        yield [stack.enter_context(_neighbour(core)) for core in cores]


@contextmanager
def _neighbour(core: int) -> Iterator[int]:
    argv = [sys.executable, "-S", "-c", _WORK, str(os.getpid())]
    try:
        # A group of its own: what Ctrl-C means is for us to say.
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0)
    except OSError as error:
        what = f"a busy neighbour cannot be started: {error.strerror}"
        raise Unavailable(f"{what}. Remedy: allow this user more processes") from error
    with process:
        try:
            _begin(process, core)
            yield process.pid
        finally:
            process.kill()


def _begin(process: subprocess.Popen[bytes], core: int) -> None:
    assert process.stdout is not None
    try:
        os.sched_setaffinity(process.pid, {core})
    except OSError as error:
        raise Unavailable(f"a busy neighbour cannot run on core {core}: {error.strerror}") from error
    if not process.stdout.read(1):
        raise Unavailable(f"a busy neighbour ended at once, with status {process.wait()}")
