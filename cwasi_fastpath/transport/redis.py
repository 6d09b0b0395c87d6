"""Redis Streams, pumped: the guest's end is a ring, and one thread drives redis-py (with hiredis).

How the stream is used says redis_stream, which URLs there are redis_client. Two kinds of channel:

- Without `durable=1` the stream has a key of its own. A receiver that leaves tells the sender; the last of the two
  removes the stream; what was left by a crash expires. What the server loses, both ends report as PeerDied.
- With it the key is the channel's name, and the stream outlives its ends. A receiver that comes later goes on where
  the one before has stopped, a sender behind the one before; whoever was replaced gets an error. It ends when a sender
  has closed well and all was read. Whether it outlives the server, its settings decide: see redis_promise.
"""

from __future__ import annotations

import logging
from typing import Any

from .. import errors
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..modes import Transport
from ..receiver import Receiver
from ..sender import Sender
from .redis_client import Address, close, connect, told
from .redis_promise import promise
from .redis_pump import Pump
from .redis_receive import ReceivePump
from .redis_send import SendPump
from .redis_stream import Stream
from .ring import LONGEST_WHOLE, READERS_MAX, RingLink

_JOIN_SECONDS = 10.0

_log = logging.getLogger(__name__)


class RedisLink:
    """A stream `key` in the server at `url`. Keeps the contract of cwasi_fastpath.transport."""

    transport = Transport.REDIS
    longest_whole = LONGEST_WHOLE

    def __init__(self, url: str, key: str, readers: int = 1) -> None:
        """readers: receivers, 1 to READERS_MAX. Raises BadSpec."""
        if not 0 < readers <= READERS_MAX:
            raise errors.BadSpec(f"a stream to {readers} receivers: give 1 to {READERS_MAX}")
        self._url = url
        self._address = Address.parse(url)
        self._key = key
        self._readers = readers
        self._pumps: list[Pump] = []
        self.why: str | None = None
        """Why it has failed, once it has."""
        self._opened: set[tuple[int, int]] = set()
        self._dead: set[int] = set()

    def open(self, role: int, function: str | None = None, reader: int = 0) -> Any:
        if (role, reader) in self._opened:
            raise errors.Busy(f"{self._key}: this end was given out before; each end is one's own")
        client = connect(self._url)
        ring = RingLink.create()
        try:
            with told(self._address):
                stream = Stream(
                    client,
                    self._key,
                    readers=self._readers,
                    durable=self._address.durable,
                    replicas=self._address.replicas,
                )
                pump = self._pump(stream, ring, role, function, reader)
                if self._address.durable:
                    self._warn(stream)
            end = ring.open(role)
        except BaseException:
            close(client)
            raise
        finally:
            ring.close()
        self._opened.add((role, reader))
        self._pumps.append(pump)
        pump.start()
        return end

    def _pump(self, stream: Stream, ring: RingLink, role: int, function: str | None, reader: int) -> Pump:
        if role == SENDER:
            source = Receiver(ring.open(RECEIVER), "pump")
            return SendPump(stream, source, self._address, function, self._has_failed)
        target = Sender(ring.open(SENDER), "pump")
        return ReceivePump(stream, target, reader, self._address, function, self._has_failed)

    def _warn(self, stream: Stream) -> None:
        """Of a server that promises less than a durable channel seems to."""
        found = promise(stream)
        if not found.sure:
            _log.warning("channel %s is durable, but redis at %s %s", self._key, self._address, found.text)

    def _has_failed(self, why: str) -> None:
        self.why = why

    def export(self, role: int, reader: int = 0) -> tuple[dict[str, Any], list[int]]:
        return {"transport": self.transport.value, "url": self._url, "key": self._key, "readers": self._readers}, []

    def peer_died(self, end: Endpoint, peer: int = 0) -> None:
        """What the dead sender left in the server is still delivered."""
        if end.role == RECEIVER:
            for pump in self._pumps:
                if isinstance(pump, ReceivePump):
                    pump.peer_died.set()
            return
        self._dead.add(peer)
        for pump in self._pumps:
            if isinstance(pump, SendPump):
                pump.lose(peer)
        if len(self._dead) == self._readers:
            end.peer_died()
        else:
            end.lost_peers = len(self._dead)

    def settle(self, timeout: float | None) -> None:
        """Waits until the server knows that a durable stream, which was left, is read to its end: who opens it again
        before gets the last messages twice. Raises Busy, PeerDied.
        """
        for pump in self._pumps if self._address.durable else ():
            pump.join(timeout)
            if pump.is_alive():
                raise errors.Busy(f"channel {self._key}: redis at {self._address} has not been told yet what was read")
            if isinstance(pump, ReceivePump) and not pump.over:
                raise errors.PeerDied(f"channel {self._key}: redis at {self._address} was not told what was read")

    def give_up(self) -> None:
        """Nothing was sent by it, and nobody comes any more: close need not wait for the server."""
        while self._pumps:
            self._pumps.pop().closing.set()

    def close(self) -> None:
        """Waits until what was sent is in the server; to be called when the ends are closed.

        Raises PeerDied where a durable channel has not got all of it.
        """
        unstored = None
        while self._pumps:
            pump = self._pumps.pop()
            pump.closing.set()
            pump.join(_JOIN_SECONDS)
            if isinstance(pump, SendPump) and self._address.durable and not pump.ended:
                unstored = pump
        if unstored is not None:
            raise errors.PeerDied(
                f"channel {self._key}: only the first {unstored.stored} messages of this sender are stored: "
                f"{self.why or f'redis at {self._address} has not taken the rest in {_JOIN_SECONDS:g} s'}"
            )
