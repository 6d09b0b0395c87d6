"""A trace ends when what it traces has, also if it is late already when it looks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cwasi_fastpath.cli.trace_target import Target


class Processes(Target):
    """Some, and nothing else."""

    def leave(self) -> None:
        """See Target."""

    def status(self) -> int:
        """See Target."""
        return 0

    @property
    def described(self) -> dict[str, Any]:
        """See Target."""
        return {}


@pytest.fixture
def target() -> Iterator[Processes]:
    target = Processes()
    yield target
    target.close()


def test_who_is_always_late_sees_the_end(target: Processes) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        target.follow(os.pidfd_open(process.pid))
        for _ in range(3):
            assert not target.wait(time.monotonic() - 1)
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert target.wait(time.monotonic() + 240)
    with subprocess.Popen(["true"]) as process:
        pidfd = os.pidfd_open(process.pid)
        target.follow(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert target.wait(time.monotonic() - 1), "it has ended, and nobody has looked yet"


def test_who_is_late_hears_that_he_is_to_stop(target: Processes) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        target.follow(os.pidfd_open(process.pid))
        target.stop()
        assert target.wait(time.monotonic() - 1) and target.wait(None)
        process.communicate(b"go\n")
