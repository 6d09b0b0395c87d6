"""A host: a process with one wasmtime engine that runs guests, a thread each."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import wasmtime

from . import calibration, errors
from . import transport as transports
from .channel import Channel
from .endpoint import RECEIVER, SENDER, Endpoint, Receiver, Sender
from .guest import Guest, Streams
from .metrics import Observation
from .modes import EdgeFacts, Mode, Transport, parse_mode, parse_transport
from .names import checked
from .placement import edge_facts, here
from .policy import CostPolicy, Decision, Policy, Request
from .transport import Link

_STOP_SECONDS = 2.0


def decide(
    policy: Policy,
    facts: EdgeFacts,
    what: str,
    *,
    mode: Mode | None = None,
    asked: Transport | None = None,
    redis: str | None = None,
    observation: Observation | None = None,
) -> Decision:
    """Asks the policy for one edge. what: names the edge. Raises NoTransport with every obstacle."""
    from .policy.decision import ruled_out

    available = {Transport.RING, Transport.PIPE} | ({Transport.REDIS} if redis else set())
    request = Request(facts, observation, mode, asked, frozenset(available))
    decision = policy.decide(request)
    if decision is not None and (obstacle := ruled_out(request, decision.transport)) is not None:
        raise errors.NoTransport(f"{what}: the policy chose {decision.transport}, which cannot be: {obstacle}")
    if decision is None:
        obstacles = "; ".join(f"{kind}: {ruled_out(request, kind)}" for kind in Transport)
        raise errors.NoTransport(f"{what}: nothing can carry it. {obstacles}")
    return decision


class Host:
    """Runs functions and connects them. Use it in a `with` block, or close it."""

    def __init__(
        self, *, policy: Policy | None = None, timeout: float | None = None, redis: str | None = None
    ) -> None:
        """policy: who picks mode and transport; CostPolicy, calibrated now (a few milliseconds), by default.

        timeout: seconds that a run may take. Guests are then compiled with interruption points, which costs tight
        loops up to a factor of 3; without it a guest that never ends can be ended only with the process.
        redis: URL of a server, for edges that need the remote mode.
        Raises RedisUnavailable.
        """
        self.policy = policy if policy is not None else CostPolicy(calibration.costs(redis))
        self.redis = redis
        self.timeout = timeout
        config = wasmtime.Config()
        config.epoch_interruption = timeout is not None
        self._engine = wasmtime.Engine(config)
        self._guests: list[Guest] = []
        self._channels: list[Channel] = []
        self._closed = False
        self._changed = threading.Condition()
        """Guards and announces changes of the sets below."""
        self._started: set[Guest] = set()
        self._running: set[Guest] = set()
        self._stuck: set[Guest] = set()
        """Of the running ones, those that could not be ended."""

    def load(
        self,
        path: str | PathLike[str],
        name: str | None = None,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        stdin: str | PathLike[str] | None = None,
        stdout: str | PathLike[str] | None = None,
        stderr: str | PathLike[str] | None = None,
        trust: str = "default",
    ) -> Guest:
        """Compiles a module and prepares a guest of it.

        name: the function's name, the file's stem by default. stdin, stdout, stderr: files; by default empty input and
        the host's own output. trust: label of its trust domain.
        Raises BadModule, MissingImport, BadName, BadSpec for a name that is taken.
        """
        if self._closed:
            raise errors.BadSpec("this host is closed")
        file = Path(path)
        streams = Streams(arguments, environment or {}, *(Path(p) if p else None for p in (stdin, stdout, stderr)))
        guest_name = file.stem.lower() if name is None else name
        if any(guest.name == guest_name for guest in self._guests):
            raise errors.BadSpec(f"a function named {guest_name!r} is loaded already; give the second one another name")
        guest = Guest(self._engine, file, guest_name, trust, streams)
        self._guests.append(guest)
        return guest

    def connect(
        self,
        name: str,
        sender: Guest,
        receiver: Guest,
        *,
        mode: Mode | str | None = None,
        transport: Transport | str | None = None,
        ports: tuple[str | None, str | None] = (None, None),
        observation: Observation | None = None,
    ) -> Channel:
        """Opens a channel from one guest of this host to another; the policy picks what carries it.

        mode, transport: leave the policy only this choice. ports: what the sender and the receiver call the channel
        where that is not `name`. observation: what is known of the edge's past.
        Raises NoTransport, BadName, BadSpec.
        """
        checked(name, "channel")
        for guest in (sender, receiver):
            self._check_mine(guest)
        edge = f"channel {name!r} from {sender.name} to {receiver.name}"
        facts = edge_facts(here(sender.trust), here(receiver.trust))
        decision = decide(
            self.policy,
            facts,
            edge,
            mode=parse_mode(mode),
            asked=parse_transport(transport),
            redis=self.redis,
            observation=observation,
        )
        link = transports.create(decision.transport, redis=self.redis, key=name)
        return self.join(name, decision, link, sender=sender, receiver=receiver, ports=ports)

    def join(
        self,
        name: str,
        decision: Decision,
        link: Link,
        *,
        sender: Guest | None = None,
        receiver: Guest | None = None,
        ports: tuple[str | None, str | None] = (None, None),
    ) -> Channel:
        """Gives guests of this host their ends of a link that was decided elsewhere. Owns the link from now on."""
        channel = Channel(name, decision, link)
        self._channels.append(channel)
        for guest, role, port in zip((sender, receiver), (SENDER, RECEIVER), ports, strict=True):
            if guest is None:
                continue
            self._check_mine(guest)
            if not guest.uses_channels:
                raise errors.BadSpec(
                    f"function {guest.name} ({guest.path}) imports nothing from cwasi_v1: "
                    f"it cannot use channel {name!r}"
                )
            pointer = link.open(role, guest.name)
            end: Endpoint
            if role == SENDER:
                end = channel.sender = Sender(pointer, name, decision.mode)
            else:
                end = channel.receiver = Receiver(pointer, name, decision.mode)
            guest.grant(checked(port or name, "channel"), end)
        return channel

    def run(self, *guests: Guest) -> None:
        """Runs guests to their end, a thread each; all loaded ones by default. A guest runs once.

        When all have ended, the error of the one that failed first is raised; what fails takes its neighbours along
        by PeerDied. Ctrl-C and close() end all waits with Cancelled.
        Raises GuestTrap, GuestExit, GuestTimeout, BadModule, BadSpec.
        """
        chosen = guests or tuple(self._guests)
        self._admit(chosen)
        ended: queue.SimpleQueue[tuple[Guest, BaseException | None]] = queue.SimpleQueue()
        waiting = set(chosen)
        failures: list[BaseException] = []
        until = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            for guest in chosen:
                threading.Thread(target=self._run_guest, args=(guest, ended), name=guest.name, daemon=True).start()
            while waiting:
                guest, error = ended.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
                waiting.discard(guest)
                if error is not None:
                    failures.append(error)
        except queue.Empty:
            self._cancel(waiting)
            names = ", ".join(sorted(guest.name for guest in waiting))
            failures = failures or [errors.GuestTimeout(f"after {self.timeout:g} s still running: {names}")]
        except BaseException:
            self._cancel(waiting)
            raise
        if failures:
            raise min(failures, key=errors.happened)

    def _admit(self, guests: Sequence[Guest]) -> None:
        """A store takes one thread, and its channels end with the run."""
        with self._changed:
            for guest in guests:
                self._check_mine(guest)
                if guest in self._started or guests.count(guest) > 1:
                    raise errors.BadSpec(f"function {guest.name} runs once; load it again for another run")
            self._started.update(guests)
            self._running.update(guests)

    def _check_mine(self, guest: Guest) -> None:
        if guest not in self._guests:
            raise errors.BadSpec(f"function {guest.name} is not loaded in this host, or the host is closed")

    def _run_guest(self, guest: Guest, ended: queue.SimpleQueue[tuple[Guest, BaseException | None]]) -> None:
        failure: BaseException | None = None
        try:
            guest.run()
        except BaseException as error:
            failure = error
        with self._changed:
            self._running.discard(guest)
            self._changed.notify_all()
        ended.put((guest, failure))

    def _cancel(self, guests: Set[Guest]) -> None:
        """Ends the waits of these guests, and all loops where they can be interrupted."""
        for guest in guests:
            guest.stop()
        if self.timeout is not None:
            self._engine.increment_epoch()
        with self._changed:
            self._changed.wait_for(lambda: self._running.isdisjoint(guests), _STOP_SECONDS)
            self._stuck |= self._running & guests

    def stop(self) -> None:
        """Ends the waits of all guests with Cancelled, from any thread."""
        for guest in list(self._running):
            guest.stop()

    def peer_died(self, channel: str) -> None:
        """Tells the ends of `channel` that are here that the other one's process is gone."""
        for candidate in self._channels:
            if candidate.name == channel:
                candidate.peer_died()

    @property
    def guests(self) -> tuple[Guest, ...]:
        """All guests that were loaded here."""
        return tuple(self._guests)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels that were opened here."""
        return tuple(self._channels)

    def close(self) -> None:
        """Ends what runs and frees everything; closing twice is safe. A guest that cannot be ended keeps its memory
        until the process ends.
        """
        if not self._closed:
            self._cancel(self._running - self._stuck)
        self._closed = True
        for guest in self._guests:
            if guest not in self._running:
                guest.close()
        self._guests.clear()
        if not self._running:
            for channel in self._channels:
                channel.close()
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
