"""What the two pumps of a Redis link have in common: a thread that outlives a server's restart, for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TypeVar

from .. import attribution, errors
from .redis_client import Address, describe, passing
from .redis_stream import LEASE_MS, Stream

TICK = 0.2
"""Seconds after which a pump that waits looks around."""

_PAUSES = (0.01, 1.0)
"""Seconds between two attempts, at first and at last."""

_REFRESH_SECONDS = LEASE_MS / 1000 / 8

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Pump(threading.Thread):
    """Moves messages between a ring and the server until either side ends."""

    def __init__(self, stream: Stream, address: Address, function: str | None, failed: Callable[[str], None]) -> None:
        """function: for whom it works. failed: is told why it had to give up."""
        super().__init__(name=f"redis {stream.key}", daemon=True)
        self._stream = stream
        self._address = address
        self._function = function
        self._failed = failed
        self._doubt = False
        """A request was sent and no answer has come: it may have been carried out."""
        self._refreshed = time.monotonic()
        self.closing = threading.Event()
        self.peer_died = threading.Event()

    def run(self) -> None:
        # The pump works for one function: what it costs is charged to that.
        charged = attribution.function(self._function) if self._function else nullcontext()
        try:
            with charged:
                self._move()
        except Exception as error:   # whatever it is, the end must not wait for ever
            # That an end has left is no news.
            if not isinstance(error, errors.ChannelClosed | errors.PeerDied):
                why = str(error) if isinstance(error, errors.Error) else f"redis at {self._address} {describe(error)}"
                _log.warning("channel %s: %s", self._stream.key, why)
                self._failed(why)
            self._give_up()
        finally:
            with suppress(Exception):   # the server may be gone
                self._clean_up()
            self._stream.close()

    def _move(self) -> None:
        raise NotImplementedError

    def _give_up(self) -> None:
        """Tells the end in this process."""
        raise NotImplementedError

    def _clean_up(self) -> None:
        """Leaves the server in order, as far as it answers."""
        raise NotImplementedError

    def _patiently(self, request: Callable[[], Result]) -> Result:
        """Makes a request until it succeeds, within the patience that the server has. Raises RedisUnavailable."""
        import redis

        pause, until = _PAUSES[0], 0.0
        while True:
            try:
                if until:
                    self._stream.reconnect()
                return request()
            except (redis.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
                if not passing(error):
                    raise
                self._doubt = True
                now = time.monotonic()
                until = until or now + self._address.patience
                if now >= until or self._needless():
                    raise errors.RedisUnavailable(
                        f"redis at {self._address}, after {self._address.patience:g} s of patience: {describe(error)}"
                    ) from error
                if pause == _PAUSES[0]:
                    _log.info("channel %s: redis at %s %s", self._stream.key, self._address, describe(error))
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(2 * pause, _PAUSES[1])

    def _needless(self) -> bool:
        """Whether nobody wants any more what a request is for."""
        return False

    def _refresh(self) -> None:
        """Now and then a sign of life, so that the server keeps the stream."""
        if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
            self._patiently(self._stream.refresh)
            self._refreshed = time.monotonic()
