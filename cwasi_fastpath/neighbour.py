"""Busy neighbours: processes that want a core each, all the time. They end with us, however we end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from .errors import Unavailable

# The parent is told, not asked for: it may be gone before the first look.
_WORK = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"


@contextmanager
def neighbours(cores: Sequence[int]) -> Iterator[None]:
    """One on each of these cores. Raises Unavailable."""
    with ExitStack() as stack:
        for core in cores:
            stack.enter_context(_neighbour(core))
        yield


@contextmanager
def _neighbour(core: int) -> Iterator[None]:
    try:
        process = subprocess.Popen([sys.executable, "-S", "-c", _WORK, str(os.getpid())], stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Unavailable(f"a busy neighbour cannot be started: {error.strerror}. Remedy: allow more processes") from error
    with process:
        try:
            os.sched_setaffinity(process.pid, {core})
            yield
        except ProcessLookupError as error:
            raise Unavailable(f"a busy neighbour ended at once, with status {process.wait()}") from error
        finally:
            process.kill()
