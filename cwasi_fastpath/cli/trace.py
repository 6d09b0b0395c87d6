"""cwasi-trace: the system calls of a command, by the function that made them.

USAGE: cwasi-trace [--json] [--by function|class|syscall|channel] [-L] [--light] [--] COMMAND [ARG]...

Counts in the kernel from the command's first instruction to its end, threads and children included. Calls that no
function made are charged to the process, in brackets. A call is counted when it returns, so exit_group never is.
Needs root (or CAP_BPF and CAP_PERFMON) and python3-bpfcc; needs no kernel headers and no tracefs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from .trace_tables import as_json, as_text

if TYPE_CHECKING:
    from ..tracer import Tracer

_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)

_EPILOG = """\b
Examples:
  cwasi-trace -- cwasi run a.wasm b.wasm     # a row for each function
  cwasi-trace --by syscall -- ./host.py      # a row for each function and call
  cwasi-trace --by channel -- ./host.py      # the tax bill: waits, copies, per message
  cwasi-trace -L -- ./host.py                # how long the calls of each took
  cwasi-trace --light -- ./host.py           # switches and sockets only
  cwasi-trace --json -- ./host.py > it.json  # the whole report

\b
The command's standard output goes to standard error; the report alone goes to
standard output. The exit status is the command's, 128+N if signal N killed it,
126 if it cannot be executed, 127 if it is not found, 77 if this machine or
this user cannot trace (nothing has been run then).
"""


@click.command(
    epilog=_EPILOG,
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
)
@click.option("--json", "json_wanted", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--by",
    type=click.Choice(["function", "class", "syscall", "channel"]),
    default="function",
    show_default=True,
    help="A row for each function, for each class of system calls of each, or for each system call of each; or what "
    "the time of each function and channel went into.",
)
@click.option("-L", "--latency", is_flag=True, help="Histograms of how long the calls of each class took.")
@click.option("--light", is_flag=True, help="Leave out system calls, which then cost nobody more than untraced.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(json_wanted: bool, by: str, latency: bool, light: bool, command: tuple[str, ...]) -> None:
    """Counts what COMMAND's functions ask of the kernel: system calls, switches, network."""
    from ..tracer import Tracer, TracerUnavailable

    if light and by in ("class", "syscall"):
        raise click.UsageError(f"--by {by} is of system calls, which --light leaves out: give one of them only.")
    try:
        tracer = Tracer(light)
    except TracerUnavailable as error:
        click.echo(f"cwasi-trace: {error}", err=True)
        sys.exit(error.exit_code)
    with tracer:
        status = _run(tracer, command)
        report = tracer.snapshot()
    click.echo(as_json(report, command, status) if json_wanted else as_text(report, by, latency))
    sys.exit(status)


# ---- the command ----


def _run(tracer: Tracer, command: Sequence[str]) -> int:
    """Runs the command to its end; returns the status that a shell would give. Ends the program if it cannot start."""
    with _forwarding() as forward:
        try:
            process = tracer.spawn(command, stdout=sys.stderr.fileno())
        except OSError as error:
            click.echo(f"cwasi-trace: {command[0]}: {error.strerror}", err=True)
            sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
        forward(process)
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _forwarding() -> Iterator[Callable[[subprocess.Popen[Any]], None]]:
    """Inside, signals are the command's: we outlive it to print the report. Yields what is told who the command is."""
    early: list[int] = []
    commands: list[subprocess.Popen[Any]] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if number in _FROM_TERMINAL and _in_foreground():
            return  # the terminal has sent it to the command as well
        for command in commands:
            command.send_signal(number)
        if not commands:
            early.append(number)

    def started(command: subprocess.Popen[Any]) -> None:
        commands.append(command)
        for number in early:
            command.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (*_FROM_TERMINAL, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


if __name__ == "__main__":
    main()
