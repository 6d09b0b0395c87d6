"""A host: a process with one wasmtime engine that runs guests, a thread each."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import wasmtime

from . import calibration, errors
from . import transport as transports
from ._native import lib
from .channel import Channel, Edge
from .cpu import usable_cores
from .descriptors import allow_many
from .edges import answers_name, decide_all
from .endpoint import RECEIVER, SENDER, Endpoint
from .explanation import Explanation
from .guest import Guest, Streams
from .handover import hand_over_all
from .kept import Steered
from .metrics import Observation
from .modes import EdgeFacts, Mode, Transport, parse_mode, parse_transport
from .named_channel import NamedChannel, ReceivedChannel
from .names import LONGEST, checked
from .output import Output
from .placement import edge_facts, here
from .policy import CostPolicy, Decision, Limits, Objective, Policy
from .published import Published
from .runs import Runs
from .steward import Steward
from .switch import left, until_of
from .switch_channel import switch_channel
from .transport import Link

if TYPE_CHECKING:
    from .tracer import Tracer
    from .transport.tls import TlsFiles

_STOP_SECONDS = 2.0
_STDOUT = 1

Port = str | None | Sequence[str | None]


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is left to the policy, and what it is told."""

    mode: Mode | None
    transport: Transport | None
    observation: Observation | None
    pin: bool

    @property
    def pinned(self) -> str:
        """Why the policy is not asked again, if so."""
        if self.transport is not None or self.mode is not None:
            return f"{self.transport or self.mode} was asked for"
        return "it was pinned when it was made" if self.pin else ""


def _shared_output() -> Output | None:
    """For what guests print to this process's standard output, unless it is a terminal, or closed."""
    try:
        os.fstat(_STDOUT)
    except OSError:
        return None
    return None if os.isatty(_STDOUT) else Output(_STDOUT)


def _listed(guests: Guest | Sequence[Guest]) -> list[Guest]:
    return [guests] if isinstance(guests, Guest) else list(guests)


def _each(port: Port, guests: Sequence[Guest]) -> Sequence[str | None]:
    return [port] * len(guests) if port is None or isinstance(port, str) else port


_forked = False
"""wasmtime's threads, which compile, may be in the parent: who waited for them would wait for ever."""


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


class Host:
    """Runs functions and connects them. Use it in a `with` block, or close it."""

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        timeout: float | None = None,
        redis: str | None = None,
        tls: TlsFiles | None = None,
        objective: Objective | None = None,
        limits: Limits | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """policy: who picks what carries each channel, and asks for a change while guests run; CostPolicy, calibrated
        now (a few milliseconds), by default. objective: what is to be small, the latency by default. limits: what must
        hold.

        timeout: seconds that a run may take. Guests are then compiled with interruption points, which costs tight
        loops up to a factor of 3; without it a guest that never ends can be ended only with the process.
        redis: URL of a server, for edges that need the remote mode. tls: what its ends over tcp show each other.
        tracer: one of this process, whose owner closes it after the host: it tells the policy what the functions take
        of the kernel. Without one, whoever runs cwasi-trace as root does.
        Raises RedisUnavailable, TracerUnavailable.
        """
        self.policy = policy if policy is not None else CostPolicy(calibration.costs(redis))
        self.redis = redis
        self.tls = tls
        self.objective = objective if objective is not None else Objective()
        self.limits = limits if limits is not None else Limits()
        self.timeout = timeout
        config = wasmtime.Config()
        config.epoch_interruption = timeout is not None
        config.parallel_compilation = not _forked
        if tracer is not None:
            tracer.trace_own()
        allow_many()
        # Who works needs a core, too; under a quota spinning is paid with the time to work.
        lib.cwasi_wait_configure(max(0, math.ceil(usable_cores()) - 1), -1)
        self._engine = wasmtime.Engine(config)
        self._output = _shared_output()
        self._guests: dict[str, Guest] = {}
        self._channels: dict[str, Channel] = {}
        self._published = Published(self)
        self.switcher = ""
        """The address of the process that switches its channels, where that is another one."""
        self._switching = threading.Lock()
        """One switch at a time."""
        self._steward = Steward(self)
        self._runs = Runs(timeout, self._engine.increment_epoch)
        self._closed = False

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
        if guest_name in self._guests:
            raise errors.BadSpec(f"a function named {guest_name!r} is loaded already; give the second one another name")
        guest = Guest(self._engine, file, guest_name, trust, streams, self._output)
        self._guests[guest_name] = guest
        return guest

    def connect(
        self,
        name: str,
        sender: Guest | Sequence[Guest],
        receiver: Guest | Sequence[Guest],
        *,
        mode: Mode | str | None = None,
        transport: Transport | str | None = None,
        ports: tuple[Port, Port] = (None, None),
        observation: Observation | None = None,
        calls: bool = False,
        pin: bool = False,
    ) -> Channel:
        """Opens a channel between guests of this host; the policy picks what carries it, now and while they run.

        sender, receiver: one guest or several; each receiver gets every message of each sender. Several receivers need
        the ring or pipes. mode, transport: leave the policy only this choice, for good. pin: what it picks now stays.
        ports: what the senders and the receivers call the channel where that is not `name`, for all of them or each.
        observation: what is known of the edges' past. calls: its messages are requests, and the only receiver answers
        each.
        Raises NoTransport, BadName, BadSpec.
        """
        checked(name, "channel")
        senders, receivers = _listed(sender), _listed(receiver)
        for guest in (*senders, *receivers):
            self._check_able(guest, name)
        for wanted in (name, *(answers_name(name, guest.name) for guest in senders if calls)):
            if wanted in self._channels:
                raise errors.BadSpec(f"there is a channel {wanted!r} already; name all of its ends when you connect it")
            if len(wanted) > LONGEST:
                raise errors.BadSpec(f"{wanted!r}, on which answers would come back, is too long a name for a channel")
        if calls and len(receivers) > 1:
            raise errors.BadSpec(f"channel {name!r}: calls have one function that answers them")
        if not senders or not receivers or len({*senders, *receivers}) < len(senders) + len(receivers):
            raise errors.BadSpec(f"channel {name!r}: give at least one sender and one receiver, and each guest once")
        choice = _Choice(parse_mode(mode), parse_transport(transport), observation, pin)
        decisions = self._decide(name, senders, receivers, choice)
        backs = [self._way_back(name, one, receivers[0], choice) for one in senders] if calls else []
        links = [
            self._link(
                transports.key_of(name, one.name, len(senders)),
                decisions[one.name, receivers[0].name],
                len(receivers),
            )
            for one in senders
        ]
        for number, (one, port) in enumerate(zip(senders, _each(ports[0], senders), strict=True)):
            self.join(name, decisions, SENDER, one, [links[number]], port=port, backs=backs[number : number + 1])
        for number, (one, port) in enumerate(zip(receivers, _each(ports[1], receivers), strict=True)):
            self.join(name, decisions, RECEIVER, one, links, reader=number, port=port, backs=backs)
        for each in (name, *backs):
            self._channels[each].pinned = choice.pinned
        return self._channels[name]

    def _decide(
        self, channel: str, senders: Sequence[Guest], receivers: Sequence[Guest], choice: _Choice
    ) -> dict[Edge, Decision]:
        return decide_all(
            self.policy,
            channel,
            {
                (one.name, other.name): edge_facts(here(one.trust), here(other.trust))
                for one in senders
                for other in receivers
            },
            mode=choice.mode,
            asked=choice.transport,
            redis=self.redis,
            observation=choice.observation,
            objective=self.objective,
            limits=self.limits,
        )

    def _way_back(self, channel: str, caller: Guest, answerer: Guest, choice: _Choice) -> str:
        """The channel of the answers to one caller, with both its ends, which the guests do not know by name."""
        name = answers_name(channel, caller.name)
        decisions = self._decide(name, [answerer], [caller], choice)
        link = self._link(name, decisions[answerer.name, caller.name])
        self.join(name, decisions, RECEIVER, caller, [link], private=True)
        self.join(name, decisions, SENDER, answerer, [link], private=True)
        return name

    def switch(self, channel: str, target: str, timeout: float | None = 5.0) -> None:
        """Takes a channel, all of whose ends are here, to another transport, while its guests run. See Sender.switch.
        From then on the policy leaves it alone.

        Raises BadSpec, NoTransport, Timeout, and what send raises.
        """
        until = until_of(timeout)
        with self.changing(channel, timeout) as found:
            facts = self.facts_of(found)
            if facts is None:
                elsewhere = {name for edge in found.decisions for name in edge} - self._guests.keys()
                raise errors.BadSpec(
                    f"channel {channel!r}: {', '.join(sorted(elsewhere))} run in other processes; who connects these "
                    "can switch it"
                )
            switch_channel(found, facts, target, left(until), self.tls)
            found.pinned = "a switch was asked for"

    def change(self, channel: Steered, decision: Decision, timeout: float) -> None:
        """The same, for the policy, and only where it is not on that transport; also of a channel by name whose sender
        a guest has here. Raises BadSpec also where the user has chosen meanwhile.
        """
        if not isinstance(channel, Channel):
            channel.change(decision, timeout)
            return
        target = self.redis if decision.transport is Transport.REDIS else str(decision.transport)
        until = until_of(timeout)
        with self.changing(channel.name, timeout) as found:
            facts = self.facts_of(found)
            obstacle = found.pinned or found.missing.get(decision.transport)
            if obstacle or facts is None:
                raise errors.BadSpec(f"channel {channel.name!r}: {obstacle or 'an end is in another process'}")
            there = {edge[0] for edge, made in found.decisions.items() if made.transport is decision.transport}
            if found.mixed or not there:
                switch_channel(found, facts, target or "", left(until), self.tls, there)
            found.redecided(decision)

    def facts_of(self, channel: Channel) -> dict[Edge, EdgeFacts] | None:
        """Of each edge; None where an end is in another process."""
        placed = {name: here(guest.trust) for name, guest in dict(self._guests).items()}
        if not {name for edge in channel.decisions for name in edge} <= placed.keys():
            return None
        return {edge: edge_facts(placed[edge[0]], placed[edge[1]]) for edge in channel.decisions}

    def explain(self, channel: str) -> Explanation | None:
        """Why a channel goes as it goes, with figures; None where there is none, or it is part of a run with ends in
        other processes. Of one that a guest was given an end of, the process of its sender is asked.

        Raises PeerDied, Timeout, and what else such a process refuses it with.
        """
        if (found := self._channels.get(channel)) is not None:
            return self._steward.advice.explain(found)
        for teller in (end.teller for guest in self.guests for end in guest.ends if end.name == channel):
            if isinstance(teller, NamedChannel | ReceivedChannel):
                return teller.explain()
        return None

    def running(self) -> dict[str, Guest]:
        """The guests that run, by name."""
        return {guest.name: guest for guest in self._runs.running}

    @contextmanager
    def changing(self, channel: str, timeout: float | None) -> Iterator[Channel]:
        """A channel, for who takes ends of it to another transport, one at a time. Raises BadSpec, Timeout."""
        found = self._channels.get(channel)
        if found is None:
            raise errors.BadSpec(f"there is no channel {channel!r} here")
        if not self._switching.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise errors.Timeout(f"channel {channel!r}: another switch is under way in this host")
        try:
            yield found
        finally:
            self._switching.release()

    def _link(self, key: str, decision: Decision, readers: int = 1) -> Link:
        return transports.create(decision.transport, readers=readers, redis=self.redis, key=key, tls=self.tls)

    def _channel(self, name: str, decisions: Mapping[Edge, Decision]) -> Channel:
        """The channel of that name, which another end of it may have made."""
        if name not in self._channels:
            channel = self._channels[name] = Channel(name, decisions)
            channel.adviser = self._steward.advice
            self._published.listen(name)
        return self._channels[name]

    def join(
        self,
        name: str,
        decisions: Mapping[Edge, Decision],
        role: int,
        guest: Guest,
        links: list[Link],
        *,
        reader: int = 0,
        port: str | None = None,
        backs: Sequence[str] = (),
        private: bool = False,
    ) -> Endpoint:
        """Gives a guest of this host its end of links that were decided elsewhere, and owns them from now on.

        decisions: of all edges of the channel. reader: which of the receivers it is. backs: the channels that are the
        way back, joined before. private: the guest does not know this one by name.
        """
        self._check_able(guest, name)
        self._published.start()
        end = self._channel(name, decisions).join(role, guest.name, links, reader)
        if not private:
            ways = [self._end_of(guest, back) for back in backs]
            guest.grant(checked(port or name, "channel"), end, ways)
        return end

    def attach(self, guest: Guest, end: Endpoint, *, port: str | None = None) -> None:
        """Gives a guest of this host an end that was opened by name (open_sender, open_receiver), and owns it from now
        on. Of a sender, this host's policy picks what carries its messages while the guest runs, unless it was opened
        for a mode or a transport. port: what the guest calls the channel where that is not its name. Raises BadSpec.
        """
        self._check_able(guest, end.name)
        guest.grant(checked(port or end.name, "channel"), end)
        if isinstance(end.teller, NamedChannel) and isinstance(self.policy, Policy):
            end.teller.adviser = self._steward.advice

    def move_out(self, guest: Guest, timeout: float | None = None) -> None:
        """Stops a guest, and hands its ends over to the processes that open them next, each as Endpoint.hand_over.

        The guest may finish what it has received; where it would begin with another message it gets ECANCELED, and is
        expected to end. Messages that it has received count as received, whatever it has done with them.
        timeout: seconds for all of it. Raises BadSpec for one that has ended, or has ends that were not opened by name,
        Timeout where it goes on all the same, which it then may, and what hand_over raises; then it can be tried again.
        """
        self._check_mine(guest)
        if guest.ended or not guest.ends or any(end.mover is None for end in guest.ends):
            raise errors.BadSpec(f"function {guest.name} has ended, or has ends that others cannot find by name")
        until = until_of(timeout)
        guest.stop_between()
        if not self._runs.wait_for(guest, left(until)):
            guest.stop_between(False)
            raise errors.Timeout(f"function {guest.name} computes on, and waits for no message")
        try:
            hand_over_all(guest.ends, until)
        except BaseException:
            if not self._runs.began(guest):
                guest.stop_between(False)
            raise

    def _end_of(self, guest: Guest, channel: str) -> Endpoint:
        found = self._channels[channel]
        ends: dict[str, Endpoint] = {**found.senders, **found.receivers}
        return ends[guest.name]

    def run(self, *guests: Guest) -> None:
        """Runs guests to their end, a thread each; all loaded ones by default. A guest runs once.

        When all have ended, the error of the one that failed first is raised; what fails takes its neighbours along
        by PeerDied. Ctrl-C and close() end all waits with Cancelled.
        Raises GuestTrap, GuestExit, GuestTimeout, BadModule, BadSpec.
        """
        chosen = guests or self.guests
        for guest in chosen:
            self._check_mine(guest)
        stewarded = isinstance(self.policy, Policy) and not self.switcher
        self._runs.run(chosen, self._steward.at_work() if stewarded else nullcontext())

    def _check_mine(self, guest: Guest) -> None:
        if self._guests.get(guest.name) is not guest:
            raise errors.BadSpec(f"function {guest.name} is not loaded in this host, or the host is closed")

    def _check_able(self, guest: Guest, channel: str) -> None:
        self._check_mine(guest)
        if not guest.uses_channels:
            raise errors.BadSpec(
                f"function {guest.name} ({guest.path}) imports nothing from cwasi_v1: it cannot use channel {channel!r}"
            )

    def trust_of(self, function: str) -> str:
        """The label of the trust domain of a function that is loaded here."""
        return self._guests[function].trust

    def stop(self) -> None:
        """Ends the waits of all guests with Cancelled, from any thread."""
        self._runs.stop()

    def peer_died(self, channel: str, edge: Edge) -> None:
        """Tells our end of this edge of `channel` that the process of the other one is gone."""
        if channel in self._channels:
            self._channels[channel].peer_died(edge)

    @property
    def guests(self) -> tuple[Guest, ...]:
        """All guests that were loaded here."""
        return tuple(self._guests.values())

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels that were opened here."""
        return tuple(self._channels.values())

    def close(self) -> None:
        """Ends what runs and frees everything; closing twice is safe. A guest that cannot be ended keeps its memory
        until the process ends.
        """
        if not self._closed:
            self._runs.end()
        self._closed = True
        self._published.end()
        running = self._runs.running
        for guest in self._guests.values():
            if guest not in running:
                guest.close()
        self._guests.clear()
        # A switch ends soon now; what it has gone to shall be closed as well.
        ended = self._switching.acquire(timeout=_STOP_SECONDS)
        if not self._runs.running:
            for channel in self._channels.values():
                channel.close()
            self._engine.close()
        if ended:
            self._switching.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
