"""What is known of the network of a channel: by hosts of one that runs, and in replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar, Generic, Protocol, TypeVar

_GIVES_SECONDS = 30.0
"""For which what a network gave is taken to be what it gives."""
_AWAY_SECONDS = 600.0
"""For which a network is taken to be as it was, where a channel goes by another way."""


class Figures(Protocol):
    """What was seen of a network, and of other things."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def bytes_per_second(self) -> float | None: ...


Seen = TypeVar("Seen", bound=Figures)


@dataclass(slots=True)
class KnownNetwork(Generic[Seen]):
    """Of one channel."""

    seen: Seen | None = None
    """The last, as far as it still counts."""
    _met_at: float = -inf
    _measured_at: float = -inf
    """When, last, it was known how much it gives."""

    def met(self, found: Seen | None, now: float, far: bool) -> Seen | None:
        """What is known, with one more look. found: what was seen on the way in use, if that goes through the network.

        What it gives stays known for some time: who sends little does not see it, nor who goes by a server. Or a
        channel that has left a slow network for a server would come back at once, and leave it again. far: it goes
        from node to node, by whatever.
        """
        if found is None and far and now - self._met_at < _AWAY_SECONDS:
            return self.seen
        self._met_at = now if found is not None else -inf
        if found is not None and found.bytes_per_second is None and now - self._measured_at < _GIVES_SECONDS:
            found = replace(found, bytes_per_second=None if self.seen is None else self.seen.bytes_per_second)
        elif found is not None and found.bytes_per_second is not None:
            self._measured_at = now
        self.seen = found
        return found

    def age(self, now: float) -> float | None:
        """Seconds since it was seen; None where that was now, or nothing is known."""
        return max(0.0, now - self._met_at) or None if self.seen is not None else None
