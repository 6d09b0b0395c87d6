"""What hosts are told of their functions: read from the kernel's maps as long as somebody asks, and not too often.

A thread of its own reads, so that neither who serves the hosts nor who makes reports waits for it. It begins with the
first question.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress

from .capabilities import keep_only
from .figures import Figures

THREAD = "cwasi-tracer-feed"
"""The name of the thread."""
_QUICKEST = 0.1
"""Seconds between two looks."""
_SHARE = 0.01
"""Of a core, which it may take."""
_INTEREST = 10.0
"""Seconds for which a function is looked at after somebody has asked for it."""


class TracerFeed:
    """The last figures, and who wants newer ones."""

    def __init__(self, read: Callable[[Set[int]], Mapping[int, Figures]], capabilities: Sequence[str]) -> None:
        """read: the figures of owners; it may raise OSError. capabilities: what it takes."""
        self._read = read
        self._capabilities = capabilities
        self._lock = threading.Lock()
        """Guards who is asked for."""
        self._wanted: dict[int, float] = {}
        """When somebody asked for an owner last."""
        self._asked = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._found: tuple[int, Mapping[int, Figures]] = (0, {})

    def figures(self, owners: Iterable[int]) -> tuple[int, dict[int, Figures]]:
        """Of those that were looked at: when, in ns of the monotonic clock, and the sums. Does not wait."""
        owners = list(owners)
        with self._lock:
            self._wanted.update(dict.fromkeys(owners, time.monotonic()))
            if self._thread is None:
                self._begin()
        self._asked.set()
        at, found = self._found
        return at, {owner: found[owner] for owner in owners if owner in found}

    def close(self) -> None:
        """Ends the thread. Twice is safe."""
        self._over.set()
        self._asked.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _begin(self) -> None:
        if self._over.is_set():
            return
        thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        with suppress(RuntimeError):   # this user may have no more: hosts go on without
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        keep_only(self._capabilities)
        while self._asked.wait() and not self._over.is_set():
            self._asked.clear()
            start = time.thread_time()
            with suppress(OSError):
                self._look()
            self._over.wait(max(_QUICKEST, (time.thread_time() - start) / _SHARE))

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._wanted = {owner: at for owner, at in self._wanted.items() if now - at < _INTEREST}
            owners = set(self._wanted)
        at = time.monotonic_ns()
        self._found = at, self._read(owners)
