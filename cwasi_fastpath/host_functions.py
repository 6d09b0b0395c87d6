"""The functions of one host of a trace: which number stands for which, and what its statistics say of them.

A host says it itself, see tracer_socket; all of it is about the host alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .host_statistics import NOTHING, FunctionCounts, HostStatistics, read_file, read_function
from .owner_names import OTHER, OwnerNames

_NUMBERS = 1 << 13   # that ends of channels may still say


class Seat(Protocol):
    """A host's place in the trace."""

    @property
    def owner(self) -> int:
        """Whom what has no owner of its own is charged to."""

    @property
    def descriptor(self) -> int:
        """Of its map."""


class Seats(Protocol):
    """Where it has it."""

    indexes: int
    """Of the functions of a host at a time, 0 included. The last two are nobody's."""

    def name(self, seat: Any, number: int, owner: int | None) -> int | None:
        """The number stands for this owner from now on; for a new one where it is None. None if there is none."""

    def retire(self, owners: list[int]) -> None:
        """No number stands for them any more."""


@dataclass(frozen=True, slots=True)
class _Function:
    """What has an index now."""

    number: int
    name: str
    owner: int


class HostFunctions:
    """Those of one host."""

    def __init__(self, seat: Seat, seats: Seats, names: OwnerNames, pid: int) -> None:
        self.seat = seat
        self._seats = seats
        self._names = names
        self._pid = pid
        self._now: dict[int, _Function] = {}
        """By index."""
        self._named: set[str] = set()
        """What these are called."""
        self._owners: dict[str, int] = {}
        """Of all that ever were."""
        self._numbers: dict[int, int] = {}
        """The owners by number, past ones too."""
        self._file: int | None = None
        self._before: HostStatistics = NOTHING
        """What stood of ends in its file when we got it."""
        self._base: dict[int, FunctionCounts] = {}
        """What stood at an index when its function got it."""
        self._past: dict[int, FunctionCounts] = {}
        """What functions did at indexes that they have no more, by owner."""

    def say(self, number: int, name: str) -> None:
        """From now on the number stands for that function, and nothing for what had its index before.

        Raises ValueError, OSError.
        """
        index = number % self._seats.indexes
        if not 0 < index < self._seats.indexes - 2:
            raise ValueError(f"{number} is no number of a function")
        now = self._now.get(index)
        if now is not None and (now.number, now.name) == (number, name):
            return
        if number in self._numbers or name in self._named:
            raise ValueError(f"{number} or {name} has been told already")
        self._settle(index)
        left = self._now.pop(index, None)
        if left is not None:
            self._named.remove(left.name)
        if name != OTHER and (name in self._owners or not self._names.full):
            self._give(index, number, name)
        if left is not None:
            if index not in self._now:   # who goes on with the old number must not count for who has retired
                self._seats.name(self.seat, number, self.seat.owner)
            self._seats.retire([left.owner])

    def _give(self, index: int, number: int, name: str) -> None:
        known = self._owners.get(name)
        owner = self._seats.name(self.seat, number, known)
        if owner is None:
            return
        if known is None:
            self._names.add(owner, name, self._pid)
            self._owners[name] = owner
        self._now[index] = _Function(number, name, owner)
        self._named.add(name)
        self._numbers[number] = owner
        if len(self._numbers) > _NUMBERS:
            said = {end.function for end in self._content().ends} | {function.number for function in self._now.values()}
            self._numbers = {number: owner for number, owner in self._numbers.items() if number in said}

    def take(self, file: int) -> None:
        """Its statistics, whose descriptor is ours from now on. Raises ValueError if there are some already."""
        if self._file is not None:
            raise ValueError("there are statistics already")
        found = read_file(file)
        self._file = file
        self._before = replace(found, functions=())
        self._base = {counts.id: counts for counts in found.functions}

    def statistics(self) -> HostStatistics:
        """What it did since it is in the trace: functions by owner."""
        found = self._content()
        past = dict(self._past)
        for counts in found.functions:
            _add(past, self._owner_at(counts.id), counts, self._base.get(counts.id))
        ends = tuple(replace(end, function=self._who(end.function)) for end in found.since(self._before).ends)
        return HostStatistics(tuple(past.values()), ends, found.missed)

    def leave(self) -> HostStatistics:
        """Its last words; to be called once."""
        last = self.statistics()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        return last

    def owners(self) -> list[int]:
        """Of what has a number now, of what has none, and of the threads that wasmtime starts."""
        return [*(function.owner for function in self._now.values()), self.seat.owner, self.seat.owner + 1]

    def owners_of(self, numbers: Iterable[int]) -> dict[int, int]:
        """The owners of those numbers that stand for a function now."""
        now = {function.number: function.owner for function in self._now.values()}
        return {number: now[number] for number in numbers if number in now}

    def _settle(self, index: int) -> None:
        """What was counted at an index is of who had it until now."""
        if self._file is None:
            return
        counts = read_function(self._file, index)
        _add(self._past, self._owner_at(index), counts, self._base.get(index))
        self._base[index] = counts

    def _content(self) -> HostStatistics:
        if self._file is None:
            return NOTHING
        try:
            return read_file(self._file)
        except OSError:
            return NOTHING

    def _owner_at(self, index: int) -> int:
        return self._now[index].owner if index in self._now else self.seat.owner

    def _who(self, number: int) -> int:
        return self._numbers.get(number, self.seat.owner) if number else 0


def _add(past: dict[int, FunctionCounts], owner: int, counts: FunctionCounts, base: FunctionCounts | None) -> None:
    """What came since base."""
    more = replace(counts if base is None else counts.since(base), id=owner)
    if more.ns or more.calls:
        past[owner] = more.plus(past[owner]) if owner in past else more
