"""Counts that have been taken out of the kernel's maps, and how they are added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, fields, replace
from operator import add
from typing import Any, ClassVar, TypeVar

NOBODY = 0  # an owner without a name
_MOST = 1 << 17  # records of a kind; who is traced may make as many as it likes
Key = tuple[int | str, ...]
Counts = TypeVar("Counts", bound="Counted")


@dataclass(frozen=True, slots=True)
class Counted:
    """What one owner did of one kind."""

    owner: int
    """A function's, or a process's key, which is >= 2**32."""

    NAMES: ClassVar[tuple[str, ...]] = ("owner",)
    """The fields that are no counts."""

    @property
    def key(self) -> Key:
        """Tells it from others of its kind."""
        return tuple(getattr(self, name) for name in self.NAMES)

    def plus(self: Counts, other: Counts) -> Counts:
        """The two added up."""
        sums: dict[str, Any] = {}
        for name in (field.name for field in fields(self) if field.name not in self.NAMES):
            mine, its = getattr(self, name), getattr(other, name)
            sums[name] = tuple(map(add, mine, its)) if isinstance(mine, tuple) else mine + its
        return replace(self, **sums)


def of_owners(counts: Iterable[Counts], owners: Set[int] | None) -> Iterator[Counts]:
    """Those of these owners; None: all."""
    return (one for one in counts if owners is None or one.owner in owners)


def take_out(table: Any, mine: Callable[[Any], bool]) -> Iterator[tuple[Any, Any]]:
    """The entries of some keys, which are deleted."""
    for key in [key for key in table.keys() if mine(key)]:  # noqa: SIM118 - a bcc table, not a dict
        yield key, table[key]
        del table[key]


def put(past: dict[Key, Counts], counts: Counts) -> None:
    """Adds counts to what was put away before; to those of NOBODY where that has become too much."""
    if counts.key not in past and len(past) >= _MOST:
        counts = replace(counts, owner=NOBODY)
    before = past.get(counts.key)
    past[counts.key] = counts if before is None else counts.plus(before)
