"""The hosts of a trace: gives each a map of slots of its own, and tells threads.bpf.c which is whose."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .kernel import Map
from .requirements import SYS_BPF

FUNCTIONS = 1024  # of a host at a time, by index; a thread's slot holds 0 while it runs none
PLACES = 384  # hosts at a time, where the tracer may have the descriptors
SLOTS = 8192  # of a host; a power of two
PROBES = 4  # as in record.h
OWNERS = 1 << 32  # above are processes
_MAP_CREATE, _ARRAY, _MMAPABLE = 0, 2, 1 << 10


@dataclass(frozen=True, slots=True)
class Seat:
    """What a host has while it is connected."""

    owner: int
    """Of what has no owner of its own; the next is that of the threads that wasmtime starts for WASI. As all owners,
    they are never given out again.
    """
    group: int
    """The process, in the initial pid namespace."""
    place: int
    descriptor: int
    """Of its map: {u32 tid, u32 id}[SLOTS]."""


class Hosts:
    """Who has joined a trace, and left it."""

    def __init__(self, maps: Callable[[str], Map]) -> None:
        """maps: the maps of the programs by name."""
        self._maps = maps
        self._free = list(range(PLACES, 0, -1))
        self._left: list[int] = []
        """Places of which a program that runs right now may still think that its thread's host is there."""
        self._next = 1
        self._joins = 0

    def join(self, group: int, namespace: tuple[int, int], alive: Callable[[], bool]) -> Seat | None:
        """Lets a process in: its threads, and the children that it forks. None where there is no room.

        namespace: its pid namespace, see namespace_of; in any other its threads would not be found. alive: whether that
        process, and not the next of its pid, is still there. Raises OSError.
        """
        if not self._free:
            self._clear()
        if not self._free or self._next + 2 > OWNERS:
            return None
        descriptor = _create_slots()
        seat = Seat(self._next, group, self._free[-1], descriptor)
        self._sit(seat.place, 0, namespace)
        try:
            self._set_slots(seat.place, descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._free.pop()
        self._next += 2
        joined = self._maps("joined")
        joined[ctypes.c_uint32(group)] = joined.Leaf(owner=seat.owner, place=seat.place, generation=self._joins + 1)
        self._joins += 1
        self._maps("generation")[ctypes.c_int(0)] = ctypes.c_uint32(self._joins)
        if not alive():
            self.leave(seat)
            return None
        # Only now does it count: who has taken its pid meanwhile would be charged to it.
        self._sit(seat.place, seat.owner, namespace)
        return seat

    def name(self, seat: Seat, number: int, owner: int | None = None) -> int | None:
        """From now on the number stands for a function of a host, and its index for no other.

        owner: the function's, where it has one already. Returns it, or None where there are no more.
        """
        if owner is None:
            if self._next >= OWNERS:
                return None
            owner, self._next = self._next, self._next + 1
        functions = self._maps("functions")
        index = seat.place * FUNCTIONS + number % FUNCTIONS
        key = ctypes.c_int(index)
        # One word after the other, while no slot has its number: the kernel may copy byte by byte.
        for word, who in ((0, functions[key].owner), (0, owner), (number, owner)):
            functions[key] = functions.Leaf(number=word, owner=who)
        return owner

    def leave(self, seat: Seat) -> None:
        """Takes its map away; its threads, where it has any, are charged to the process again."""
        self._sit(seat.place, 0, (0, 0))
        joined, key = self._maps("joined"), ctypes.c_uint32(seat.group)
        with suppress(KeyError):
            if joined[key].owner == seat.owner:
                del joined[key]
        os.close(seat.descriptor)   # the map stays until another one takes its place
        self._left.append(seat.place)

    def forget(self, group: int) -> None:
        """A process of that number is to be followed: whoever had it before was another."""
        with suppress(KeyError):
            del self._maps("joined")[ctypes.c_uint32(group)]

    def wait(self) -> None:
        """Until all programs that run now have ended. Raises OSError."""
        descriptor = _create_slots()
        try:
            self._set_slots(0, descriptor)   # where nobody ever is
        finally:
            os.close(descriptor)

    def _clear(self) -> None:
        self.wait()
        self._free, self._left = self._left, []

    def _sit(self, place: int, owner: int, namespace: tuple[int, int]) -> None:
        hosts = self._maps("hosts")
        hosts[ctypes.c_int(place)] = hosts.Leaf(owner=owner, dev=namespace[0], ino=namespace[1])

    def _set_slots(self, place: int, descriptor: int) -> None:
        """Returns when all programs that ran before have ended; the kernel waits for them, some ten milliseconds."""
        self._maps("slots")[ctypes.c_int(place)] = ctypes.c_int(descriptor)


def namespace_of(device: int, inode: int) -> tuple[int, int]:
    """A pid namespace as the kernel names it: its encoding of a device number is not that of stat."""
    return os.major(device) << 20 | os.minor(device), inode


def _create_slots() -> int:
    attributes = struct.pack("5I", _ARRAY, 4, 8, SLOTS, _MMAPABLE)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(SYS_BPF[platform.machine()], _MAP_CREATE, attributes, len(attributes))
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"no map for a host: {os.strerror(error)}")
    return int(descriptor)   # closed on exec, as all descriptors of bpf()
