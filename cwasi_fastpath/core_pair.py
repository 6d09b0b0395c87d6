"""Which two cores two threads get that work together: of those that there are, the nearest two that share nothing but a
cache. What was measured on such a pair holds for another such pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

_CORES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Core:
    """Where one that the kernel counts is."""

    package: int
    """The socket."""
    physical: int
    """In it; those with the same number are threads of one core."""


def pair(order: Sequence[int], cores: Mapping[int, Core]) -> tuple[int, int]:
    """Two of these, those first that come first: two physical cores of one package where there are, else of two
    packages, else what there is. order: at least two. cores: as topology() gives it; who is not in it shares nothing.
    """
    found = ((two, _apart(*(cores.get(one, Core(-1, one)) for one in two))) for two in combinations(order, 2))
    best = next(found)
    for one in found:
        if not best[1]:
            break   # it gets no better, and on a large machine there are many
        best = min(best, one, key=lambda each: each[1])
    return best[0]


def _apart(one: Core, other: Core) -> int:
    """The less the better."""
    if one == other:
        return 2   # they share the units that work
    return int(one.package != other.package)


@lru_cache(maxsize=1)
def topology(directory: Path = _CORES) -> Mapping[int, Core]:
    """Of each core of which the kernel tells."""
    found = {}
    for path in directory.glob("cpu[0-9]*/topology"):
        try:
            package, physical = (int((path / name).read_text()) for name in ("physical_package_id", "core_id"))
            found[int(path.parent.name.removeprefix("cpu"))] = Core(package, physical)
        except (OSError, ValueError):
            continue
    return found
