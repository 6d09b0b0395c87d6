"""Compiled probes that are kept from one trace to the next: compiling takes longer than all else.

What is in their files runs in the kernel.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from .. import cache
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
    try:
        digest, _, text = cache.read(f"{key}{_SUFFIX}", _LONGEST).decode("ascii").partition("\n")
        return Compiled.from_json(text) if digest == key_of(key, text) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(key: str, compiled: Compiled) -> None:
    """For the next time, if that is possible."""
    text = compiled.to_json()
    with suppress(OSError):
        name = f"{key}{_SUFFIX}"
        cache.write(name, f"{key_of(key, text)}\n{text}")
        # By the clock of files, which goes on in steps, others may be as new.
        others = [path for path in cache.directory().glob(f"*{_SUFFIX}") if path.name != name]
        for path in sorted(others, key=lambda path: -path.lstat().st_mtime_ns)[_MOST - 1 :]:
            path.unlink()
