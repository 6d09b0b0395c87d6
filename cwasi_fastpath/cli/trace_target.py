"""What cwasi-trace traces: a command that it starts, or processes that run already."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..tracer import Tracer

_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_SIGNALS = (*_FROM_TERMINAL, signal.SIGTERM, signal.SIGHUP)


class Target(ABC):
    """Its processes, and what may end the trace of them."""

    capabilities: Sequence[str] = ()
    """What to follow it takes, once it is there."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._pidfds: dict[int, Callable[[], None]] = {}
        self._inputs: dict[int, Callable[[], None]] = {}
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._woken, select.POLLIN)
        self.stopped = False
        """Whether the user has had enough."""

    def follow(self, pidfd: int, ended: Callable[[], None] = lambda: None) -> None:
        """The target has ended when all that are followed have; `ended` is called when this one has."""
        self._pidfds[pidfd] = ended
        self._poll.register(pidfd, select.POLLIN)

    def listen(self, descriptor: int, heard: Callable[[], None]) -> None:
        """Calls `heard` whenever there is something to be read."""
        self._inputs[descriptor] = heard
        self._poll.register(descriptor, select.POLLIN)

    def stop(self) -> None:
        """Ends the trace; from a signal handler too."""
        self.stopped = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"x")

    def wait(self, until: float | None) -> bool:
        """Until a moment of time.monotonic(), if any. Returns True as soon as the target has ended, or is stopped."""
        while self._pidfds and not self.stopped:
            left = None if until is None else max(0.0, until - time.monotonic())
            # Looks once even if it is late: else who is always late would never see the end.
            for descriptor, _ in self._poll.poll(None if left is None else left * 1000 + (left > 0)):
                self._heard(descriptor)
            if left == 0:
                break
        return self.stopped or not self._pidfds

    def _heard(self, descriptor: int) -> None:
        if descriptor in self._pidfds:
            ended = self._pidfds.pop(descriptor)
            self._poll.unregister(descriptor)
            os.close(descriptor)
            ended()
        elif descriptor in self._inputs:
            self._inputs[descriptor]()

    @abstractmethod
    def leave(self) -> None:
        """The user has had enough."""

    @abstractmethod
    def status(self) -> int:
        """What to end with; waits for what has to be waited for."""

    @property
    @abstractmethod
    def described(self) -> dict[str, Any]:
        """For reports: what it is."""

    def close(self) -> None:
        """Twice is safe."""
        for descriptor in (*self._pidfds, self._woken, self._wake):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfds, self._woken, self._wake = {}, -1, -1


class Command(Target):
    """A command that is started, and traced from its first instruction on. Signals are the command's."""

    capabilities = ("CAP_KILL",)   # it may be another user's by then

    def __init__(self, tracer: Tracer, argv: Sequence[str], quiet: bool) -> None:
        """Ends the program if it cannot start. quiet: what it prints and reads is nobody's, the screen is taken."""
        super().__init__()
        self._argv = list(argv)
        self._process: subprocess.Popen[Any] | None = None
        self._early: list[int] = []
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_handling(self._forward))
        null = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            self._process = tracer.spawn(argv, **(null if quiet else {"stdout": sys.stderr.fileno()}))
        except OSError as error:
            self.close()
            click.echo(f"cwasi-trace: {argv[0]}: {error.strerror}", err=True)
            sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
        for number in self._early:
            self._process.send_signal(number)
        self.follow(os.pidfd_open(self._process.pid))

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if number in _FROM_TERMINAL and _in_foreground():
            return  # the terminal has sent it to the command as well
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)

    def leave(self) -> None:
        """See Target. The command is told, as Ctrl-C would tell it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def status(self) -> int:
        """The one that a shell would give."""
        assert self._process is not None
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    @property
    def described(self) -> dict[str, Any]:
        """See Target."""
        return {"command": self._argv}

    def close(self) -> None:
        """See Target."""
        self._stack.close()
        super().close()


class Running(Target):
    """Processes that run already. A signal to us ends the trace, not them."""

    def __init__(self, tracer: Tracer, pids: Sequence[int]) -> None:
        """Raises NoSuchTarget."""
        super().__init__()
        self._pids = list(pids)
        try:
            for pid in pids:
                self.follow(tracer.attach(pid), partial(tracer.detach, pid))
        except BaseException:
            self.close()
            raise
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_handling(lambda _number, _frame: self.stop()))

    def leave(self) -> None:
        """See Target."""
        self.stop()

    def status(self) -> int:
        """Theirs is for their parents."""
        return 0

    @property
    def described(self) -> dict[str, Any]:
        """See Target."""
        return {"pids": self._pids}

    def close(self) -> None:
        """See Target."""
        if hasattr(self, "_stack"):
            self._stack.close()
        super().close()


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _in_foreground() -> bool:
    """Whether a key pressed at the terminal signals our process group, which is the command's too."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
