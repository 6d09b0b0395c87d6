"""A file of /proc that is read again and again: it stays open, as to open one takes longer than to read it."""

from __future__ import annotations

import os

_CHUNK = 1 << 16


class ProcFile:
    """Of what is there when it is read first, and of nobody else who has its number later."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: int | None = None

    def read(self) -> bytes:
        """All of it, as it is now. Raises OSError."""
        if self._open is None:
            self._open = os.open(self._path, os.O_RDONLY)
        found = part = os.pread(self._open, _CHUNK, 0)
        while len(part) == _CHUNK:
            part = os.pread(self._open, _CHUNK, len(found))
            found += part
        return found

    def close(self) -> None:
        """It may be read again."""
        if self._open is not None:
            os.close(self._open)
            self._open = None
