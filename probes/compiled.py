"""Compiled probes as plain values, which can be kept: what bcc makes of a text, without bcc."""

from __future__ import annotations

import base64
import ctypes
import json
import struct
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_64, _OF_A_MAP = 0x18, 1  # BPF_LD | BPF_IMM | BPF_DW, BPF_PSEUDO_MAP_FD


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as a program wants it."""

    name: str
    kind: int
    """enum bpf_map_type."""
    key_size: int
    value_size: int
    entries: int
    flags: int
    key: Any
    """What it is, as bcc describes types."""
    value: Any


@dataclass(frozen=True, slots=True)
class Compiled:
    """The maps and the programs of a text."""

    maps: tuple[MapDefinition, ...]
    programs: dict[str, bytes]
    """By function: its instructions. Where they want a map they have its place in `maps`."""

    def to_json(self) -> str:
        """See from_json."""
        programs = {name: base64.b64encode(code).decode() for name, code in self.programs.items()}
        return json.dumps({"maps": [asdict(one) for one in self.maps], "programs": programs})

    @classmethod
    def from_json(cls, text: str) -> Compiled:
        """What to_json gave. Raises ValueError, KeyError or TypeError for what it did not give."""
        found = json.loads(text)
        programs = {str(name): base64.b64decode(code) for name, code in found["programs"].items()}
        return cls(tuple(MapDefinition(**one) for one in found["maps"]), programs)


def taken_from(bcc: ModuleType, bpf: Any) -> Compiled:
    """What a bcc.BPF has compiled."""
    # Wrapped: as a plain int a pointer would be cut to 32 bits where bcc has not declared the function.
    library, module = bcc.lib, ctypes.c_void_p(bpf.module)
    maps, places = [], {}
    for number in range(library.bpf_num_tables(module)):
        places[library.bpf_table_fd_id(module, ctypes.c_ulonglong(number))] = number
        maps.append(_map_definition(library, module, number))
    programs = {}
    for number in range(library.bpf_num_functions(module)):
        name = library.bpf_function_name(module, ctypes.c_ulonglong(number))
        code = ctypes.string_at(library.bpf_function_start(module, name), library.bpf_function_size(module, name))
        programs[name.decode()] = _renamed(code, places)
    return Compiled(tuple(maps), programs)


def _map_definition(library: Any, module: Any, number: int) -> MapDefinition:
    at = ctypes.c_ulonglong(number)
    library.bpf_table_name.restype = ctypes.c_char_p
    for function in ("bpf_table_key_size_id", "bpf_table_leaf_size_id"):
        getattr(library, function).restype = ctypes.c_size_t
    name = library.bpf_table_name(module, at)
    return MapDefinition(
        name.decode(),
        library.bpf_table_type_id(module, at),
        library.bpf_table_key_size_id(module, at),
        library.bpf_table_leaf_size_id(module, at),
        library.bpf_table_max_entries_id(module, at),
        library.bpf_table_flags_id(module, at),
        json.loads(library.bpf_table_key_desc(module, name)),
        json.loads(library.bpf_table_leaf_desc(module, name)),
    )


def _renamed(code: bytes, places: dict[int, int]) -> bytes:
    """The instructions with other numbers for the maps that they want."""
    renamed = bytearray(code)
    for at in range(0, len(code), _INSTRUCTION.size):
        operation, registers, offset, number = _INSTRUCTION.unpack_from(code, at)
        if operation == _LOAD_64 and registers >> 4 == _OF_A_MAP:
            _INSTRUCTION.pack_into(renamed, at, operation, registers, offset, places[number])
    return bytes(renamed)


def with_maps(code: bytes, descriptors: list[int]) -> bytes:
    """The instructions with the descriptors of the maps that they want."""
    return _renamed(code, dict(enumerate(descriptors)))
