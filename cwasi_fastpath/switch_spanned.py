"""A live switch of a channel between host processes, by the process that connects them; see switch for the order.

It makes the new link, has each receiver's process attach its end of it, and then the sender's go there. What it does
not know it does not guess: a sender that was told to go is waited for as long as its process lives, and only when it
says that it has not gone are the receivers told to detach theirs. Who hangs keeps nobody waiting but those of its own
channels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from . import errors
from . import transport as transports
from .channel import Edge, crossed_limit
from .endpoint import RECEIVER, SENDER
from .modes import Transport, mode_of
from .policy import Decision
from .process import HostProcess, NotRunning
from .spanned import SpannedChannel
from .switch import left, until_of
from .switch_channel import all_or_none, check, decided
from .transport import Link
from .transport.target import link_to, transport_of

if TYPE_CHECKING:
    from .transport.tls import TlsFiles

_AGAIN = (0.001, 0.05)
"""Seconds after which a busy receiver is asked again, at first and at last."""
_GRACE = 0.5
"""Seconds beyond its time for who answers late."""


class SpannedSwitch:
    """Of one channel."""

    def __init__(
        self, channel: SpannedChannel, processes: Mapping[str, HostProcess], redis: str | None, tls: TlsFiles | None
    ) -> None:
        """processes: by function. redis: the server by which a policy may have it go. tls: for links over tcp."""
        self._channel = channel
        self._processes = processes
        self._redis = redis
        self._tls = tls
        self._epochs: dict[str, int] = {}
        """By sender."""
        self._turn = threading.Lock()
        """One switch at a time."""
        self._changing: threading.Thread | None = None

    def switch(self, target: str, timeout: float | None) -> None:
        """Takes it to another transport, each sender in turn with all its receivers. From then on the policy leaves it
        alone.

        Raises BadSpec, NoTransport, Timeout, and what send raises. Senders that have gone there before come back; one
        that cannot, the error names.
        """
        with self._in_turn(timeout) as until:
            self._go(target, until, "a switch was asked for")
            self._channel.pinned = "a switch was asked for"

    def change(self, decision: Decision, timeout: float) -> None:
        """The same, because a policy decided so. Raises BadSpec also where the user has chosen meanwhile; Timeout where
        a process does not answer: when it does, the channel may still go there.
        """
        done: Future[None] = Future()
        work = (decision, timeout, done)
        thread = threading.Thread(target=self._change, args=work, name="cwasi switch", daemon=True)
        thread.start()
        self._changing = thread
        try:
            done.result(timeout + _GRACE)
        except TimeoutError as error:
            raise errors.Timeout(f"channel {self._channel.name!r}: a process of it does not answer in time") from error

    def _change(self, decision: Decision, timeout: float, done: Future[None]) -> None:
        try:
            with self._in_turn(timeout) as until:
                self._decided(decision, until)
        except Exception as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def _decided(self, decision: Decision, until: float | None) -> None:
        channel, kind = self._channel, decision.transport
        if obstacle := channel.pinned or channel.missing.get(kind):
            raise errors.BadSpec(f"channel {channel.name!r}: {obstacle}")
        there = {edge[0] for edge, made in channel.decisions.items() if made.transport is kind}
        target = self._redis if kind is Transport.REDIS and self._redis is not None else str(kind)
        self._go(target, until, decision.reason, there)
        for edge, facts in channel.facts.items():
            channel.decisions[edge] = replace(decision, mode=mode_of(kind, facts.locality))
        channel.changes += 1

    def await_end(self, until: float) -> None:
        """Of what is under way, once the processes have ended."""
        if self._changing is not None:
            self._changing.join(left(until))
        if self._turn.acquire(timeout=max(0.0, until - time.monotonic())):
            self._turn.release()

    @contextmanager
    def _in_turn(self, timeout: float | None) -> Iterator[float | None]:
        """When the time will be over. Raises Timeout."""
        until = until_of(timeout)
        if not self._turn.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise errors.Timeout(f"channel {self._channel.name!r}: another switch is under way")
        try:
            yield until
        finally:
            self._turn.release()

    def _go(self, target: str, until: float | None, reason: str, there: Collection[str] = ()) -> None:
        """there: senders that stay where they are."""
        channel, before = self._channel, dict(self._channel.decisions)
        for edge in before:
            check(channel.name, edge, channel.facts[edge], transport_of(target), len(channel.receivers))
        senders = [sender for sender, _ in channel.senders if sender not in there]
        try:
            all_or_none(
                senders, target, until, channel.targets.__getitem__,
                lambda sender, target, until: self._move(sender, target, until, reason),
            )  # fmt: skip
        except BaseException:
            for edge, made in before.items():   # who came back is there for the old reason
                if channel.decisions[edge].transport is made.transport:
                    channel.decisions[edge] = made
            raise

    def _move(self, sender: str, target: str, until: float | None, reason: str) -> None:
        """One sender."""
        channel = self._channel
        key = transports.key_of(channel.name, sender, len(channel.senders))
        link = link_to(target, key=key, readers=len(channel.receivers), tls=self._tls)
        edges = {
            edge: replace(decided(link.transport, channel.facts[edge]), reason=reason)
            for edge in channel.decisions if edge[0] == sender
        }  # fmt: skip
        try:
            self._lead(sender, edges, link, until)
        except NotRunning as error:
            raise errors.ChannelClosed(f"channel {channel.name!r}: {error}") from error
        finally:
            link.close()
        channel.decisions.update(edges)
        channel.targets[sender] = target

    def _lead(self, sender: str, edges: Mapping[Edge, Decision], link: Link, until: float | None) -> None:
        name, source = self._channel.name, [each for each, _ in self._channel.senders].index(sender)
        epoch = self._epochs.get(sender, 0) + 1
        offered: list[Edge] = []
        told = False
        try:
            for reader, edge in enumerate(edges):
                offered.append(edge)
                description, fds = link.export(RECEIVER, reader)
                body = {"attach": name, "edge": edge, "source": source, "reader": reader, "epoch": epoch}
                body |= {"link": description, "decision": asdict(edges[edge])}
                self._attach(self._processes[edge[1]], body, fds, until)
            told = True
            self._leave(sender, edges, link, until)
        except BaseException as error:
            # A sender that has ended may have gone there before; its receivers follow, or come to its end.
            for edge in offered if not (told and isinstance(error, NotRunning)) else ():
                self._processes[edge[1]].tell({"detach": name, "edge": edge, "source": source, "epoch": epoch})
            raise
        self._epochs[sender] = epoch

    def _attach(self, process: HostProcess, body: dict[str, Any], fds: list[int], until: float | None) -> None:
        pause, last = _AGAIN
        while True:
            try:
                process.request(body, fds, timeout=left(until))
                return
            except errors.Busy as busy:
                if left(until) == 0:
                    raise errors.Timeout(str(busy)) from busy
            time.sleep(pause)
            pause = min(2 * pause, last)

    def _leave(self, sender: str, edges: Mapping[Edge, Decision], link: Link, until: float | None) -> None:
        description, fds = link.export(SENDER)
        body = {
            "leave": self._channel.name,
            "function": sender,
            "link": description,
            "decisions": [[*edge, asdict(decision)] for edge, decision in edges.items()],
            "limit": crossed_limit(link, len(self._channel.senders), len(self._channel.receivers)),
            "until": until,
        }
        self._processes[sender].request(body, fds, timeout=None)
