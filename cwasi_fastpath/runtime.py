"""The runtime directory: where the processes of one user on one node find each other. Files and locks, no daemon."""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from .claim import Claim
from .errors import RegistryUnavailable

ENVIRONMENT = "CWASI_RUNTIME_DIR"

ADDRESS = re.compile(r"\+[0-9a-f]{16}")
"""What the entry of a process is called; no name of a channel begins so."""
ENTRY = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}:(sender|receiver)")
"""What the entry of an end is called."""

_LONGEST = 80
"""Bytes in its path; with the name of a socket behind it a path may have 107."""
_REMEDY = f"set {ENVIRONMENT} to a directory that only you can enter, on a disk that has room"


def path() -> Path:
    """Where it is, or would be."""
    if told := os.environ.get(ENVIRONMENT):
        return Path(told).absolute()
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session, "cwasi")
    return Path("/run/cwasi") if os.geteuid() == 0 else Path(f"/tmp/cwasi-{os.geteuid()}")


def directory() -> Path:
    """The directory, which is made if it is not there. Raises RegistryUnavailable unless it is ours alone."""
    found = path()
    if len(os.fsencode(found)) > _LONGEST:
        raise RegistryUnavailable(f"runtime directory {found}: its path is longer than {_LONGEST} bytes; {_REMEDY}")
    try:
        found.mkdir(mode=0o700, exist_ok=True)
        status = found.lstat()
    except OSError as error:
        raise unusable(found, error) from error
    obstacle = _obstacle(status)
    if obstacle:
        raise RegistryUnavailable(f"runtime directory {found} {obstacle}, so others could come between; {_REMEDY}")
    return found


def _obstacle(status: os.stat_result) -> str | None:
    """What is wrong with it: whoever can write to it could take the place of our peers."""
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is no directory"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to us ({os.geteuid()})"
    if status.st_mode & 0o077:
        return f"may be entered by others (mode {stat.S_IMODE(status.st_mode):04o}, not 0700)"
    return None


def unusable(directory: Path, error: OSError) -> RegistryUnavailable:
    """What to raise where the system refuses to work in it."""
    return RegistryUnavailable(f"runtime directory {directory}: {error.strerror}; {_REMEDY}")


def socket_path(directory: Path, address: str) -> Path:
    """Where the process with that entry listens."""
    return directory / f"{address}.socket"


def entered(directory: Path) -> Claim:
    """A new entry of this process. Raises OSError."""
    while True:   # somebody may sweep just between its making and its locking
        claim = Claim.take(directory / f"+{secrets.token_hex(8)}", {"pid": os.getpid()})
        if claim is not None:
            return claim


def sweep(directory: Path) -> None:
    """Removes what processes have left that were killed."""
    for entry in directory.iterdir():
        if ADDRESS.fullmatch(entry.name) or ENTRY.fullmatch(entry.name):
            with suppress(OSError):
                claim = Claim.of_the_dead(entry)
                if claim is not None:
                    socket_path(directory, entry.name).unlink(missing_ok=True)
                    claim.release()
