"""A host: a process with one wasmtime engine that runs guests, a thread each."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
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
        self._running: set[Guest] = set()

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
        link = transports.create(decision.transport, redis=self.redis, key=_unique_key(name))
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
            if not guest.uses_channels:
                raise errors.BadSpec(
                    f"function {guest.name} ({guest.path}) imports nothing from cwasi_v1: "
                    f"it cannot use channel {name!r}"
                )
            pointer = link.open(role, guest.name)
            end: Endpoint
            if role == SENDER:
                end = channel.sender = Sender(pointer, name)
            else:
                end = channel.receiver = Receiver(pointer, name)
            guest.grant(checked(port or name, "channel"), end, decision.mode)
        return channel

    def run(self, *guests: Guest) -> None:
        """Runs guests to their end, a thread each; all loaded ones by default.

        The first error that a guest ended with is raised when all have ended; what fails takes its neighbours along
        by PeerDied. Ctrl-C and close() end all waits with Cancelled.
        Raises GuestTrap, GuestExit, GuestTimeout, BadModule.
        """
        chosen = guests or tuple(self._guests)
        ended: queue.SimpleQueue[tuple[Guest, BaseException | None]] = queue.SimpleQueue()
        self._running.update(chosen)
        until = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            for guest in chosen:
                threading.Thread(target=_run_guest, args=(guest, ended), name=guest.name, daemon=True).start()
            first = self._collect(ended, until)
        except BaseException:
            self._cancel(ended)
            raise
        if first is not None:
            raise first

    def _collect(
        self, ended: queue.SimpleQueue[tuple[Guest, BaseException | None]], until: float | None
    ) -> BaseException | None:
        """Waits for the running guests; the error of the first that failed."""
        first: BaseException | None = None
        while self._running:
            try:
                guest, error = ended.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                names = ", ".join(sorted(guest.name for guest in self._running))
                self._cancel(ended)
                raise errors.GuestTimeout(f"after {self.timeout:g} s still running: {names}") from None
            self._running.discard(guest)
            first = first or error
        return first

    def _cancel(self, ended: queue.SimpleQueue[tuple[Guest, BaseException | None]]) -> None:
        """Ends the waits of the running guests, and their loops where they can be interrupted."""
        for guest in self._running:
            guest.stop()
        if self.timeout is not None:
            self._engine.increment_epoch()
        until = time.monotonic() + _STOP_SECONDS
        while self._running and (left := until - time.monotonic()) > 0:
            try:
                self._running.discard(ended.get(timeout=left)[0])
            except queue.Empty:
                break

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
        """Ends what runs and frees everything. A guest that cannot be ended keeps its memory until the process ends."""
        self.stop()
        stuck = set(self._running)
        for guest in self._guests:
            if guest not in stuck:
                guest.close()
        if not stuck:
            for channel in self._channels:
                channel.close()
            self._engine.close()
        self._guests.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _run_guest(guest: Guest, ended: queue.SimpleQueue[tuple[Guest, BaseException | None]]) -> None:
    try:
        guest.run()
    except BaseException as error:
        ended.put((guest, error))
    else:
        ended.put((guest, None))


def _unique_key(name: str) -> str:
    """A key for one channel in a server that others use too."""
    import uuid

    return f"{name}:{uuid.uuid4().hex}"
