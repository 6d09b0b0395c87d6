"""A claim: a file in the runtime directory that one process keeps locked. The kernel unlocks it when that one dies.

Only who holds the lock of a file removes its name, and who has just locked a file looks whether the name still leads to
it. So there is one holder of a name at most, however claims, removals and deaths come together, and what a killed
process leaves is taken by the next who comes.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

_BYTES = 4096
"""The most that is read of a file."""

_PATIENCE = 1.0
"""Seconds for other threads, when the interpreter ends."""

_all: set[Claim] = set()
"""Those that this process holds."""
_taking = threading.RLock()
"""Held while a file is open that may become one of them, so that neither a fork nor the end comes in between."""


class Claim:
    """A name that this process holds until it releases it, or dies."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _all.add(self)

    @classmethod
    def take(cls, path: Path, contents: dict[str, Any]) -> Self | None:
        """Claims the name, and tells in the file who has it; None while another process holds it. Raises OSError."""
        while (claim := cls._locked(path, os.O_RDWR | os.O_CREAT)) is not None:
            try:
                if claim._fresh():
                    claim._write(json.dumps(contents).encode())
                    return claim
            except BaseException:
                claim.release()
                raise
            claim.release()   # of one that died; a file that is written once cannot be read half
        return None

    @classmethod
    def of_the_dead(cls, path: Path) -> Self | None:
        """A claim whose holder died, to be released; None where there is none. Raises OSError."""
        try:
            return cls._locked(path, os.O_RDWR)
        except FileNotFoundError:
            return None

    @classmethod
    def inherited(cls, path: Path, descriptor: int, contents: dict[str, Any]) -> Self | None:
        """The claim of another process, which has passed its lock on and forgets it; None where that is none of this
        name. Owns the descriptor. Raises OSError.
        """
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        claim = cls(path, descriptor)
        if not _is_named(descriptor, path):
            claim.release()
            return None
        # Over what the other one has written, all at once: who reads meanwhile finds the old or the new.
        size = min(os.fstat(descriptor).st_size, _BYTES)
        os.pwrite(descriptor, json.dumps(contents).encode().ljust(size), 0)
        return claim

    @property
    def descriptor(self) -> int:
        """Of the locked file; who gets a duplicate of it shares the lock."""
        return self._descriptor

    @classmethod
    def _locked(cls, path: Path, flags: int) -> Self | None:
        with _taking:
            descriptor = _open(path, flags)
            if _lock(descriptor):
                return cls(path, descriptor)
            os.close(descriptor)
            return None

    def _fresh(self) -> bool:
        return _is_named(self._descriptor, self.path) and os.fstat(self._descriptor).st_size == 0

    def _write(self, data: bytes) -> None:
        if os.write(self._descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def release(self) -> None:
        """Gives the name free. Twice is safe, and from any thread."""
        descriptor, self._descriptor = self._descriptor, -1
        _all.discard(self)
        if descriptor >= 0:
            try:
                if _is_named(descriptor, self.path):
                    self.path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """The claim is another process's, and ends with that one: the parent's of a fork, or a successor's."""
        descriptor, self._descriptor = self._descriptor, -1
        _all.discard(self)
        if descriptor >= 0:
            os.close(descriptor)


def contents(path: Path) -> dict[str, Any] | None:
    """What the holder says of itself; None where nobody is, or it has not said yet. Raises OSError."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(os.read(descriptor, _BYTES))
    except (ValueError, RecursionError):
        return None
    finally:
        os.close(descriptor)
    return found if isinstance(found, dict) else None


def _open(path: Path, flags: int) -> int:
    # Not a fifo, at which we would wait.
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _lock(descriptor: int) -> bool:
    """Whether it is ours now. Closes the descriptor where that cannot be told."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        os.close(descriptor)
        raise
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)


def _release_all() -> None:
    """When the interpreter ends: no other thread takes one from then on."""
    _taking.acquire(timeout=_PATIENCE)
    for claim in list(_all):
        with suppress(OSError):
            claim.release()


def _before_fork() -> None:
    _taking.acquire()


def _after_fork_in_parent() -> None:
    _taking.release()


def _after_fork_in_child() -> None:
    global _taking
    _taking = threading.RLock()
    for claim in list(_all):
        claim.forget()


atexit.register(_release_all)
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
