"""Leases: names in a Redis server that processes of several nodes hold, each as long as it says so again in time.

One thread of the process, the keeper, renews its leases and looks after those of its peers. A lease is SET ... NX PX
with a value that nobody else has; only who holds it renews or deletes it, by that value. A process that dies, or loses
the server, stops renewing, and its names are free when SECONDS have passed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from .errors import RedisUnavailable

SECONDS = 5.0
"""For how long it is given."""
THREAD = "cwasi keeper"
"""The name of the thread."""

SERVER_SECONDS = 2.0
"""That the server may take for an answer."""

_RENEW = 1.0
_RENEWALS = 3
"""After so many of them it must be back in a server that was restarted."""
_VALUE_BYTES = 1 << 16

_RENEWED = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_DELETED = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_PUSHED = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

_REPLACED = """
local held = redis.call('GET', KEYS[1])
if held == ARGV[2] then return 1 end
if held and held ~= ARGV[1] or redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return 1
"""

_log = logging.getLogger(__name__)


class Server:
    """A Redis server, of which we use plain keys that expire. What it raises is RedisUnavailable."""

    def __init__(self, url: str, *, seconds: float = SERVER_SECONDS, check: bool = True) -> None:
        """seconds: that it may take for an answer. check: whether it must be there now."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self.url = url
        self._errors = (redis.RedisError, OSError, ValueError)
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))   # the server may have been restarted
        with self._named():
            self._client = redis.Redis.from_url(
                url, socket_timeout=seconds, socket_connect_timeout=SERVER_SECONDS, retry=again
            )
            if check:
                self._client.ping()

    def _named(self) -> _Named:
        return _Named(self.url, self._errors)

    def get(self, key: str) -> bytes | None:
        """What is there."""
        with self._named():
            found: Any = self._client.getrange(key, 0, _VALUE_BYTES)
            return bytes(found) if found else None

    def take(self, key: str) -> bytes | None:
        """The same, and removes it."""
        with self._named():
            found: Any = self._client.getdel(key)
            return None if found is None else bytes(found)

    def put(self, key: str, value: bytes, *, only_new: bool = False) -> bool:
        """Puts it there for SECONDS; false where something is there and only_new is asked for."""
        with self._named():
            return bool(self._client.set(key, value, nx=only_new, px=int(SECONDS * 1000)))

    def renew(self, key: str, value: bytes) -> bool:
        """For SECONDS more; false where that value is not there."""
        with self._named():
            return bool(self._client.eval(_RENEWED, 1, key, value, int(SECONDS * 1000)))

    def delete(self, key: str, value: bytes) -> bool:
        """False where that value is not there."""
        with self._named():
            return bool(self._client.eval(_DELETED, 1, key, value))

    def replace(self, key: str, old: bytes, new: bytes, beside: str, from_: str) -> bool:
        """Puts the new value, which is at from_, in the place of the old one, and that beside it; all at once, and
        twice is safe. False where somebody else's is there, or the new one is not at from_ any more.
        """
        with self._named():
            return bool(self._client.eval(_REPLACED, 3, key, beside, from_, old, new, int(SECONDS * 1000)))

    def push(self, key: str, value: bytes, most: int) -> bool:
        """Puts it at the end of a list, for SECONDS from now on; false where so many are there already."""
        with self._named():
            return bool(self._client.eval(_PUSHED, 1, key, value, most, int(SECONDS * 1000)))

    def pop(self, key: str, seconds: float) -> bytes | None:
        """Takes the first of a list; None where none comes in so many seconds."""
        with self._named():
            found: Any = self._client.blpop([key], timeout=seconds)
            return None if found is None else bytes(found[1])

    def drop(self, key: str) -> None:
        """Deletes it, whatever is there."""
        with self._named():
            self._client.delete(key)

    def close(self) -> None:
        """Closes its connections; used again, it makes new ones. Twice is safe."""
        self._client.close()


class _Named:
    """Names the server in what goes wrong, without the password that may be in its URL."""

    def __init__(self, url: str, kinds: tuple[type[Exception], ...]) -> None:
        self._url = re.sub(r"//[^/]*@", "//...@", url)
        self._kinds = kinds

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: object) -> None:
        if isinstance(value, self._kinds):
            import redis

            what, remedy = "does not answer", "start redis-server (apt install redis-server) or give another URL"
            if isinstance(value, redis.ResponseError):
                what, remedy = "refuses", "permit cwasi:registry:* to this user, or give another URL"
                if str(value).startswith("WRONGTYPE"):
                    remedy = "delete what others have put under cwasi:registry:*, or give another URL"
            raise RedisUnavailable(f"registry at {self._url} {what}: {value}; {remedy}") from value


class Lease:
    """A name that this process holds."""

    def __init__(self, server: Server, key: str, body: dict[str, Any], token: str) -> None:
        self.server = server
        self.key = key
        self.token = token
        self.value = json.dumps({**body, "token": token}).encode()
        self.lost = False
        """Whether somebody else may hold the name by now."""
        self._renewed = time.monotonic()
        self._given_up = False
        self._owner = os.getpid()
        self._place = threading.RLock()
        """Held while it changes its key or is released, and by the keeper."""
        self._wants: str | None = None
        """A name that may be ours before we know."""
        self._passing = False
        """Whether its key may be the heir's already."""

    @classmethod
    def take(cls, server: Server, key: str, body: dict[str, Any], wants: str | None = None) -> Self | None:
        """None while another process holds it. {} in the key is its token. wants: a name that may be passed on to it.

        Raises RedisUnavailable.
        """
        token = secrets.token_hex(8)
        lease = cls(server, key.format(token), body, token)
        lease._wants = wants
        if not server.put(lease.key, lease.value, only_new=True):
            return None
        _keep(lease.look)
        return lease

    def release(self) -> None:
        """Gives it free. Twice is safe; a server that does not answer forgets it in time."""
        self._given_up = True
        if self._owner == os.getpid():
            with self._place, suppress(RedisUnavailable):   # the keeper might put it there again, else
                self.server.delete(self.key, self.value)
            self.server.close()

    def give_up(self) -> None:
        """Has the keeper release it; does not wait, and takes no lock."""
        self._given_up = True

    def pass_on(self, heir: bytes, beside: str, from_: str) -> bool:
        """Has an heir hold the name, whose lease is at from_, and stays beside it; again, where it is not known whether
        that was done. False where the heir is gone, or the name is lost. Raises RedisUnavailable.
        """
        with self._place:
            self._passing = True
            done = self.server.replace(self.key, self.value, heir, beside, from_)
            self._passing = False
            if done:
                self.key = beside
            return done

    def step_up(self, key: str) -> None:
        """The name is ours: who held it has passed it on."""
        with self._place:
            before, self.key, self._wants = self.key, key, None
        if before == key:
            return
        with suppress(RedisUnavailable):
            self.server.delete(before, self.value)

    def look(self) -> bool:
        """The keeper's work; false when there is none any more."""
        with self._place:
            return self._looked()

    def _looked(self) -> bool:
        if self._given_up:
            self.release()
            return False
        try:
            if self._wants is not None:
                self.server.renew(self._wants, self.value)
            if (
                self.server.renew(self.key, self.value)
                or self._passing
                or self.server.put(self.key, self.value, only_new=True)
            ):
                self._renewed = time.monotonic()
                return True
            reason = "another process has taken it"
        except RedisUnavailable as error:
            if time.monotonic() - self._renewed < SECONDS:
                return True
            reason = str(error)
        self.lost = True
        _log.warning("the lease of %s is lost: %s", self.key, reason)
        return False


class Watch:
    """Looks after the lease of a peer."""

    def __init__(
        self, server: Server, keys: Sequence[str], value: bytes, bye: str, gone: Callable[[bool], None]
    ) -> None:
        """keys: where it may be, the name first. bye: the key of its farewell. gone: called once, on the keeper's
        thread, when that lease is not there any more, and the peer has had no time to renew it in a server that had
        lost it; with whether there is no farewell.
        """
        self._server = server
        self._keys = (*keys, keys[0])   # once more: it may change places while we look
        self._value = value
        self._bye = bye
        self._gone = gone
        self._seen = time.monotonic()
        self._away = self._seen
        """When the server did not answer, the last time."""
        self.over = False
        _keep(self._look)

    def _look(self) -> bool:
        if self.over:
            return False
        died, patience, since = True, SECONDS, self._seen
        try:
            for key in self._keys:
                found = self._server.get(key)
                if found == self._value:
                    self._seen = time.monotonic()
                    return True
            died = self._server.get(self._bye) is None
            patience = _RENEWALS * _RENEW if died and found is None else 0.0
            since = max(since, self._away)   # from then on it can renew it
        except RedisUnavailable:
            self._away = time.monotonic()
        if time.monotonic() - since < patience:
            return True
        self._gone(died)
        return False


# ---- the keeper ----

_lock = threading.Lock()
_kept: list[Callable[[], bool]] = []
_started = False


def _keep(look: Callable[[], bool]) -> None:
    global _started
    with _lock:
        _kept.append(look)
        if not _started:
            _started = True
            threading.Thread(target=_run, name=THREAD, daemon=True).start()


def _run() -> None:
    global _started
    while True:
        time.sleep(_RENEW)
        for look in list(_kept):
            if not _still(look):
                with _lock:
                    _kept.remove(look)
        with _lock:
            if not _kept:
                _started = False
                return


def _still(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except Exception:   # of a callback; the others need the thread
        _log.exception("in the keeper")
        return False


def _after_fork_in_child() -> None:
    global _lock, _started
    _lock, _started = threading.Lock(), False
    _kept.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
