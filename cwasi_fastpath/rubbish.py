"""What others gave us and we do not want, closed on a thread that nobody waits for.

The last close() of a socket that lingers, or of a file whose file system is a program, may take for ever.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from .capabilities import keep_only

_MANY = 64
_PATIENCE_SECONDS = 1.0


class Rubbish:
    """What is still to be closed, and the thread that does it."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._close_all, name="cwasi-rubbish", daemon=True)
        self._thread.start()

    def put(self, close: Callable[[], object]) -> None:
        """Calls it later."""
        self._waiting.put(close)

    @property
    def full(self) -> bool:
        """Whether no more should be taken in: something takes its time."""
        return self._waiting.qsize() > _MANY

    def end(self) -> None:
        """Nothing comes any more. What does not close at once does so later, or with this process."""
        self._waiting.put(None)
        self._thread.join(_PATIENCE_SECONDS)

    def _close_all(self) -> None:
        keep_only(())
        while (close := self._waiting.get()) is not None:
            with contextlib.suppress(OSError):
                close()
