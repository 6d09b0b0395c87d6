"""Channels whose ends are in Python: threads of this process, and processes of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import errors, transport, watch
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..modes import Mode, Transport
from ..receiver import Receiver, gathered
from ..sender import Sender
from ..switch import Target, switch_here
from ..transport import Link
from .fault import Fault
from .lane import Request, Score
from .message import LARGEST
from .peer import Peer
from .tally import Ending, Tally
from .worker import work

_BETWEEN = 0.2
"""Seconds that the others go on after one of them has had its fault."""
_SWITCH = 0.1
"""Seconds that a switch may take."""
_HANG = 20.0
"""Seconds after which an end that has not ended hangs."""


@dataclass(frozen=True)
class Shape:
    """A kind of channel. Keeps the protocol Play."""

    name: str
    transport: Transport
    senders: int = 1
    receivers: int = 1
    apart: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(role, number) of those that have a process of their own."""
    largest: int = LARGEST
    """Bytes; more than a ring holds, by default."""
    switches: tuple[Transport, ...] = ()
    """The transports that the first sender goes to by turns, all the time; none of the ends may be apart."""

    def episode(self, request: Request, score: Score) -> None:
        with _Episode(self) as episode:
            request.wait()
            episode.play(request, score)


class _Seat:
    """One end, and who drives it."""

    def __init__(self, shape: Shape, role: int, number: int, links: Sequence[Link]) -> None:
        self.role, self.number, self._largest = role, number, shape.largest
        self.tally = Tally()
        self.peer: Peer | None = None
        self.end: Endpoint | None = None
        mine = [links[number]] if role == SENDER else list(links)
        if (role, number) in shape.apart:
            self.peer = Peer(role, number, mine, self.tally, shape.largest)
        else:
            self.end = self._open(mine)

    def _open(self, links: Sequence[Link]) -> Endpoint:
        if self.role == SENDER:
            return Sender(links[0].open(SENDER), "soak")
        return Receiver(gathered([link.open(RECEIVER, reader=self.number) for link in links]), "soak")

    def start(self) -> None:
        """Once all ends are open, and those of other processes are no longer ours, too."""
        if self.end is not None:
            watch.watch(self.end)
            arguments = (self.end, self.number, self.tally, self._largest)
            self._thread = threading.Thread(target=work, args=arguments, daemon=True)
            self._thread.start()

    def faults(self) -> list[Fault]:
        """What can happen to it."""
        return [Fault.CLOSE, Fault.STOP if self.peer is None else Fault.KILL]

    def suffer(self, fault: Fault) -> None:
        """Makes it happen."""
        if fault is Fault.CLOSE:
            self.tally.tell()
        elif fault is Fault.KILL and self.peer is not None:
            self.peer.kill()
        elif self.end is not None:
            self.end.stop()

    def join(self, until: float) -> bool:
        """Whether it has ended before that time."""
        left = max(0.0, until - time.monotonic())
        if self.peer is not None:
            return self.peer.join(left)
        self._thread.join(left)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Frees everything, also where it hangs."""
        if self.peer is not None:
            self.peer.close()
        elif self.end is not None:
            self.end.stop()
            if not self.join(time.monotonic() + 1.0):
                return   # the thread still uses the tally
        self.tally.close()


class _Episode:
    """One channel."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        links = [transport.create(shape.transport, readers=shape.receivers) for _ in range(shape.senders)]
        try:
            self._senders = [_Seat(shape, SENDER, number, links) for number in range(shape.senders)]
            self._receivers = [_Seat(shape, RECEIVER, number, links) for number in range(shape.receivers)]
        finally:
            for link in links:
                link.close()
        for seat in self._seats:
            seat.start()
        self._over = threading.Event()
        self._switching = threading.Thread(target=self._switch, daemon=True)
        self._switching.start()

    def _switch(self) -> None:
        """By turns, until the ends are closed."""
        sender = self._senders[0].end
        targets = [Target(seat.end) for seat in self._receivers if isinstance(seat.end, Receiver)]
        done = 0
        while self._shape.switches and isinstance(sender, Sender) and not self._over.is_set():
            kind = self._shape.switches[done % len(self._shape.switches)]
            link = transport.create(kind, readers=self._shape.receivers)
            try:
                switch_here(sender, targets, link, Mode.LOCAL, _SWITCH)
                done += 1
            except errors.ChannelClosed:
                return   # or a receiver that has left; the others go on here
            except errors.ChannelError:
                continue

    @property
    def _seats(self) -> list[_Seat]:
        return [*self._senders, *self._receivers]

    def __enter__(self) -> _Episode:
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for seat in self._seats:
            seat.close()
        self._switching.join()

    def play(self, request: Request, score: Score) -> None:
        """Lets the fault happen, waits for the end of all, and checks what they have done."""
        victim = request.dice.choice(self._seats)
        fault = Fault.NONE if request.over else request.dice.choice(victim.faults())
        score.count_fault(fault)
        request.taken()
        if fault is Fault.NONE:
            victim = self._senders[0]
            victim.suffer(Fault.CLOSE)
        else:
            victim.suffer(fault)
        hung = self._await_end(victim)
        score.hung += len(hung)
        for seat in hung:
            score.complain(f"{fault} of {_named(victim)}: {_named(seat)} did not end")
        if not hung:
            _Verdict(self._shape, self._senders, self._receivers, victim, fault).give(score)

    def _await_end(self, victim: _Seat) -> list[_Seat]:
        """Waits until all have ended; those that have not."""
        until = time.monotonic() + _HANG
        victim.join(until)
        if len(self._senders if victim.role == SENDER else self._receivers) > 1:
            time.sleep(_BETWEEN)
            for seat in self._senders:
                seat.tally.tell()
        return [seat for seat in self._seats if not seat.join(until)]


def _named(seat: _Seat) -> str:
    return f"{'sender' if seat.role == SENDER else 'receiver'} {seat.number}"


@dataclass
class _Verdict:
    """What should have come of an episode, and did."""

    shape: Shape
    senders: list[_Seat]
    receivers: list[_Seat]
    victim: _Seat
    fault: Fault

    def give(self, score: Score) -> None:
        """Adds it to the score."""
        for receiver in self.receivers:
            score.messages += sum(receiver.tally.done(stream) for stream in range(len(self.senders)))
            score.bytes += receiver.tally.bytes
            score.corrupt += receiver.tally.corrupt
            score.lost += receiver.tally.lost
            score.doubled += receiver.tally.doubled
            for sender in self.senders:
                self._compare(sender, receiver, score)
        for seat in (*self.senders, *self.receivers):
            expected = self._endings(seat)
            if seat.tally.ending not in expected:
                names = " or ".join(ending.name.lower() for ending in expected)
                score.complain(
                    f"{self.fault} of {_named(self.victim)}: {_named(seat)} ended with "
                    f"{seat.tally.ending.name.lower()}, not {names}"
                )
        self._compare_unread(score)

    def _compare(self, sender: _Seat, receiver: _Seat, score: Score) -> None:
        """A receiver that lived on has all that was sent, and nobody has more than that."""
        received = receiver.tally.done(sender.number)
        if receiver is not self.victim:
            score.lost += max(0, sender.tally.done(sender.number) - received)
        score.doubled += max(0, received - sender.tally.begun)

    def _endings(self, seat: _Seat) -> set[Ending]:
        broken = self.fault in (Fault.KILL, Fault.STOP)
        if seat is self.victim:
            return {Fault.KILL: {Ending.RUNNING}, Fault.STOP: {Ending.CANCELLED}}.get(self.fault, {Ending.TOLD})
        if seat.role == RECEIVER:
            return {Ending.DIED if broken and self.victim.role == SENDER else Ending.CLOSED}
        if self.victim.role == SENDER or len(self.receivers) > 1:
            return {Ending.TOLD}
        return {Ending.DIED if broken else Ending.CLOSED}

    def _compare_unread(self, score: Score) -> None:
        """What a sender was left with is what its receiver has not taken; one message may have been under way."""
        sender, receiver = self.senders[0], self.receivers[0]
        alone = len(self.senders) == len(self.receivers) == 1 and self.shape.transport is Transport.RING
        alone = alone and not self.shape.switches   # a pipe cannot tell
        if not alone or receiver is not self.victim:
            return
        missing = sender.tally.done(0) - receiver.tally.done(0)
        if missing - sender.tally.unread not in (0, 1):
            score.complain(f"{self.fault} of the receiver: {missing} not received, but {sender.tally.unread} unread")
