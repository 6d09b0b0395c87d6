"""Which control group a traced process is in: by what the kernel's programs saw, and by /proc while it lives.

In a kernel with cgroup v2 alone, both say the same. Where containers have groups of v1 still, v2's is often the root:
then it is that of v1.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from pathlib import Path

ROOT = "/"


def group_of(pid: int) -> str | None:
    """The group of a process; None where there is no such process."""
    try:
        return path_in(Path(f"/proc/{pid}/cgroup").read_bytes())
    except OSError:
        return None


def path_in(text: bytes) -> str | None:
    """What /proc/PID/cgroup says: where it is in v2 or, if that is the root, the longest of those of v1."""
    lines = [line.split(b":", 2) for line in text.splitlines() if line.count(b":") >= 2]
    found = sorted(lines, key=lambda line: (line[0] != b"0" or line[2] == b"/", -len(line[2])))
    return printable(found[0][2]) if found else None


class Groups:
    """Those of the processes of a trace. Remembers what was seen last, as the dead are not in /proc."""

    def __init__(self) -> None:
        self._mount = _mounted()
        self._ours = Path("/proc/self").readlink() == Path(str(os.getpid()))
        """Whether /proc has the pids of our own namespace."""
        self._seen: dict[int, str] = {}
        """By process."""
        self._paths: dict[int, str | None] = {}
        """By number."""
        self._walked = False
        """Since the last look."""
        hierarchies = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:2] != "0:"]
        self._says_all = not hierarchies
        """Whether one that is in the root of v2 is in no other group."""

    def look(self, alive: Iterable[tuple[int, int]], known: Container[int]) -> None:
        """Takes in where the processes of these keys and pids are now. Forgets those whose keys are not known."""
        self._walked = False
        for key in [key for key in self._seen if key not in known]:
            del self._seen[key]
        for key, pid in alive if self._ours else ():
            path = group_of(pid)
            if path is not None:
                self._seen[key] = path

    def of(self, key: int, number: int) -> str | None:
        """Of the process of a key, which was in the group of that number when the kernel saw it; None: unknown."""
        if key in self._seen:
            return self._seen[key]
        if number not in self._paths and not self._walked:
            self._walked = True
            self._paths |= {found: path for found, path in self._walk().items() if found not in self._paths}
        path = self._paths.setdefault(number)   # it is gone: looking again would find nothing
        return path if path != ROOT or self._says_all else None

    def _walk(self) -> dict[int, str]:
        """All groups of v2 that there are: a group's number is that of its directory."""
        if self._mount is None:
            return {}
        found = {}
        for directory, _, _ in os.walk(self._mount):
            path = Path(directory)
            try:
                number = path.stat().st_ino
            except OSError:   # gone
                continue
            found[number] = printable(os.fsencode(ROOT / path.relative_to(self._mount)))
        return found


def printable(path: bytes) -> str:
    """Whoever may make a group names it: nothing of it may reach a terminal but plain characters."""
    return "".join(chr(byte) if 31 < byte < 127 else "?" for byte in path)


def _mounted() -> Path | None:
    """Where v2 is, if it is."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4].encode().decode("unicode_escape"))
    return None
