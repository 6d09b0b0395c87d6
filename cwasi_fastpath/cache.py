"""Files that spare us doing something again: in a directory of the user's own, where nobody else can write them.

Whatever is odd about one, it is as if it were not there.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ENVIRONMENT = "CWASI_CACHE_DIR"


def directory() -> Path:
    """Where they are, or would be."""
    if told := os.environ.get(ENVIRONMENT):
        return Path(told).absolute()
    if told := os.environ.get("XDG_CACHE_HOME"):
        return Path(told, "cwasi").absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/cwasi")
    try:
        return Path("~/.cache/cwasi").expanduser().absolute()
    except RuntimeError:   # a user that has no home, as in containers
        return Path(tempfile.gettempdir(), f"cwasi-cache-{os.geteuid()}")


def read(name: str, longest: int) -> bytes:
    """At most so many bytes of a file. Raises OSError, also where others could have written it."""
    file = directory() / name
    obstacle = _obstacle(file.parent.lstat(), stat.S_ISDIR, 0o077)
    if obstacle:
        raise OSError(0, f"its directory {obstacle}")
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        obstacle = _obstacle(os.fstat(descriptor), stat.S_ISREG, 0o022)
        if obstacle:
            raise OSError(0, obstacle)
        return opened.read(longest)


def _obstacle(status: os.stat_result, is_kind: Callable[[int], bool], forbidden: int) -> str | None:
    if not is_kind(status.st_mode):
        return "is a link, or of another kind than it should be"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to us ({os.geteuid()})"
    if status.st_mode & forbidden:
        return f"is open to others (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def prepare() -> Path:
    """The directory, which is made where it is not there. Raises OSError where it is not ours alone."""
    found = directory()
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    obstacle = _obstacle(found.lstat(), stat.S_ISDIR, 0o077)
    if obstacle:
        why = f"the directory {obstacle}, so its content could be forged: make it yours alone, or set CWASI_CACHE_DIR"
        raise PermissionError(errno.EPERM, why, str(found))
    return found


def write(name: str, text: str) -> None:
    """A whole file, in place of the old one. Raises OSError where the directory is not ours alone, or the disk is
    full; then the old one stays.
    """
    descriptor, fresh = tempfile.mkstemp(dir=prepare(), prefix=f".{name}-")   # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        Path(fresh).replace(directory() / name)
    except BaseException:
        with suppress(OSError):
            Path(fresh).unlink()
        raise
