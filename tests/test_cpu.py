"""The cores that are there, and what control groups leave of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cwasi_fastpath.cpu import usable_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b", {"a/b/cpu.max": "25000 100000", "a/cpu.max": "50000 100000"}, 0.25),
        ("0::/", {}, ALL),
        ("0::/a", {"a/cpu.max": "nonsense"}, ALL),
        ("4:cpu,cpuacct:/c", {"cpu/c/cpu.cfs_quota_us": "50000", "cpu/c/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpu,cpuacct:/c", {"cpu/c/cpu.cfs_quota_us": "-1", "cpu/c/cpu.cfs_period_us": "100000"}, ALL),
        ("4:memory:/c", {"cpu/c/cpu.cfs_quota_us": "50000", "cpu/c/cpu.cfs_period_us": "100000"}, ALL),
    ],
)
def test_quotas(line: str, files: dict[str, str], cores: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    groups = tmp_path / "groups"
    groups.write_text(line + "\n")
    assert usable_cores(groups, tmp_path) == cores


def test_without_control_groups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path) == ALL


def test_here() -> None:
    assert 0 < usable_cores() <= ALL
