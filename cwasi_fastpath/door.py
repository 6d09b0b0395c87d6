"""A receiver's side of a link that a process passes on to it: one of this node with descriptors; for one of another
node we listen, in case that it chooses tcp.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from . import reach
from ._native import lib
from .cluster import FarTie
from .meeting import NamedEnd, Tie
from .modes import Transport
from .placement import Placement
from .policy import Decision
from .request import Body
from .search import checked_decision, joined, opened
from .transport import Link, call_off


class Door:
    """Closed when left, unless the link that came is taken."""

    def __init__(self, tie: Tie) -> None:
        """Raises TcpUnavailable for an address that was given and is none, BadSpec."""
        self._listens = reach.listening_if_possible(tie.url) if isinstance(tie, FarTie) else None
        self.link: Link | None = None
        """What has come."""
        self._pointer: Any = None
        if self._listens is not None:
            try:
                self._pointer = opened(self._listens)   # before anybody knows of it
            except BaseException:
                call_off(self._listens)
                raise

    @property
    def told(self) -> Body | None:
        """Where we listen, for the other process."""
        return None if self._listens is None else reach.described(self._listens)

    def comes(self, named: NamedEnd, peer: Placement, body: Body, fds: list[int]) -> Decision:
        """What was passed on, by a process at `peer`, if that is in order. Raises Corrupted, NoTransport, and what
        opening the end raises.
        """
        decision = checked_decision(named.name, body, peer, named.here)
        own, pointer = self._listens, self._pointer
        if own is not None and decision.transport is Transport.TCP:
            self._listens = None
            self.link = own
            return decision
        link = joined(body.get("link"), decision.transport, fds)
        try:
            found = opened(link)
        except BaseException:
            call_off(link)
            raise
        if own is not None:
            _drop(own, pointer)
        self._listens, self._pointer, self.link = None, found, link
        return decision

    def take_end(self) -> Any:
        """Our end of the link that has come; the caller's, as is the link when the end is in use."""
        pointer, self._pointer = self._pointer, None
        return pointer

    def taken(self) -> Link:
        """That link, which is the caller's from now on."""
        link, self.link = self.link, None
        assert link is not None   # or nothing has come
        return link

    def close(self) -> None:
        """Nobody comes that way. Twice is safe."""
        pointer = self.take_end()
        for link in (self._listens, self.link):
            if link is not None:
                _drop(link, pointer)
        self._listens = self.link = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _drop(link: Link, pointer: Any) -> None:
    if pointer is not None:
        lib.cwasi_channel_free(pointer)
    call_off(link)
