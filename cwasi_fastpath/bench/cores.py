"""Threads, each on the core that a case wants it on."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .case import Cores

A = TypeVar("A")
B = TypeVar("B")


def count() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def places(cores: Cores) -> tuple[int | None, int | None]:
    """The core of each end; the two are those that the hop is measured between."""
    if cores is Cores.ANY:
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1 if cores is Cores.TWO else 0]


def run_on(core: int | None, work: Callable[[], A]) -> A:
    """Runs `work` on a thread of its own, kept to a core. Raises what it raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_kept_to, core, work).result()


def run_both(cores: Cores, first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Runs both at once and returns what they do. Raises what either raises."""
    here, there = places(cores)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(_kept_to, here, first), pool.submit(_kept_to, there, second)
    return one.result(), other.result()


def _kept_to(core: int | None, work: Callable[[], A]) -> A:
    """Never on the main thread: where that may run is what others take for the cores of the process."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    return work()
