"""cwasi-trace: the system calls of a command, by the function that made them.

USAGE: cwasi-trace [--json] [--by function|syscall] [--] COMMAND [ARG]...

Counts in the kernel from the command's first instruction to its end, threads and children included. Calls that no
function made are charged to the process, in brackets. A call is counted when it returns, so exit_group never is.
Needs root (or CAP_BPF and CAP_PERFMON) and python3-bpfcc; needs no kernel headers and no tracefs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from ..metrics import Process, SyscallRow, TraceReport

if TYPE_CHECKING:
    from ..tracer import Tracer

_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)

_EPILOG = """\b
Examples:
  cwasi-trace -- cwasi run a.wasm b.wasm     # a row for each function
  cwasi-trace --by syscall -- ./host.py      # a row for each function and call
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
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--by",
    type=click.Choice(["function", "syscall"]),
    default="function",
    show_default=True,
    help="A row for each function, or for each system call of each.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(as_json: bool, by: str, command: tuple[str, ...]) -> None:
    """Counts the system calls that COMMAND's functions make."""
    from ..tracer import Tracer, TracerUnavailable

    try:
        tracer = Tracer()
    except TracerUnavailable as error:
        click.echo(f"cwasi-trace: {error}", err=True)
        sys.exit(error.exit_code)
    with tracer:
        status = _run(tracer, command)
        report = tracer.snapshot()
    click.echo(_as_json(report, command, status) if as_json else _TABLES[by](report) + _footer(report))
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


# ---- the report ----


def _labels(rows: Sequence[SyscallRow]) -> dict[str | Process, str]:
    """What to call each owner; a process by its pid too, where two have one name."""
    owners = {row.owner for row in rows}
    names = Counter(str(owner) for owner in owners)
    return {
        owner: str(owner) if isinstance(owner, str) or names[str(owner)] == 1 else f"[{owner.comm} {owner.pid}]"
        for owner in owners
    }


def _function_table(report: TraceReport) -> str:
    labels = _labels(report.rows)
    rows = sorted(
        ([row for row in report.rows if row.owner == owner] for owner in labels),
        key=lambda rows: -sum(row.ns for row in rows),
    )
    lines = [f"{'FUNCTION':<24} {'CALLS':>9} {'TIME ms':>10} {'BYTES':>12}  TOP SYSCALLS"]
    for owned in rows:
        top = sorted(owned, key=lambda row: -row.count)
        lines.append(
            f"{_fit(labels[owned[0].owner], 24):<24} {sum(row.count for row in owned):>9} "
            f"{sum(row.ns for row in owned) / 1e6:>10.3f} {sum(row.bytes for row in owned):>12}  "
            f"{_fit(' '.join(row.syscall for row in top[:3]), 19)}"
        )
    return "\n".join(lines)


def _syscall_table(report: TraceReport) -> str:
    labels = _labels(report.rows)
    lines = [f"{'FUNCTION':<20} {'SYSCALL':<16} {'CALLS':>8} {'TIME ms':>9} {'AVG us':>9} {'BYTES':>12}"]
    for row in report.rows:
        lines.append(
            f"{_fit(labels[row.owner], 20):<20} {_fit(row.syscall, 16):<16} {row.count:>8} "
            f"{row.ns / 1e6:>9.3f} {row.ns / 1e3 / row.count:>9.3f} {row.bytes:>12}"
        )
    return "\n".join(lines)


_TABLES = {"function": _function_table, "syscall": _syscall_table}


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _footer(report: TraceReport) -> str:
    lost = f"{report.lost} calls and {report.lost_threads} threads lost"
    return (
        f"\n\n{report.calls} calls in {report.seconds:.3f} s; {lost}."
        f"\nTracing added about {report.ns_per_call:.0f} ns a call, {report.overhead_seconds * 1e3:.3f} ms in all."
    )


def _as_json(report: TraceReport, command: Sequence[str], status: int) -> str:
    return json.dumps(
        {
            "schema": 1,
            "command": list(command),
            "status": status,
            "seconds": report.seconds,
            "calls": report.calls,
            "lost": report.lost,
            "lost_threads": report.lost_threads,
            "overhead": {"ns_per_call": report.ns_per_call, "seconds": report.overhead_seconds},
            "rows": [_row_as_json(row) for row in report.rows],
        },
        indent=1,
    )


def _row_as_json(row: SyscallRow) -> dict[str, Any]:
    process = row.owner if isinstance(row.owner, Process) else None
    return {
        "function": None if process else row.owner,
        "process": process and {"pid": process.pid, "comm": process.comm},
        "syscall": row.syscall,
        "count": row.count,
        "ns": row.ns,
        "bytes": row.bytes,
    }


if __name__ == "__main__":
    main()
