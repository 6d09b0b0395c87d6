"""What the soak takes of the machine: memory, descriptors, mappings, threads, of this process and of its children."""

from __future__ import annotations

import gc
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_SLACK = {"own_rss": 8 << 20, "pss": 16 << 20, "descriptors": 8, "maps": 24, "threads": 4}
"""What a series may grow by from its middle third to its last third, at least; a tenth otherwise."""
_SHARE = 0.10


@dataclass(frozen=True, slots=True)
class Footprint:
    """At one moment; bytes, or numbers. All but pss are those of this process."""

    own_rss: int
    pss: int
    """Proportional set sizes of all processes, so that shared pages count once."""
    descriptors: int
    maps: int
    threads: int
    processes: int


def take() -> Footprint:
    """The footprint now, without what only waits for Python's collector."""
    gc.collect()
    me = Path("/proc/self")
    children = psutil.Process().children(recursive=True)
    status = (me / "status").read_text()
    return Footprint(
        own_rss=_kib(status, "VmRSS"),
        pss=sum(_pss(pid) for pid in (os.getpid(), *(child.pid for child in children))),
        descriptors=len(list((me / "fd").iterdir())),
        maps=(me / "maps").read_bytes().count(b"\n"),
        threads=int(re.findall(r"^Threads:\s+(\d+)", status, flags=re.M)[0]),
        processes=1 + len(children),
    )


def _kib(text: str, name: str) -> int:
    return 1024 * int(re.findall(rf"^{name}:\s+(\d+) kB", text, flags=re.M)[0])


def _pss(pid: int) -> int:
    try:
        return _kib(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")
    except (OSError, IndexError):   # it has just ended
        return 0


def growth(series: Sequence[Footprint]) -> dict[str, tuple[float, float, bool]]:
    """For each figure the medians of the middle and of the last third, and whether that is flat."""
    third = len(series) // 3
    found = {}
    for name, slack in _SLACK.items():
        values = [asdict(one)[name] for one in series]
        middle, last = (statistics.median(part) if part else 0 for part in (values[third : 2 * third], values[-third:]))
        found[name] = (middle, last, last - middle <= max(slack, _SHARE * middle))
    return found


def shared_memory() -> frozenset[str]:
    """The names in /dev/shm that are ours."""
    uid = os.getuid()
    return frozenset(path.name for path in Path("/dev/shm").iterdir() if path.lstat().st_uid == uid)


def rings_mapped() -> int:
    """Mappings of rings and of tallies in this process."""
    return len(re.findall(r"memfd:cwasi-", Path("/proc/self/maps").read_text()))
