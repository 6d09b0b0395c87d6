"""Modes, transports and localities: the words of every choice. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from .errors import BadSpec


class Mode(IntEnum):
    """The path class in use, from near to far. The numbers are those that guests see."""

    LOCAL = 0
    PROXIMAL = 1
    REMOTE = 2

    def __str__(self) -> str:
        return self.name.lower()


class Transport(StrEnum):
    """How bytes move."""

    RING = "ring"
    PIPE = "pipe"
    TCP = "tcp"
    REDIS = "redis"


def parse_mode(mode: Mode | str | None) -> Mode | None:
    """The mode of that name; None and "auto" leave the choice. Raises BadSpec."""
    if mode is None or isinstance(mode, Mode):
        return mode
    if mode == "auto":
        return None
    try:
        return Mode[mode.upper()]
    except KeyError:
        raise BadSpec(f"mode {mode!r} is unknown: use auto, {', '.join(map(str, Mode))}") from None


def parse_transport(transport: Transport | str | None) -> Transport | None:
    """The transport of that name; None leaves the choice. Raises BadSpec."""
    try:
        return None if transport is None else Transport(transport)
    except ValueError:
        raise BadSpec(f"transport {transport!r} is unknown: use {', '.join(Transport)}") from None


class Locality(IntEnum):
    """Where the peer is: a fact that only a move changes. A mode may be farther than it, never nearer."""

    PROCESS = 0
    NODE = 1
    ELSEWHERE = 2

    def __str__(self) -> str:
        return ("in this process", "on this node", "on another node")[self]


def nearest_mode(locality: Locality) -> Mode:
    """The nearest mode that a locality allows."""
    return Mode(int(locality))


def mode_of(transport: Transport, locality: Locality) -> Mode:
    """The mode that a transport amounts to between ends of this locality."""
    if transport in (Transport.TCP, Transport.REDIS):
        return Mode.REMOTE
    if transport is Transport.RING and locality is Locality.PROCESS:
        return Mode.LOCAL
    return Mode.PROXIMAL


@dataclass(frozen=True, slots=True)
class EdgeFacts:
    """What is given about an edge before anything is measured."""

    locality: Locality
    same_user: bool = True
    same_trust: bool = True
