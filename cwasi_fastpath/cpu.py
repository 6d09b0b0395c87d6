"""How many cores this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = Path("/proc/self/cgroup"), mounted: Path = _CGROUPS) -> float:
    """The cores of its affinity mask, or what a quota of its control groups leaves of them."""
    cores = float(len(os.sched_getaffinity(0)))
    return min([cores, *_quotas(cgroup, mounted)])


def _quotas(cgroup: Path, mounted: Path) -> Iterator[float]:
    """Of each group from ours up to the root, in cores: version 2 has cpu.max, version 1 two files."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / "cpu" if controllers else mounted
        group = root / path.lstrip("/")
        for directory in (group, *group.parents):
            yield from _quota(directory)
            if directory == root:
                break


def _quota(directory: Path) -> Iterator[float]:
    try:
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
