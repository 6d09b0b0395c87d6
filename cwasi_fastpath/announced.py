"""The peer's side of a move, whichever end moves: it is told who will go on in the place of its peer.

    predecessor -> peer   successor-ROLE, its own (token, lease) -> reached

The token makes the successor known; a lease is its own in the cluster's registry, if it has one. One that is on another
node than we are has a tie from then on, so that it can ask us.
"""

from __future__ import annotations

from . import errors, registry
from .cluster import FarTie
from .endpoint import RECEIVER, SENDER
from .meeting import NamedEnd
from .registry import ROLES
from .request import InTurn, Request


class Announced:
    """Who was announced last."""

    def __init__(self, named: NamedEnd) -> None:
        self._named = named
        self._token: str | None = None
        moves = ROLES[RECEIVER if named.role == SENDER else SENDER]
        named.listen(f"successor-{moves}", InTurn().handler(self._announced), far=True)

    def check(self, token: object, *, once: bool = False) -> None:
        """Raises Busy for the token of somebody else. once: another time it is."""
        if self._token is None or token != self._token:
            raise errors.Busy(f"channel {self._named.name!r}: nobody has said that this process would go on with it")
        if once:
            self._token = None

    def _announced(self, request: Request, fds: list[int]) -> None:
        named, token = self._named, request.body.get("token")
        if named.meeting is None or request.connection is not named.meeting.connection or not isinstance(token, str):
            raise errors.Busy(f"channel {named.name!r} has another peer")
        reached = self._reached(request.body.get("lease"))
        self._token = token
        request.answer({"reached": reached})

    def _reached(self, lease: object) -> bool:
        """Whether we can hear of one on another node."""
        cluster = self._named.cluster
        if cluster is None or not isinstance(lease, str):
            return False
        heir = cluster.heir(lease)
        if heir is None:
            return False
        if registry.alive(heir.address) is None:
            self._named.serve(FarTie(cluster, heir))   # until it is gone
        return True
