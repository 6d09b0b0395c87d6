"""What the tests of channels share."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

import cwasi_fastpath as cwasi
from cwasi_fastpath import control
from cwasi_fastpath.metrics import Observation

# Nothing takes that long; a test that hangs fails instead.
HANG = 60.0
# What another session has in shared memory is gone when its test has ended.
FOREIGN = 5 * HANG
TRANSPORTS = ("ring", "pipe")

T = TypeVar("T")
Ends = tuple[cwasi.Sender, cwasi.Receiver]
Start = Callable[..., "Future[object]"]
Fork = Callable[[Callable[[], object]], int]


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def is_of(size: int, seen: Observation) -> bool:
    """Whether messages of that size were seen. A look may come when one was counted and its bytes were not yet."""
    return abs(seen.mean_bytes - size) * seen.messages <= size * 1.001


def fill(tx: cwasi.Sender, message: bytes) -> int:
    """Sends until there is no room; how many went. In a pipe only up to a page goes whole or not at all."""
    for sent in range(1 << 20):
        try:
            tx.send(message, timeout=0)
        except cwasi.WouldWait:
            return sent
    raise AssertionError("never full")


def in_child(body: Callable[[], object]) -> int:
    """Forks; the child runs body and ends without a word."""
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
        os._exit(0)
    finally:
        os._exit(1)


def status_of(pid: int) -> int:
    """Waits for a child; its exit status, or the negative signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_gone(pid: int) -> bool:
    """Whether a process has ended, though nobody may have waited for it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:   # which it may become at any time
        return True


def by_age(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Processes that were started one after another, by their pids: after the last one the kernel begins anew."""
    found = sorted(processes, key=lambda process: process.pid)
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    return sorted(found, key=lambda process: process.pid + most * (found[-1].pid - process.pid > most // 2))


def held() -> set[object]:
    """The threads and the descriptors of this process. What is there later, too, and was not before, was left by who
    ran meanwhile; a number would not tell, as what others have left may end in that time.
    """
    found: set[object] = set(threading.enumerate())
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):   # that of this directory is closed by now
            found.add((link.name, str(link.readlink())))
    return found


def eventually(look: Callable[[], T]) -> T:
    """What is found in the end."""
    until = time.monotonic() + HANG
    while not (found := look()):
        assert time.monotonic() < until, "never happened"
        time.sleep(0.01)
    return found


def descriptors() -> int:
    """That this process has open, but for those of what nobody holds any more: such is closed at any time."""
    gc.collect()
    return psutil.Process().num_fds()


def shared_memory() -> set[str]:
    """The names in it, but for those that are mapped by processes that we have not started."""
    found = {path.name for path in Path("/dev/shm").iterdir()}
    if not found:
        return found
    us = psutil.Process()
    ours = {process.pid for process in (us, *us.children(recursive=True))}
    for pid in set(psutil.pids()) - ours:
        with suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            found -= {name for name in found if f" /dev/shm/{name}" in maps}
    return found


def control_ended() -> None:
    """Waits until the control thread has ended, a moment after the last end that others could find."""
    gc.collect()
    until = time.monotonic() + HANG
    while control.THREAD in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < until, "the control thread does not end"
        time.sleep(0.001)
