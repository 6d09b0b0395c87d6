"""Host processes are run, watched until each has ended, and ended."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence

from . import errors
from .final_report import Outcome
from .process import GRACE_SECONDS, HostProcess, HungUp, raise_error


def run_all(processes: Sequence[HostProcess]) -> float:
    """Waits until all are ready, and runs them: when that was. Raises the first error that one had."""
    for process in processes:
        process.await_ready()
    start = time.monotonic()
    for process in processes:
        process.run()
    return start


def supervise(processes: Sequence[HostProcess], start: float, timeout: float | None) -> tuple[float, list[Outcome]]:
    """Waits for their ends: (seconds, outcomes). start: when they were run.

    Raises the first error that any of them had; those that wait for a dead one are told.
    """
    watch = _Watch(processes)
    try:
        watch.until_all_ended(None if timeout is None else start + timeout + GRACE_SECONDS)
    except BaseException:
        for process in watch.alive:
            process.stop()
        raise
    seconds = watch.ended_at - start
    if watch.first_error is not None:
        raise watch.first_error
    return seconds, [watch.outcomes[process] for process in processes]


def end_all(processes: Sequence[HostProcess]) -> None:
    """By force, if they do not go when their connections end: all within the time of one."""
    until = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.hang_up()
    for process in processes:
        process.await_end(until)


class _Watch:
    """Reads what the children say until each has ended."""

    def __init__(self, processes: Sequence[HostProcess]) -> None:
        self.alive = set(processes)
        self.outcomes: dict[HostProcess, Outcome] = {}
        self.first_error: errors.Error | None = None
        self.ended_at = 0.0
        self._hung_up: list[HostProcess] = []

    def until_all_ended(self, deadline: float | None) -> None:
        with selectors.DefaultSelector() as selector:
            for process in self.alive:
                process.listen()
                for descriptor in process.descriptors:
                    selector.register(descriptor, selectors.EVENT_READ, process)
            while self.alive:
                ready = selector.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
                for process in {key.data for key, _ in ready}:
                    if self._heard(process):
                        for descriptor in process.descriptors:
                            selector.unregister(descriptor)
                if self.alive and deadline is not None and time.monotonic() >= deadline:   # whoever still speaks
                    names = ", ".join(sorted(name for process in self.alive for name in process.functions))
                    raise errors.GuestTimeout(f"still running when the time was up: {names}")
        self._learn_of_deaths()

    def _heard(self, process: HostProcess) -> bool:
        """Whether it has ended."""
        try:
            message = process.said()
            if message is None or process.heard(message):
                return False
            self._ended(process)
            self.outcomes[process] = process.outcome(message)
            raise_error(message)
        except HungUp:
            self._ended(process)
            self._hung_up.append(process)
            self._tell_neighbours(process)
        except errors.Error as error:
            self._ended(process)
            self._failed(error)
            if isinstance(error, errors.HostDied):
                self._tell_neighbours(process)
        return True

    def _ended(self, process: HostProcess) -> None:
        process.deaf()
        self.alive.discard(process)
        self.ended_at = time.monotonic()

    def _failed(self, error: errors.Error) -> None:
        self.first_error = min(self.first_error or error, error, key=errors.happened)

    def _tell_neighbours(self, process: HostProcess) -> None:
        for neighbour, channel, edge in process.neighbours:
            neighbour.peer_died(channel, edge)

    def _learn_of_deaths(self) -> None:
        """When nobody waits for it any more."""
        until = time.monotonic() + GRACE_SECONDS
        for process in self._hung_up:
            self._failed(process.death(until))
