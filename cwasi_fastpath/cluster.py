"""Names across nodes: a registry in a Redis server, where ends meet whose processes share no runtime directory.

Each end holds a lease of its name. The receiver asks the sender whose lease it finds, by a key that has the sender's
token in its name, and so on; all keys expire. The lease of a peer that is not there any more is its death, unless a bye
with its token is.

    receiver -> sender   ask (token, where it would listen); met (token)
    sender -> receiver   answer (link, decision, placement, or why not)

Afterwards they have mail (see there) for all that they ask each other.

An end that goes on in another process (see handover) has a lease there beside the name, until its predecessor passes
the name on: then the two change places, at once, so that it is never free and never has two holders. The predecessor
says that it awaits an heir, who knocks by the same kind of key.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import errors
from .control import Handler, handle
from .endpoint import RECEIVER, SENDER
from .lease import SECONDS, Lease, Server, Watch
from .mail import Mail
from .placement import Placement, elsewhere
from .registry import ROLES
from .request import Answer, Body, Request
from .runtime import ADDRESS

_LOOK = 0.02
"""Seconds between two looks for an answer."""
_BESIDE = "beside"
"""In the keys of leases beside a name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FarPeer:
    """A process of another node that holds the other end."""

    token: str
    address: str
    """In the runtime directory of its node."""
    placement: Placement
    value: bytes
    """Of its lease."""
    name: str
    """The key of the name that it holds, or will."""

    def __str__(self) -> str:
        return f"a process of node {self.placement.node[:8] or '?'}"


class ClusterName:
    """The name of an end in this process, in the cluster's registry."""

    def __init__(
        self, server: Server, name: str, role: int, here: Placement, address: str, *, beside: bool = False
    ) -> None:
        """Takes it; or a place beside it, for an heir. Raises Busy, RedisUnavailable."""
        self.server = server
        self.name = name
        self._role = role
        self._other = RECEIVER if role == SENDER else SENDER
        body = {"placement": here.as_plain(), "address": address}
        key = _name_key(name, role)
        lease = Lease.take(server, _key(_BESIDE, "{}"), body, key) if beside else Lease.take(server, key, body)
        if lease is None:
            holder = holder_of(server, name, role)
            server.close()
            raise errors.Busy(f"channel {name!r} has a {ROLES[role]} already: {holder or 'a process that just left'}")
        self.lease = lease

    def check(self) -> None:
        """Raises RegistryUnavailable when the lease was lost."""
        if self.lease.lost:
            raise errors.RegistryUnavailable(f"channel {self.name!r}: the lease of its name was lost; open it again")

    def peer(self) -> FarPeer | None:
        """Who holds the other end. Raises RedisUnavailable."""
        return holder_of(self.server, self.name, self._other)

    # ---- the receiver's side ----

    def ask(self, peer: FarPeer, listens: Body | None) -> bool:
        """Asks a sender to meet; false while another one asks. listens: where it would find us by TCP."""
        body = {"token": self.lease.token, "listens": listens}
        return self.server.put(_key("ask", peer.token), json.dumps(body).encode(), only_new=True)

    def answer(self, peer: FarPeer, until: float | None) -> dict[str, Any] | None:
        """What it answers; None where it does not in time, or is gone."""
        latest = time.monotonic() + SECONDS
        while time.monotonic() < (latest if until is None else min(latest, until)):
            if (found := self.server.take(_key("answer", self.lease.token))) is not None:
                return _parsed(found) or {}
            if self.server.get(peer.name) != peer.value:
                return None
            time.sleep(_LOOK)
        return None

    def confirm(self, peer: FarPeer) -> None:
        """Tells the sender that we have our end."""
        self.server.put(_key("met", peer.token), self.lease.token.encode())

    # ---- the sender's side ----

    def asked(self) -> tuple[FarPeer, object] | None:
        """A receiver that asks, and that holds the name; and where it says that it would listen."""
        asking = _parsed(self.server.take(_key("ask", self.lease.token)))
        peer = self.peer() if asking is not None else None
        if peer is None or asking is None or asking.get("token") != peer.token:
            return None
        return peer, asking.get("listens")

    def reply(self, peer: FarPeer, body: dict[str, Any]) -> None:
        """Answers it."""
        self.server.put(_key("answer", peer.token), json.dumps(body).encode())

    def confirmed(self, peer: FarPeer) -> bool:
        """Whether that receiver has its end."""
        return self.server.take(_key("met", self.lease.token)) == peer.token.encode()

    # ---- afterwards ----

    def watch(self, peer: FarPeer, gone: Callable[[bool], None]) -> Watch:
        """Calls gone(whether it died) when the peer's lease is not there any more."""
        keys = peer.name, _key(_BESIDE, peer.token)
        return Watch(self.server, keys, peer.value, _key("bye", peer.token), gone)

    def bye(self) -> None:
        """Leaves, and says so."""
        try:
            self.server.put(_key("bye", self.lease.token), b"bye")
        except errors.RedisUnavailable:
            return
        self.lease.release()

    # ---- a predecessor and its heir ----

    def await_heir(self) -> FarPeer | None:
        """One that has knocked; to be called again and again while one may. Raises RedisUnavailable."""
        self.server.put(_key("awaits", self.lease.token), b"an heir")
        token = self.server.take(_key("knock", self.lease.token))
        return None if token is None else self.heir(token.decode(errors="replace"), self._role)

    def await_no_more(self) -> None:
        """None may."""
        with suppress(errors.RedisUnavailable):
            self.server.drop(_key("awaits", self.lease.token))

    def knock(self, predecessor: FarPeer) -> bool:
        """False where another one has."""
        return self.server.put(_key("knock", predecessor.token), self.lease.token.encode(), only_new=True)

    def heir(self, token: str, role: int | None = None) -> FarPeer | None:
        """Who waits beside a name with that token: of a role, by default of the other side."""
        if not token.isalnum():
            return None
        value = self.server.get(_key(_BESIDE, token))
        found = _far_peer(value, _name_key(self.name, self._other if role is None else role))
        return found if found is not None and found.token == token else None

    def pass_on(self, heir: FarPeer) -> bool:
        """As Lease.pass_on."""
        return self.lease.pass_on(heir.value, _key(_BESIDE, self.lease.token), _key(_BESIDE, heir.token))

    def passed_on(self, by: FarPeer | None = None) -> bool:
        """Whether the name is ours by now. by: waits some seconds for one of which that is not known, as long as it has
        the name. Raises RedisUnavailable.
        """
        name, until = _name_key(self.name, self._role), time.monotonic() + 2 * SECONDS
        while (held := self.server.get(name)) != self.lease.value:
            if by is None or held != by.value or time.monotonic() > until:
                return False
            time.sleep(_LOOK)
        self.step_up()
        return True

    def step_up(self) -> None:
        """The name is ours: the predecessor has passed it on. Twice is safe."""
        self.lease.step_up(_name_key(self.name, self._role))


def holder_of(server: Server, name: str, role: int) -> FarPeer | None:
    """Who has that end, or had it some seconds ago. Raises RedisUnavailable."""
    key = _name_key(name, role)
    return _far_peer(server.get(key), key)


def awaits_heir(server: Server, holder: FarPeer) -> bool:
    """Whether it hands its end over just now. Raises RedisUnavailable."""
    return server.get(_key("awaits", holder.token)) is not None


def _name_key(name: str, role: int) -> str:
    return f"cwasi:registry:{name}:{ROLES[role]}"


def _key(what: str, token: str) -> str:
    return f"cwasi:registry:{what}:{token}"


def _far_peer(value: bytes | None, name: str) -> FarPeer | None:
    match _parsed(value):
        case {"token": str(token), "address": str(address), "placement": dict(placement)}:
            if value is not None and token.isalnum() and ADDRESS.fullmatch(address):
                return FarPeer(token, address, elsewhere(placement), value, name)
    return None


class FarTie:
    """What a connection is to a peer on this node: it tells of the peer's death, and the peer of ours; and carries
    requests and answers, by the server.
    """

    def __init__(self, cluster: ClusterName, peer: FarPeer) -> None:
        self.peer = peer
        self.url = cluster.server.url
        """Of the server."""
        self._cluster = cluster
        self._watch: Watch | None = None
        self._mail = Mail(cluster.server, cluster.lease.token, peer.token, str(peer))
        self._handlers: Mapping[str, Handler] | None = None
        self._lock = threading.Lock()
        self._gone: list[Callable[[bool], None]] = []
        self._died: bool | None = None
        """None before it is gone."""
        self._owner = os.getpid()

    def when_gone(self, callback: Callable[[bool], None]) -> None:
        """As Connection.when_gone, some seconds late, on the keeper's thread."""
        with self._lock:
            died = self._died
            if died is None:
                self._gone.append(callback)
                if self._watch is None:
                    self._watch = self._cluster.watch(self.peer, self._is_gone)
        if died is not None:
            callback(died)

    def _is_gone(self, died: bool) -> None:
        what = "is gone, or it or we have lost the registry's server" if died else "has left"
        self._mail.end(f"{self.peer} {what}")
        with self._lock:
            self._died = died
            gone, self._gone = self._gone, []
        for callback in gone:
            callback(died)

    def serve(self, handlers: Mapping[str, Handler]) -> None:
        """From now on reads what the peer says: its requests are the handlers', by kind, on a thread of their own.
        Again, with others.
        """
        first, self._handlers = self._handlers is None, handlers
        if first:
            self._mail.start(self._asked)

    def _asked(self, message: Body) -> None:
        """Raises ValueError for what is no request."""
        request = Request(self, message, [])
        handler = (self._handlers or {}).get(request.kind) if request.channel == self._cluster.name else None
        if handler is None:
            request.refuse(errors.NoSuchChannel(f"nobody here answers {request.kind!r} to another node"))
            return
        handle(handler, request)

    def request(
        self, kind: str, body: Body | None = None, fds: Sequence[int] = (), *, channel: str, timeout: float | None
    ) -> Answer:
        """As Connection.request; to be called when it serves.

        Raises Timeout, PeerDied, RedisUnavailable, what the peer refused it with, and BadSpec where there are
        descriptors.
        """
        if fds:
            raise errors.BadSpec(f"{kind!r} to {self.peer}: descriptors cannot go to another node")
        return self._mail.request(kind, body or {}, channel=channel, timeout=timeout)

    def mention(self, kind: str, body: Body | None = None, *, channel: str) -> None:
        """As Connection.mention."""
        self.send({"ask": kind, "channel": channel, "body": body or {}})

    def send(self, message: Body, fds: Sequence[int] = ()) -> None:
        """An answer, or what needs none. The peer may miss it: so it does where the server is away. Raises BadSpec."""
        if fds:
            raise errors.BadSpec(f"an answer to {self.peer}: descriptors cannot go to another node")
        if self._owner != os.getpid():
            return   # a forked copy
        try:
            if not self._mail.send(message):
                _log.warning("%s reads nothing", self.peer)
        except errors.RedisUnavailable as error:
            _log.warning("%s is not told: %s", self.peer, error)

    def close(self) -> None:
        """No more of it. The peer learns of that when we leave our name (ClusterName.bye)."""
        if self._owner != os.getpid():
            return   # a forked copy
        self.hang_up()
        self._mail.close()

    def hang_up(self) -> None:
        """The same; does not wait."""
        if self._watch is not None:
            self._watch.over = True
        self._mail.end(f"the channel to {self.peer} is closed")


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(data) if data is not None else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
