"""Compiled probes in the kernel: their maps, and their programs on tracepoints."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .compiled import Compiled, MapDefinition, with_maps
from .loader import ProbeError, Rejected
from .requirements import SYS_BPF

RAW_TRACEPOINT, TRACEPOINT = 17, 5  # BPF_PROG_TYPE_...
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD, _INFO, _RAW_OPEN = 0, 1, 2, 3, 4, 5, 15, 17
_LOOKUP_BATCH = 24
_PER_CPU = (5, 6, 10)  # BPF_MAP_TYPE_PERCPU_HASH, ..._ARRAY, ..._LRU_PERCPU_HASH
_OF_MAPS = 12  # BPF_MAP_TYPE_ARRAY_OF_MAPS
_INNER = "no_slots"
"""What every map of an array of maps is like."""
_LOG_BYTES = 1 << 16
_BATCH, _BATCH_BYTES = 1024, 1 << 20   # entries, of so many bytes
_NO_BATCHES = (errno.EINVAL, 524)   # ENOTSUPP: before Linux 5.6, and of some maps
_ATTEMPTS = 10
_TYPES: dict[str, Any] = {
    "char": ctypes.c_char,
    "int": ctypes.c_int32,
    "unsigned int": ctypes.c_uint32,
    "long long": ctypes.c_int64,
    "unsigned long long": ctypes.c_uint64,
}
_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """The system call. Raises OSError."""
    buffer, size = ctypes.create_string_buffer(attributes, len(attributes)), len(attributes)
    result = int(_libc.syscall(SYS_BPF[platform.machine()], command, buffer, size))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _with_memory(command: int, attributes: bytes) -> int:
    """Before Linux 5.11 maps and programs count as locked memory."""
    try:
        return bpf(command, attributes)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return bpf(command, attributes)


def _patiently(command: int, attributes: bytes) -> int:
    """The verifier stops with EAGAIN when a signal comes: that says nothing of the program."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _with_memory(command, attributes)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    return _with_memory(command, attributes)


def possible_cpus(told: str | None = None) -> int:
    """How many values a per-CPU map has for each key. told: as the kernel lists them."""
    if told is None:
        told = Path("/sys/devices/system/cpu/possible").read_text()
    ranges = (part.split("-") for part in told.strip().split(","))
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)


class Map:
    """A map of the kernel, as a mapping of ctypes; of one per CPU the values are arrays."""

    def __init__(self, definition: MapDefinition, inner: int, cpus: int) -> None:
        """inner: of an array of maps, the descriptor of what each of them is like. Raises OSError."""
        per_cpu = definition.kind in _PER_CPU
        self.Key = _type_of(definition.key)
        self.Leaf = _type_of(definition.value)
        self._value = self.Leaf * cpus if per_cpu else self.Leaf
        assert ctypes.sizeof(self.Leaf) == definition.value_size
        assert not (per_cpu and definition.value_size % 8), "the kernel puts each on a border of 8"
        sizes = (definition.key_size, definition.value_size, definition.entries, definition.flags)
        self._batch = max(1, min(_BATCH, _BATCH_BYTES // ctypes.sizeof(self._value)))
        """How many entries are asked for at a time; 0 where the kernel gives one only."""
        name = definition.name.encode()[:15]
        self.descriptor = _with_memory(_MAP_CREATE, struct.pack("=6II16s", definition.kind, *sizes, inner, 0, name))

    def _do(self, command: int, key: Any, value: Any) -> bool:
        """Whether the key was there, or had room."""
        key_at, value_at = (0 if one is None else ctypes.addressof(one) for one in (key, value))
        try:
            bpf(command, struct.pack("=IIQQQ", self.descriptor, 0, key_at, value_at, 0))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def __getitem__(self, key: Any) -> Any:
        """Raises KeyError."""
        value = self._value()
        if not self._do(_LOOKUP, key, value):
            raise KeyError(key)
        return value if isinstance(value, (ctypes.Structure, ctypes.Array)) else value.value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._do(_UPDATE, key, value)

    def __delitem__(self, key: Any) -> None:
        """Raises KeyError."""
        if not self._do(_DELETE, key, None):
            raise KeyError(key)

    def keys(self) -> Iterator[Any]:
        """Each in an object of its own. What comes and goes meanwhile may be in it or not, or twice."""
        key = None
        while True:
            following = self.Key()
            if not self._do(_NEXT_KEY, key, following):
                return
            yield following
            key = following

    def items(self) -> Iterator[tuple[Any, Any]]:
        """As keys, with the values of those that are still there."""
        if self._batch:
            yield from self._in_batches()
            return
        for key in self.keys():
            with suppress(KeyError):
                yield key, self[key]

    def _in_batches(self) -> Iterator[tuple[Any, Any]]:
        """The same with few system calls."""
        place, size = None, self._batch
        while True:
            following = ctypes.create_string_buffer(max(4, ctypes.sizeof(self.Key)))
            keys, values = (self.Key * size)(), (self._value * size)()
            error, count = self._next_batch(place, following, keys, values)
            if error == errno.ENOSPC:   # fewer than collide
                size *= 2
                continue
            if place is None and error in _NO_BATCHES:
                self._batch = 0
                yield from self.items()
                return
            if error not in (0, errno.ENOENT):
                raise OSError(error, os.strerror(error))
            for number in range(count):
                value = self._value.from_buffer(values, number * ctypes.sizeof(self._value))
                yield (
                    self.Key.from_buffer(keys, number * ctypes.sizeof(self.Key)),
                    value if isinstance(value, (ctypes.Structure, ctypes.Array)) else value.value,
                )
            if error == errno.ENOENT:   # these were the last
                return
            place = following

    def _next_batch(self, place: Any, following: Any, keys: Any, values: Any) -> tuple[int, int]:
        """The errno, and how many there were."""
        at = (0 if one is None else ctypes.addressof(one) for one in (place, following, keys, values))
        attributes = ctypes.create_string_buffer(struct.pack("=QQQQIIQQ", *at, len(keys), self.descriptor, 0, 0), 56)
        result = int(_libc.syscall(SYS_BPF[platform.machine()], _LOOKUP_BATCH, attributes, 56))
        error = ctypes.get_errno() if result < 0 else 0
        return error, struct.unpack_from("=I", attributes, 32)[0] if error in (0, errno.ENOENT) else 0

    def values(self) -> Iterator[Any]:
        """As items."""
        return (value for _, value in self.items())

    def __len__(self) -> int:
        return sum(1 for _ in self.keys())

    def clear(self) -> None:
        """Not of an array."""
        for key in list(self.keys()):
            with suppress(KeyError):
                del self[key]


def _type_of(description: Any) -> Any:
    """The ctypes of what bcc describes as "unsigned int", or [name, [[field, type], [field, type, [length]]], ...]."""
    if isinstance(description, str):
        return _TYPES[description]
    name, members = description[:2]
    fields = []
    for field, kind, *length in members:
        of_one = _type_of(kind)
        fields.append((field, of_one * length[0][0] if length else of_one))
    return type(name, (ctypes.Structure,), {"_pack_": 1, "_fields_": fields})


class Loaded:
    """The maps of compiled probes, and those of their programs that are wanted; all gone with close()."""

    def __init__(self, compiled: Compiled) -> None:
        """Makes the maps. Raises ProbeError, and then leaves nothing behind."""
        self._compiled = compiled
        self._maps: dict[str, Map] = {}
        self._programs: dict[str, int] = {}
        self._links: dict[str, int] = {}
        try:
            for definition in sorted(compiled.maps, key=lambda one: one.kind == _OF_MAPS):
                inner = self._maps[_INNER].descriptor if definition.kind == _OF_MAPS else 0
                self._maps[definition.name] = Map(definition, inner, possible_cpus())
        except OSError as error:
            self.close()
            raise ProbeError(f"the map {definition.name}: {error.strerror}") from error

    def map(self, name: str) -> Map:
        """By its name in the text."""
        return self._maps[name]

    def program(self, function: str, kind: int = RAW_TRACEPOINT) -> int:
        """The descriptor of a program, which is loaded if it was not. Raises Rejected."""
        if function not in self._programs:
            descriptors = [self._maps[one.name].descriptor for one in self._compiled.maps]
            code = with_maps(self._compiled.programs[function], descriptors)
            self._programs[function] = _load(function, kind, code)
        return self._programs[function]

    def attach(self, tracepoint: str, function: str) -> None:
        """Hangs a program on a raw tracepoint. Raises ProbeError."""
        name = ctypes.create_string_buffer(tracepoint.encode())
        attributes = struct.pack("=QII", ctypes.addressof(name), self.program(function), 0)
        try:
            self._links[tracepoint] = bpf(_RAW_OPEN, attributes)
        except OSError as error:
            raise ProbeError(f"{tracepoint}: {error.strerror}") from error

    def detach(self, tracepoint: str) -> None:
        """Takes it off again; nothing if it is not there."""
        if tracepoint in self._links:
            os.close(self._links.pop(tracepoint))

    def info(self, function: str) -> ctypes.Array[ctypes.c_uint64]:
        """struct bpf_prog_info up to recursion_misses and one beyond; 0 stays in what a kernel does not know."""
        info = (ctypes.c_uint64 * 28)()
        bpf(_INFO, struct.pack("=IIQ", self._programs[function], ctypes.sizeof(info), ctypes.addressof(info)))
        return info

    def close(self) -> None:
        """Detaches all and forgets it; twice is safe."""
        for descriptor in (*self._links.values(), *self._programs.values()):
            os.close(descriptor)
        for one in self._maps.values():
            os.close(one.descriptor)
        self._links, self._programs, self._maps = {}, {}, {}


def _load(function: str, kind: int, code: bytes) -> int:
    buffer, gpl = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    places = (ctypes.addressof(buffer), ctypes.addressof(gpl))

    def load(*log: int) -> int:
        given = struct.pack("=IIQQIIQII16s", kind, len(code) // 8, *places, *log, 0, 0, function.encode()[:15])
        return _patiently(_PROG_LOAD, given)

    try:
        return load(0, 0, 0)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise ProbeError(f"{function}: {error.strerror}") from error
        log = ctypes.create_string_buffer(_LOG_BYTES)
        with suppress(OSError):
            os.close(load(1, _LOG_BYTES, ctypes.addressof(log)))   # to be told why
        said = log.value.decode(errors="replace").strip()
        raise Rejected(f"{function}: {error.strerror}" + (f"\n{said}" if said else "")) from error
