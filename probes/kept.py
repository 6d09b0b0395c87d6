"""Compiled probes that are kept from one trace to the next: compiling takes longer than all else.

In a directory of the user's own, which nobody else can write: what is in there runs in the kernel.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from .compiled import Compiled

_MOST = 16
"""So many are kept: another kernel, or another pid namespace, wants others."""
_LONGEST = 1 << 24
_SUFFIX = ".probes"


def key_of(*what: str) -> str:
    """What two texts have in common only if all of what they were made from is the same."""
    digest = hashlib.sha256()
    for one in what:
        digest.update(len(one.encode()).to_bytes(8) + one.encode())
    return digest.hexdigest()


def find(key: str) -> Compiled | None:
    """What was kept under this key; None for nothing, or for what is not as it was written."""
    directory = _directory()
    try:
        if not _is_ours(directory.lstat()):
            return None
        descriptor = os.open(directory / f"{key}{_SUFFIX}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor) as file:
            if not _is_ours(os.fstat(descriptor)):
                return None
            digest, _, text = file.read(_LONGEST).partition("\n")
        return Compiled.from_json(text) if digest == key_of(key, text) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(key: str, compiled: Compiled) -> None:
    """For the next time, if that is possible."""
    text = compiled.to_json()
    with suppress(OSError):
        directory = _directory()
        directory.mkdir(0o700, parents=True, exist_ok=True)
        if not _is_ours(directory.lstat()):
            return
        descriptor, name = tempfile.mkstemp(_SUFFIX, dir=directory)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{key_of(key, text)}\n{text}")
            Path(name).replace(directory / f"{key}{_SUFFIX}")
        except BaseException:
            Path(name).unlink()
            raise
        oldest_last = sorted(directory.glob(f"*{_SUFFIX}"), key=lambda path: -path.lstat().st_mtime_ns)
        for path in oldest_last[_MOST:]:
            path.unlink()


def _directory() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    usual = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    return (Path(named) if named.startswith("/") else usual) / "cwasi-fastpath"


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
