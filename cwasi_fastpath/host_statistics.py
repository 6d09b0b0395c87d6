"""The statistics that a host hands to the tracer: a memfd, which is taken for hostile.

It is read by pread, once, never mapped: whoever truncates it gets a host without statistics. All that stands in it is
about the host itself.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from ._native import ffi, lib
from .errors import BadName
from .modes import Mode, Transport
from .names import checked

VERSION: int = lib.CWASI_STATISTICS_VERSION
_GET_SEALS, _SEALS = 1034, 0x7   # F_GET_SEALS; F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
_SIZE: int = ffi.sizeof("cwasi_statistics")
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class FunctionCounts:
    """What a function of a host did; ns, and how often."""

    id: int
    """Its index; what belongs to it then is a number."""
    ns: int
    calls: int
    calls_ns: int
    waited_ns: int
    copying_ns: int

    def since(self, before: FunctionCounts) -> FunctionCounts:
        """What came after that."""
        return _minus(self, before, ("id",))

    def plus(self, other: FunctionCounts) -> FunctionCounts:
        """The two added up."""
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in _FUNCTION})


@dataclass(frozen=True, slots=True)
class EndCounts:
    """What an end of a channel of a host counted."""

    number: int
    channel: str
    peers: tuple[str, ...]
    transport: str
    """Empty where it is not known."""
    sends: bool
    mode: str
    function: int
    """The number of the function that used it last, 0 if none did."""
    calls: int
    calls_ns: int
    waited_ns: int
    copying_ns: int
    messages: int
    bytes: int
    copied_bytes: int
    waits: int
    parks: int
    wakes: int
    timed: int
    timed_ns: int


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """What a host said of itself."""

    functions: tuple[FunctionCounts, ...] = ()
    ends: tuple[EndCounts, ...] = ()
    missed: int = 0
    """Ends of channels that are not in it, for lack of room or because they made no sense."""

    def since(self, before: HostStatistics) -> HostStatistics:
        """What came after that."""
        functions = {counts.id: counts for counts in before.functions}
        ends = {counts.number: counts for counts in before.ends}
        return HostStatistics(
            tuple(_minus(now, functions.get(now.id), ("id",)) for now in self.functions),
            tuple(_minus(now, ends.get(now.number), ("number", "sends", "function")) for now in self.ends),
            self.missed,
        )


NOTHING = HostStatistics()
Counts = TypeVar("Counts", FunctionCounts, EndCounts)


def _minus(now: Counts, before: Counts | None, names: Sequence[str]) -> Counts:
    """Less of all that is counted; never below 0."""
    if before is None:
        return now
    counted = {field.name: getattr(now, field.name) for field in fields(now) if field.name not in names}
    numbers = {name: value for name, value in counted.items() if isinstance(value, int)}
    return replace(now, **{name: max(0, value - getattr(before, name)) for name, value in numbers.items()})


def check_file(descriptor: int) -> None:
    """Raises ValueError for what is not a sealed memfd of the right size, from which reading could block or fail."""
    try:
        seals = fcntl.fcntl(descriptor, _GET_SEALS)
    except OSError:
        seals = 0
    # Only what has seals is asked: fstat could block, too.
    if seals & _SEALS != _SEALS or not _is_right(os.fstat(descriptor)):
        raise ValueError("not a sealed file of the right size")


def _is_right(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size == _SIZE


def read_file(descriptor: int) -> HostStatistics:
    """What stands in it now."""
    content = os.pread(descriptor, _SIZE, 0)
    table = ffi.from_buffer("cwasi_statistics *", content)
    if len(content) != _SIZE or table.magic != lib.CWASI_STATISTICS_MAGIC or table.version != VERSION:
        return HostStatistics()
    ends = [_end(number, table.end[number]) for number in range(min(table.ends, lib.CWASI_ENDS_MAX))]
    known = tuple(end for end in ends if end is not None)
    return HostStatistics(tuple(_functions(table)), known, table.missed + len(ends) - len(known))


def read_function(descriptor: int, index: int) -> FunctionCounts:
    """What stands at one index now."""
    size = ffi.sizeof("cwasi_function_statistics")
    content = os.pread(descriptor, size, ffi.offsetof("cwasi_statistics", "functions") + index * size)
    if len(content) != size:
        return FunctionCounts(index, 0, 0, 0, 0, 0)
    return _function(index, ffi.from_buffer("cwasi_function_statistics *", content))


_FUNCTION = ("ns", "calls", "calls_ns", "waited_ns", "copying_ns")
_END = ("calls", "calls_ns", "waited_ns", "copying_ns")
_COUNTED = ("messages", "bytes", "copied_bytes", "waits", "parks", "wakes", "timed", "timed_ns")


def _functions(table: ffi.CData) -> Iterator[FunctionCounts]:
    for index in range(1, lib.CWASI_FUNCTIONS_MAX):
        found = table.functions[index]
        if found.ns or found.calls:
            yield _function(index, found)


def _function(index: int, found: ffi.CData) -> FunctionCounts:
    return FunctionCounts(index, *(min(getattr(found, name), _LARGEST) for name in _FUNCTION))


def _end(number: int, found: ffi.CData) -> EndCounts | None:
    """None for what no honest host writes."""
    try:
        channel = checked(_text(found.channel), "channel")
        peers = tuple(checked(name, "function") for name in _text(found.peers).split())
        transport = _text(found.transport)
        mode = Mode(found.mode)
        known = transport == "" or transport in set(Transport)
    except (BadName, ValueError):
        return None
    if not known or found.role not in (lib.CWASI_SENDER, lib.CWASI_RECEIVER):
        return None
    numbers = (min(getattr(found, name), _LARGEST) for name in (*_END, *_COUNTED))
    return EndCounts(
        number, channel, peers, transport, found.role == lib.CWASI_SENDER, str(mode), found.function, *numbers
    )


def _text(field: ffi.CData) -> str:
    """Up to its end or a 0. Raises ValueError."""
    return bytes(ffi.buffer(field)).partition(b"\0")[0].decode("ascii")
