"""Channels between guests: windows and calls, in one host or in a process each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from .. import deployment, errors
from ..host import Host
from ..metrics import ChannelMetrics
from ..modes import Mode, Transport
from ..workflow import EdgeSpec, FunctionSpec, Workflow
from .fault import Fault
from .lane import Request, Score

_MODULE = Path(__file__).with_name("guests.wat")
_CHANNEL = "soak"
_FEWEST, _MOST = 500, 20000
_ENDED_BY_CHANNEL, _WRONG = 3, 99
_HANG = 60.0
_PAUSE = 0.05


@dataclass(frozen=True)
class Guests:
    """Two guests of one host; a fault stops the host. Keeps the protocol Play."""

    name: str
    roles: tuple[str, str]
    transport: Transport = Transport.RING
    calls: bool = False
    switches: tuple[str, ...] = ()
    """The transports that it goes to by turns, all the time."""

    def episode(self, request: Request, score: Score) -> None:
        count = request.dice.randrange(_FEWEST, _MOST)
        with Host(timeout=_HANG) as host:
            one, other = (host.load(_MODULE, role, arguments=(role, str(count))) for role in self.roles)
            channel = host.connect(_CHANNEL, one, other, transport=self.transport, calls=self.calls)
            run = _Run(host.run)
            switching = _Run(lambda: self._switch(host, run))
            faulted = run.watch(request)
            if faulted:
                host.stop()
            error = run.result()
            if (unexpected := switching.result()) is not None:
                score.complain(f"a switch: {type(unexpected).__name__}: {unexpected}")
            metrics = channel.metrics()
        _judge(score, error, Fault.STOP if faulted else Fault.NONE)
        _count(score, metrics, count if error is None else 0)
        if faulted:
            request.taken()

    def _switch(self, host: Host, run: _Run) -> None:
        done = 0
        while self.switches and run.running:
            with suppress(errors.ChannelError):   # it takes too long, or is over
                host.switch(_CHANNEL, self.switches[done % len(self.switches)], timeout=_PAUSE)
                done += 1


@dataclass(frozen=True)
class GuestsApart:
    """Two guests, each in a host process; a fault kills one. Keeps the protocol Play."""

    name: str
    roles: tuple[str, str]
    calls: bool = False

    def episode(self, request: Request, score: Score) -> None:
        count = request.dice.randrange(_FEWEST, _MOST)
        workflow = Workflow(
            tuple(FunctionSpec(role, _MODULE, (role, str(count))) for role in self.roles),
            (EdgeSpec(_CHANNEL, *self.roles, calls=self.calls),),
        )
        reports: list[deployment.RunReport] = []
        options = deployment.Options(mode=Mode.PROXIMAL, transport=Transport.RING, timeout=_HANG)
        run = _Run(lambda: reports.append(deployment.run(workflow, options)))
        faulted = run.watch(request) and self._kill_one(request, run)
        _judge(score, run.result(), Fault.KILL if faulted else Fault.NONE)
        for metrics in (edge.metrics for report in reports for edge in report.edges if edge.channel == _CHANNEL):
            _count(score, metrics, count)
        if faulted:
            request.taken()

    def _kill_one(self, request: Request, run: _Run) -> bool:
        while run.running:
            hosts = [child for child in psutil.Process().children() if _is_host(child)]
            if len(hosts) == len(self.roles):
                request.dice.choice(hosts).kill()
                return True
            time.sleep(_PAUSE)
        return False


def _is_host(process: psutil.Process) -> bool:
    try:
        return "cwasi_fastpath.worker" in process.cmdline()
    except psutil.Error:
        return False


class _Run:
    """Something that runs on a thread of its own."""

    def __init__(self, body: Callable[[], object]) -> None:
        self._body = body
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._body()
        except Exception as error:
            self._error = error

    @property
    def running(self) -> bool:
        """Whether it still does."""
        return self._thread.is_alive()

    def watch(self, request: Request) -> bool:
        """Waits until it has ended, or a fault is asked for; whether one is, while it still runs."""
        while self.running and not request.wait(_PAUSE):
            continue
        return self.running and not request.over

    def result(self) -> Exception | None:
        """Waits for its end; what it raised."""
        self._thread.join()
        return self._error


def _judge(score: Score, error: Exception | None, fault: Fault) -> None:
    """Whether that is how functions may end."""
    score.count_fault(fault)
    status = error.exit_code if isinstance(error, errors.GuestExit) else None
    if status == _WRONG:
        score.corrupt += 1
    elif isinstance(error, errors.GuestTimeout):
        score.hung += 1
    expected = error is None or (
        fault is not Fault.NONE and (status == _ENDED_BY_CHANNEL or isinstance(error, errors.HostDied))
    )
    if not expected:
        score.complain(f"{fault}: {type(error).__name__}: {error}")


def _count(score: Score, metrics: ChannelMetrics, sent: int) -> None:
    """sent: what was sent and should have been received; 0 where that is not known."""
    score.messages += metrics.received
    score.bytes += metrics.bytes
    score.lost += max(0, sent - metrics.received)
    score.doubled += max(0, metrics.received - (sent or metrics.sent))
