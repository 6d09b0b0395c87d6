"""Which two cores a pair gets: plain data, and this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cwasi_fastpath.core_pair import Core, pair, topology
from cwasi_fastpath.placing import sets
from cwasi_fastpath.policy import Cores

SMT = {0: Core(0, 0), 1: Core(0, 1), 2: Core(0, 0), 3: Core(0, 1)}
SOCKETS = {0: Core(0, 0), 1: Core(1, 0), 2: Core(0, 1), 3: Core(1, 1)}


@pytest.mark.parametrize(
    ("order", "cores", "wanted"),
    [
        ([0, 1, 2, 3], SMT, (0, 1)),
        ([0, 2, 1, 3], SMT, (0, 1)),
        ([2, 0, 3], SMT, (2, 3)),
        ([0, 2], SMT, (0, 2)),
        ([0, 1, 2, 3], SOCKETS, (0, 2)),
        ([1, 0, 2, 3], SOCKETS, (1, 3)),
        ([0, 1], SOCKETS, (0, 1)),
        ([0, 2, 1], {0: Core(0, 0), 2: Core(0, 0), 1: Core(1, 0)}, (0, 1)),
        ([7, 5], {}, (7, 5)),
        (list(range(512)), {}, (0, 1)),
    ],
)
def test_two_physical_cores_of_one_package_first(
    order: list[int], cores: dict[int, Core], wanted: tuple[int, int]
) -> None:
    assert pair(order, cores) == wanted


def test_what_the_kernel_tells(tmp_path: Path) -> None:
    for name, package, physical in (("cpu0", "0\n", "4\n"), ("cpu11", "1\n", "0\n"), ("cpu3", "0\n", "none\n")):
        there = tmp_path / name / "topology"
        there.mkdir(parents=True)
        (there / "physical_package_id").write_text(package)
        (there / "core_id").write_text(physical)
    (tmp_path / "cpufreq").mkdir()
    topology.cache_clear()
    assert topology(tmp_path) == {0: Core(0, 4), 11: Core(1, 0)}
    topology.cache_clear()
    assert topology(tmp_path / "none") == {}
    topology.cache_clear()


def test_of_this_machine() -> None:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.skip("it has one core")
    one, other = pair(usable, topology())
    assert one != other and {one, other} <= set(usable)
    assert sets(Cores.TWO, usable) == ({one}, {other}), "guests are placed where it was measured"
