"""On which cores the threads of guests run, where the cpuset of their process changes meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from channels import HANG, eventually

CORES = sorted(os.sched_getaffinity(0))
GROUPS = Path("/sys/fs/cgroup")

PROGRAM = """
import os, sys
from pathlib import Path
from cwasi_fastpath.placing import Thread

group, one, other = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cores = group / "cpuset.cpus"
(group / "cgroup.procs").write_text(str(os.getpid()))
thread = Thread()
thread.begins()
thread.place({one})
cores.write_text(f"{other}")
assert thread.allowed() == {other}, thread.allowed()
thread.place({other})
assert thread.allowed() == {other}, thread.allowed()
cores.write_text(f"{one},{other}")
assert thread.allowed() == {one, other}, thread.allowed()
thread.place({one})
cores.write_text(f"{other}")
thread.place(None)
cores.write_text(f"{one},{other}")
print(sorted(os.sched_getaffinity(0)))
"""


@pytest.fixture
def cpuset() -> Iterator[Path]:
    """A control group for the cores of a process."""
    if os.geteuid() != 0 or len(CORES) < 2:
        pytest.skip("needs root and two cores")
    v1 = GROUPS / "cpuset"
    root = v1 if v1.is_dir() else GROUPS
    group = root / f"cwasi-test-{os.getpid()}"
    try:
        if root is GROUPS:
            (GROUPS / "cgroup.subtree_control").write_text("+cpuset")
        group.mkdir()
        (group / "cpuset.mems").write_text("0")
        (group / "cpuset.cpus").write_text(",".join(map(str, CORES)))
    except OSError as error:
        pytest.skip(f"no control group with cpusets: {error}")
    yield group
    eventually(lambda: removed(group))


def removed(group: Path) -> bool:
    """Who was in it has ended, but the kernel may not have taken note yet."""
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def test_a_cpuset_is_narrowed_and_widened(cpuset: Path) -> None:
    """As taskset does it looks, but nobody has chosen cores for the thread."""
    argv = [sys.executable, "-c", PROGRAM, str(cpuset), str(CORES[0]), str(CORES[1])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANG)
    assert (done.stdout, done.stderr) == (f"{CORES[:2]}\n", "")
