"""What the machine charges: what a policy predicts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from ..errors import BadSpec
from ..modes import Transport
from .way import Way

SIZES = (64, 1024, 16384, 262144, 1 << 20, 4 << 20)
"""The classes of size that are measured, bytes."""

SLICE_NS = 3e6
"""What the kernel's scheduler lets a thread run while another waits for its core, as it is usually set."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a message was measured to take on one way, by its size."""

    sizes: tuple[float, ...]
    """Ascending, at least one."""
    latency_ns: tuple[float, ...]
    """Of one message from send to receipt, with nothing before it and the receiver ready."""
    stream_ns: tuple[float, ...] = ()
    """Of one of many messages that follow each other; empty: not measured."""
    cpu_ns: tuple[float, ...] = ()
    """Of both ends, for one message; empty: not measured."""
    error: float = 0.15
    """By how much of it a prediction from this may be wrong, one standard deviation."""
    pauses: tuple[float, ...] = ()
    """Between messages, ns, ascending, for which it was measured what a message costs more after them."""
    rest_ns: tuple[float, ...] = ()
    """A small one; on a ring, if its receiver sleeps."""
    rest_byte: tuple[float, ...] = ()
    """Each byte more."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the machine charges, ns; measured at start (cwasi_fastpath.calibration)."""

    syscall: float
    copy_byte: float
    hop: float
    """A cache line from one core to another, one way; 0 on a single core."""
    wake: float
    """Waking a sleeping thread until it runs."""
    pipe_message: float
    """A small message through a pipe: write and read, without the wake."""
    pipe_byte: float
    redis_message: float | None = None
    """A small message through the server, where one is configured."""
    curves: Mapping[Way, Curve] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """Of each way that was measured; what was not is derived from the parts above."""
    switch: Mapping[Transport, float] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """What it takes to switch to a transport: what the messages that meet it wait longer, in all."""
    slice: float = SLICE_NS
    """How long a thread may have to wait for a core that another one has."""
    cores: int = 2
    """How many this process may use."""

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        parts: dict[str, Any] = {name: getattr(self, name) for name in _PARTS}
        parts["curves"] = {
            str(way): {name: getattr(curve, name) for name in Curve.__slots__} for way, curve in self.curves.items()
        }
        parts["switch"] = {str(transport): ns for transport, ns in self.switch.items()}
        return parts

    @classmethod
    def from_plain(cls, plain: object) -> Self:
        """Of what to_plain made. Raises BadSpec for anything else."""
        if not isinstance(plain, dict):
            raise BadSpec("costs are an object of JSON")
        parts: dict[str, Any] = {name: number(plain, name) for name in _PARTS if name not in _OPTIONAL}
        parts.update({name: number(plain, name) for name in _OPTIONAL if plain.get(name) is not None})
        parts["cores"] = int(parts.get("cores", 2))
        curves, switch = plain.get("curves", {}), plain.get("switch", {})
        if not isinstance(curves, dict) or not isinstance(switch, dict):
            raise BadSpec("costs: curves and switch are objects of JSON")
        parts["curves"] = {Way.parse(name): _curve(name, curve) for name, curve in curves.items()}
        parts["switch"] = {Way.parse(name).transport: number(switch, name) for name in switch}
        return cls(**parts)


_PARTS = (
    "syscall", "copy_byte", "hop", "wake", "pipe_message", "pipe_byte", "redis_message", "slice", "cores",
)  # fmt: skip
_OF_PAUSES = ("pauses", "rest_ns", "rest_byte")
_OPTIONAL = ("redis_message", "slice", "cores")
_WORST_ERROR = 10.0
_HIGHEST = 1e15
"""Eleven days in ns: what is more is no measurement."""


def number(plain: Mapping[str, Any], name: str) -> float:
    """A figure that can be one of a measurement. Raises BadSpec."""
    value = plain.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _HIGHEST:
        raise BadSpec(f"{name} is a number from 0 to {_HIGHEST:g}, not {value!r}")
    return value


def _curve(name: str, plain: object) -> Curve:
    if not isinstance(plain, dict):
        raise BadSpec(f"the curve of {name} is an object of JSON")
    lists = {key: _numbers(name, key, plain.get(key, [])) for key in Curve.__slots__ if key != "error"}
    sizes = lists["sizes"]
    if not sizes or sorted(set(sizes)) != list(sizes):
        raise BadSpec(f"the sizes of {name} ascend, and there is at least one")
    pauses = lists["pauses"]
    if sorted(set(pauses)) != list(pauses) or (pauses and pauses[0] <= 0):
        raise BadSpec(f"the pauses of {name} ascend")
    for key, values in lists.items():
        if key in _OF_PAUSES and len(values) != len(pauses):
            raise BadSpec(f"{key} of {name} has a figure for each of its {len(pauses)} pauses, not {len(values)}")
        if key not in _OF_PAUSES and len(values) != len(sizes) and (values or key == "latency_ns"):
            raise BadSpec(f"{key} of {name} has a figure for each of its {len(sizes)} sizes, not {len(values)}")
    error = number(plain, "error") if "error" in plain else 0.15
    if error > _WORST_ERROR:
        raise BadSpec(f"the error of {name} is a part of what was measured, at most {_WORST_ERROR:g}, not {error!r}")
    return Curve(**lists, error=error)


def _numbers(way: str, key: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple):
        raise BadSpec(f"{key} of {way} is a list of numbers")
    return tuple(number({key: value}, key) for value in values)
