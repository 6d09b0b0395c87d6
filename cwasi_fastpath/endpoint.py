"""What the two ends of a channel have in common, as Python uses them; see sender and receiver."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol

from . import attribution, errors, watch
from ._native import Managed, check, ffi, lib, owned, timeout_ns
from .explanation import WhatIf
from .metrics import EndMetrics
from .modes import Mode, Transport
from .names import checked

SENDER: int = lib.CWASI_SENDER
RECEIVER: int = lib.CWASI_RECEIVER
HISTOGRAM_BUCKETS: int = lib.CWASI_HISTOGRAM_BUCKETS

# A peer that is gone, or a wait that was cancelled, is no news to who closes.
_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ECANCELED, errno.EBADF}

PATIENCE = 0.5
"""Seconds after which a wait looks for signals, if one came just before it began to sleep."""
PATIENCE_NS = int(PATIENCE * 1e9)

DESCRIPTORS_MAX = 1024


class Teller(Protocol):
    """Knows why a channel goes as it goes, or whom to ask."""

    def explain(self) -> object:
        """str() of it is for people. Raises what asking another process raises."""

    def what_if(self, wish: WhatIf) -> dict[str, Any]:
        """The costs and the choice as it is ("now") and as it would be ("then"). Raises BadSpec, and the same."""


class Endpoint(Managed):
    """What both ends have in common. One thread at a time may use an end."""

    role: int

    def __init__(self, pointer: Any, name: str, mode: Mode = Mode.LOCAL) -> None:
        # Guests and threads inside a call hold the pointer too: close() must not free it under them.
        self._pointer = owned(pointer, lib.cwasi_channel_free)
        self.name = checked(name, "channel")
        self.mode = mode
        # The last words of a closed end: its metrics stay readable.
        self._final: EndMetrics | None = None
        self._closing = threading.Lock()
        self.since = time.monotonic()
        """When it was opened."""
        self.on_close: Callable[[Endpoint], None] | None = None
        """Called once, after this end was freed."""
        self.lost_peers = 0
        """Peers that were left behind and that only the transport knows of."""
        self.why: Callable[[], str | None] = lambda: None
        """Why the other side is gone, where the transport knows more than that it is."""
        self.teller: Teller | None = None
        """Who can explain why the channel goes as it goes."""
        self.mover: Callable[[float | None], None] | None = None
        """Who can hand this end over to another process."""
        watch.know(self)
        self.peers: Sequence[str] = ()
        """The functions at the other side, and what carries the channel, where that is known: for tracers."""
        self.transport = ""
        attribution.describe_end(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of channel {self.name!r}>"

    def after_fork(self) -> None:
        """To be called in a forked child, where no other thread is inside any more."""
        self._closing = threading.Lock()
        if self._pointer is not None:
            lib.cwasi_channel_forked(self._pointer)

    def describe(self, peers: Sequence[str], transport: Transport) -> None:
        """Tells a tracer which functions are on the other side, and what carries this edge now."""
        self.peers, self.transport = tuple(peers), str(transport)
        attribution.describe_end(self)

    @property
    def told_pointer(self) -> Any:
        """The C pointer for who describes this end to a tracer, from any thread; None once it was closed."""
        return self._pointer

    def _delete(self, pointer: Any) -> None:
        """Nothing to do: letting go is enough."""

    def _checked(self, rc: int, what: str) -> int:
        """As check, and says why the other side is gone."""
        why = self.why() if rc == -errno.ECONNRESET else None
        if why:
            raise errors.PeerDied(f"{self!r}: {what}: {why}")
        return check(rc, f"{self!r}: {what}")

    def _keep_last_words(self) -> None:
        self._final = self.metrics()

    def _pointer_for(self, fresh: Any) -> Any:
        """The live C pointer, to give it a C end that nobody owns yet. Raises ChannelClosed, and frees that one."""
        pointer = self._pointer
        if pointer is None:
            lib.cwasi_channel_free(fresh)
            raise errors.ChannelClosed(f"{self!r} is closed")
        return pointer

    @property
    def mode(self) -> Mode:
        """The path class in use, which guests are told; of several senders, the farthest."""
        if self._pointer is not None:
            self._mode = Mode(lib.cwasi_channel_mode(self._pointer))
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        lib.cwasi_channel_set_mode(self.pointer, mode)

    @property
    def epoch(self) -> int:
        """How many switches of its transport this end has made; of several senders, those of the first."""
        return int(lib.cwasi_channel_epoch(self.pointer, 0))

    def metrics(self) -> EndMetrics:
        """What this end has counted so far; after close(), what it counted at the end."""
        if self._final is not None:
            return self._final
        stats = ffi.new("cwasi_stats *")
        histogram = ffi.new("uint64_t[]", HISTOGRAM_BUCKETS)
        lib.cwasi_channel_stats(self.pointer, stats)
        lib.cwasi_channel_histogram(self.pointer, histogram)
        counted = end_metrics(stats, tuple(histogram))
        return replace(counted, lost_peers=counted.lost_peers + self.lost_peers) if self.lost_peers else counted

    def seen(self) -> tuple[EndMetrics, int | None] | None:
        """What it has counted, and what a sender has sent and nobody received; for threads that may come at any time,
        also while this end is closed or abandoned. None once it was abandoned.
        """
        with self._closing:
            if self._pointer is None:
                return None if self._final is None else (self._final, None)
            unread = int(lib.cwasi_channel_unread(self._pointer)) if self.role == SENDER else None
            return self.metrics(), unread

    def bells(self) -> list[int]:
        """Descriptors that hang up when a peer's process ends, not ours to close. Empty after close()."""
        pointer = self._pointer   # another thread may be closing
        if pointer is None:
            return []
        descriptors = ffi.new("int[]", DESCRIPTORS_MAX)
        return list(descriptors[0 : lib.cwasi_channel_bells(pointer, descriptors, DESCRIPTORS_MAX)])

    def sample(self, every: int) -> None:
        """Times one message in `every` (a power of two; 1 times all) from its send to its receipt."""
        if not 0 < every < 1 << 32 or every & (every - 1):
            raise ValueError(f"sample every {every!r}: use a power of two, for example 1, 64 or 1024")
        check(lib.cwasi_channel_sample(self.pointer, every), f"{self!r}: sample every {every}")

    def stop(self) -> None:
        """Ends every wait in this end, now and later, with Cancelled; from any thread."""
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_stop(self._pointer)

    def peer_died(self, peer: int = 0) -> None:
        """Tells this end that the process of a peer (0, or which of several) has ended; from any thread.

        What it sent can still be received, then PeerDied is raised. A sender goes on while it has other receivers.
        """
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_peer_died(self._pointer, peer)

    def peer_died_in(self, epoch: int) -> None:
        """The same for what comes by the transport of that epoch: the one before or behind it may have another peer."""
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_peer_died_in(self._pointer, epoch)

    def hung_up(self, bell: int) -> None:
        """Tells this end that one of its bells has hung up; from any thread."""
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_hung_up(self._pointer, bell)

    def hand_over(self, timeout: float | None = None) -> None:
        """Has another process go on with this end, which was opened by its name: the one that opens the same name there
        next, for the same user and trust domain; on another node, too, where all have the same registry. Nothing is
        lost, doubled or out of order, and the peer goes on.

        Waits for that process (timeout: seconds; None: for ever); until it is there this end works as before. Then
        the end is closed here: what was sent here, or received here, comes before all that is sent or received there.
        Raises Timeout, BadSpec, ChannelClosed, PeerDied where the peer is gone; then all stays as it was. PeerDied also
        where the successor has died before it had all that was left for it, RedisUnavailable where the registry went
        away in the last step; then this end is closed.
        """
        if self.mover is None:
            raise errors.BadSpec(f"{self!r} was not opened by name; nobody can find its successor")
        self.mover(timeout)

    def explain(self) -> str:
        """Why the channel goes by this transport, and why not by others; by who has its sender, also if that is another
        process. Raises BadSpec for an end that was not opened by name, PeerDied, Timeout.
        """
        return str(self._told().explain())

    def what_if(
        self, *, size: str | float | None = None, rate: str | float | None = None, locality: str | None = None
    ) -> dict[str, Any]:
        """As Channel.what_if, for an end that was opened by name. Raises BadSpec, PeerDied, Timeout."""
        return self._told().what_if(WhatIf.of(size, rate, locality))

    def _told(self) -> Teller:
        if self.teller is None:
            raise errors.BadSpec(f"{self!r} was not opened by name; the channel that a host has made of it explains it")
        return self.teller

    def tidy(self) -> None:
        """Frees what is left of transports from which it has gone on."""
        with self._closing:
            if self._pointer is not None:
                lib.cwasi_channel_tidy(self._pointer)

    def abandon(self) -> None:
        """Frees the copy of this end that a fork left in this process, without a word to the peer: the other process
        goes on using it. Raises Busy.
        """
        if self._pointer is None:
            return
        watch.forget(self)
        with self._closing:
            check(lib.cwasi_channel_abandon(self._pointer), f"{self!r}: abandon")
            ffi.gc(self._pointer, None)
            super().close()

    def finish(self, *, failed: bool = False, linger: float | None = 5.0) -> None:
        """Tells the other side that this one is done, or failed; the end stays readable for metrics().

        linger: seconds to wait for a thread inside this end, and for room to tell the peer (None: for ever).
        Raises Timeout where there was no room to say "done" (the peer will get PeerDied instead), OSError.
        """
        pointer = self._pointer
        if pointer is None:
            return
        rc = lib.cwasi_channel_close(pointer, failed, timeout_ns(linger))
        untold = -rc in (errno.ETIMEDOUT, errno.EAGAIN)
        if untold and not failed:
            raise errors.Timeout(f"{self!r}: closed, but the other side could not be told: it reads too slowly")
        if rc < 0 and not untold and -rc not in _GONE:
            check(rc, f"{self!r}: close")

    def close(self) -> None:
        """Finishes this side and frees it. What was sent can still be received. Raises what finish raises."""
        if self._pointer is None:
            return
        try:
            self.finish()
        finally:
            if self._pointer is not None:
                watch.forget(self)
            with self._closing:
                last = self._pointer is not None
                self._keep_last_words()
                super().close()
            if last and self.on_close is not None:
                self.on_close(self)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.finish(failed=True, linger=1.0)
        self.close()


def begun(pointer: Any, epoch: int) -> Any:
    """A C end that was just opened, as the successor of one of another process: the channel is in that epoch."""
    check(lib.cwasi_channel_begin(pointer, epoch), "successor of an end")
    return pointer


def told_pointers(ends: Sequence[Endpoint]) -> list[Any]:
    """Of each what told_pointer is, or NULL. Who holds a pointer keeps what it points to, also while another thread
    closes the end.
    """
    return [end._pointer or ffi.NULL for end in ends]


def end_metrics(stats: Any, latency: tuple[int, ...]) -> EndMetrics:
    """What the C side counted."""
    return EndMetrics(
        messages=stats.messages,
        bytes=stats.bytes,
        copied_bytes=stats.copied_bytes,
        waits=stats.waits,
        parks=stats.parks,
        wakes=stats.wakes,
        lost_peers=stats.lost_peers,
        latency=latency,
    )


def first_ns(timeout: float | None) -> int:
    """How long the first call waits; most need no second."""
    if timeout is None:
        return PATIENCE_NS
    return timeout_ns(min(timeout, PATIENCE))


def goes_on(rc: int, timeout: float | None) -> bool:
    """Whether it was only to look for signals that the first call came back."""
    return rc == -errno.EINTR or (rc == -errno.ETIMEDOUT and (timeout is None or timeout > PATIENCE))


def patiently(call: Callable[[int], int], timeout: float | None) -> int:
    """Makes a call of the data plane that waits, call(nanoseconds) -> result or -errno, in pieces: in between, signals
    (Ctrl-C) are handled.
    """
    until = None if timeout is None else time.monotonic() + timeout
    rc = call(first_ns(timeout))
    while goes_on(rc, timeout):
        left = PATIENCE if until is None else until - time.monotonic()
        if left <= 0:
            return -errno.ETIMEDOUT
        rc = call(timeout_ns(min(left, PATIENCE)))
    return rc
