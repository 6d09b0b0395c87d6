"""What a policy chooses: how the bytes move, and on which cores the threads of both ends run."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import NamedTuple, Self

from ..errors import BadSpec
from ..modes import Transport


class Cores(StrEnum):
    """Where the threads of the two ends run."""

    FREE = "free"
    """Where the kernel puts them."""
    ONE = "one"
    """Both on one core: who waits yields to the other."""
    TWO = "two"
    """Each on a core of its own: who waits spins."""


class Way(NamedTuple):
    """A transport, and the cores for it. A tuple, as that is compared without a call: each way of an edge often is."""

    transport: Transport
    cores: Cores = Cores.FREE

    def __str__(self) -> str:
        if self.cores is Cores.FREE:
            return str(self.transport)
        return f"{self.transport}/{self.cores} core{'s' if self.cores is Cores.TWO else ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The way of that name: ring, ring/one core, ring/two cores, ... Raises BadSpec."""
        transport, _, cores = text.partition("/")
        try:
            return cls(Transport(transport), _CORES[cores])
        except (KeyError, ValueError):
            raise BadSpec(
                f"way {text!r} is unknown: use {', '.join(Transport)}, or one of these with {' or '.join(_NAMED)}"
            ) from None


@cache
def way_of(transport: Transport, cores: Cores = Cores.FREE) -> Way:
    """The same object each time: what is compared often is itself, as a rule, which is seen at once."""
    return Way(transport, cores)


_CORES = {"": Cores.FREE, "one core": Cores.ONE, "two cores": Cores.TWO}
_NAMED = [f"/{name}" for name in _CORES if name]

FREE_RING, ONE_CORE, TWO_CORES = (Way(Transport.RING, cores) for cores in (Cores.FREE, Cores.ONE, Cores.TWO))
"""The ways of a ring."""
