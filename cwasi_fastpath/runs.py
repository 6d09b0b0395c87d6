"""The runs of a host's guests: each in a thread of its own, once, until all of a run have ended or its time is over."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager, ExitStack

from . import errors
from .guest import Guest

_STOP_SECONDS = 2.0

_Ended = queue.SimpleQueue[tuple[Guest, BaseException | None]]


class Runs:
    """Of one host."""

    def __init__(self, timeout: float | None, interrupt: Callable[[], None]) -> None:
        """timeout: seconds of each run. interrupt: ends the loops of all guests, where a timeout is given."""
        self._timeout, self._interrupt = timeout, interrupt
        self._lock = threading.RLock()
        """Guards the sets below. Taken by itself: Ctrl-C may come in `with` a condition when that has its lock, and
        nobody would give that back."""
        self._changed = threading.Condition(self._lock)
        """Announces changes of these."""
        self._started: set[Guest] = set()
        self._running: set[Guest] = set()
        self._stuck: set[Guest] = set()
        """Of the running ones, those that could not be ended;"""
        self._due: set[Guest] = set()
        """and those whose threads have not begun yet."""

    @property
    def running(self) -> set[Guest]:
        """Those that run now."""
        with self._lock:
            return set(self._running)

    def run(self, guests: Sequence[Guest], attended: AbstractContextManager[object]) -> None:
        """Until all have ended. attended: entered as long as they run.

        Then the error of the one that failed first is raised. Raises BadSpec for one that has run.
        """
        ended: _Ended = queue.SimpleQueue()
        waiting = set(guests)
        failures: list[BaseException] = []
        self._admit(guests)
        until = None if self._timeout is None else time.monotonic() + self._timeout
        with ExitStack() as stack:
            try:
                stack.enter_context(attended)
                for guest in guests:
                    threading.Thread(target=self._run, args=(guest, ended), name=guest.name, daemon=True).start()
                while waiting:
                    guest, error = ended.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
                    waiting.discard(guest)
                    if error is not None:
                        failures.append(error)
            except queue.Empty:
                self._cancel(waiting)
                names = ", ".join(sorted(guest.name for guest in waiting))
                failures = failures or [errors.GuestTimeout(f"after {self._timeout:g} s still running: {names}")]
            except BaseException:
                self._withdraw(waiting)
                self._cancel(waiting)
                raise
        try:
            if failures:
                raise min(failures, key=errors.happened)
        finally:
            del failures   # which the error would hold, and with it all guests

    def began(self, guest: Guest) -> bool:
        """Whether it runs, or has run."""
        with self._lock:
            return guest in self._started

    def wait_for(self, guest: Guest, seconds: float | None) -> bool:
        """Whether it runs no more, at the latest then."""
        with self._lock:
            return self._changed.wait_for(lambda: guest not in self._running, seconds)

    def stop(self) -> None:
        """Ends the waits of all guests with Cancelled, from any thread."""
        for guest in self.running:
            guest.stop()

    def end(self) -> None:
        """Ends what runs, as far as that can be ended."""
        self._cancel(self.running - self._stuck)

    def _admit(self, guests: Sequence[Guest]) -> None:
        """A store takes one thread, and its channels end with the run."""
        with self._lock:
            for guest in guests:
                if guest in self._started or guests.count(guest) > 1:
                    raise errors.BadSpec(f"function {guest.name} runs once; load it again for another run")
            self._started.update(guests)
            self._running.update(guests)
            self._due.update(guests)

    def _withdraw(self, guests: Set[Guest]) -> None:
        """Who has no thread yet gets none: of Ctrl-C, or as there are too many."""
        with self._lock:
            never = self._due & guests
            self._due -= never
            self._running -= never
            self._changed.notify_all()

    def _run(self, guest: Guest, ended: _Ended) -> None:
        with self._lock:
            if guest not in self._due:
                return
            self._due.remove(guest)
        failure = _failure_of(guest)
        with self._lock:
            self._running.discard(guest)
            self._changed.notify_all()
        ended.put((guest, failure))

    def _cancel(self, guests: Set[Guest]) -> None:
        """Ends the waits of these guests, and all loops where they can be interrupted."""
        for guest in guests:
            guest.stop()
        if self._timeout is not None:
            self._interrupt()
        with self._lock:
            self._changed.wait_for(lambda: self._running.isdisjoint(guests), _STOP_SECONDS)
            self._stuck |= self._running & guests


def _failure_of(guest: Guest) -> BaseException | None:
    """Runs it. In a frame of its own, which does not hold the error that holds it."""
    try:
        guest.run()
    except BaseException as error:
        return error
    return None
