"""cwasi-trace: the system calls of a command or of running processes, by the function that made them.

USAGE: cwasi-trace [OPTION]... [--] COMMAND [ARG]...
       cwasi-trace [OPTION]... -p PID [-p PID]... [INTERVAL [COUNT]]
       cwasi-trace report FILE -o PAGE

Counts in the kernel from the command's first instruction to its end, threads and children included. Calls that no
function made are charged to the process, in brackets. A call is counted when it returns, so exit_group never is.
Needs root (or CAP_BPF and CAP_PERFMON) and python3-bpfcc; needs no kernel headers and no tracefs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from .numbers import Finite
from .output_file import save_output
from .trace_loop import Pace
from .trace_recording import NoRecording, RecordingFailed, read
from .trace_session import Request, complain, traced
from .trace_view import View

METRICS_ADDRESS = "127.0.0.1:9464"
_EPILOG = """\b
Examples:
  cwasi-trace -- cwasi run a.wasm b.wasm     # a row for each function
  cwasi-trace --by syscall -- ./host.py      # a row for each function and call
  cwasi-trace --by channel -- ./host.py      # the tax bill: waits, copies, per message
  cwasi-trace -L -- ./host.py                # how long the calls of each took
  cwasi-trace -c frames --by channel -- ./host.py   # one channel
  cwasi-trace -x --by syscall -- ./host.py   # calls that failed
  cwasi-trace --light -- ./host.py           # switches and sockets only
  cwasi-trace --json -- ./host.py > it.json  # the whole report
  cwasi-trace -T -p 1234 5                   # a running process, every 5 s
  cwasi-trace --by thread -p 1234 1 10       # its threads, 10 times
  cwasi-trace --json -i 1 -- ./host.py       # JSON, a line for each second
  cwasi-trace --top -p 1234                  # live, on the whole screen
  cwasi-trace --openmetrics=:9464 -p 1234    # for Prometheus
  cwasi-trace --record it -- ./host.py       # keep it, for a page about it:
  cwasi-trace report it -o it.html           # (-- report traces a `report`)

\b
The command's standard output goes to standard error; the report alone goes to
standard output. The exit status is the command's, 128+N if signal N killed it,
126 if it cannot be executed, 127 if it is not found; 69 if a process or a
function that was asked for is not there; 77 if this machine or this user
cannot trace (nothing has been run then).
"""


def _share(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """`1%` or `1`, as a fraction."""
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 100:
        raise click.BadParameter(f"{text!r} is no share of a CPU; give for example 1%")
    return share


Number = TypeVar("Number", int, float)
SECONDS = Finite(min=0.05, max=1e6)


@click.command(
    epilog=_EPILOG,
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
)
@click.option("-p", "--pid", "pids", multiple=True, type=click.IntRange(min=1), help="Trace this running process.")
@click.option("-g", "--function", metavar="FUNCTION", help="Show only this function.")
@click.option("-c", "--channel", metavar="CHANNEL", help="Show only the functions that use this channel.")
@click.option("-i", "--interval", type=SECONDS, help="Report what came in every so many seconds.")
@click.option("-d", "--duration", type=SECONDS, help="Stop after so many seconds.")
@click.option("-T", "--timestamps", is_flag=True, help="Put the time above every report.")
@click.option("-x", "--failed", is_flag=True, help="Show only system calls that failed.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the report as JSON; one on a line for each interval.")
@click.option(
    "--by",
    type=click.Choice(["function", "class", "syscall", "channel", "thread", "cgroup"]),
    default="function",
    show_default=True,
    help="A row for each function, for each class of system calls of each, or for each system call of each; what the "
    "time of each function and channel went into; or as function, but each thread apart, or each control group in one, "
    "where no function runs.",
)
@click.option("-L", "--latency", is_flag=True, help="Histograms of how long the calls of each class took.")
@click.option("--light", is_flag=True, help="Leave out system calls, which then cost nobody more than untraced.")
@click.option(
    "--max-overhead", metavar="PERCENT", callback=_share, help="Go on as with --light when tracing takes more of a CPU."
)
@click.option("--record", metavar="FILE", type=click.Path(path_type=Path), help="Keep every interval in a file.")
@click.option(
    "--openmetrics",
    metavar="[ADDR]",
    is_flag=False,
    flag_value=METRICS_ADDRESS,
    help=f"Serve the counts at this address of the loopback ({METRICS_ADDRESS}), or keep them in a file (with a /).",
)
@click.option("--top", is_flag=True, help="Show it live, on the whole screen.")
@click.argument(
    "arguments",
    nargs=-1,
    metavar="COMMAND | [INTERVAL [COUNT]]",
    type=click.UNPROCESSED,
    shell_complete=lambda _context, _parameter, begun: [CompletionItem(begun, type="file")],
)
def main(
    pids: tuple[int, ...],
    function: str | None,
    channel: str | None,
    interval: float | None,
    duration: float | None,
    timestamps: bool,
    failed: bool,
    json_wanted: bool,
    by: str,
    latency: bool,
    light: bool,
    max_overhead: float | None,
    record: Path | None,
    openmetrics: str | None,
    top: bool,
    arguments: tuple[str, ...],
) -> None:
    """Counts what functions ask of the kernel: system calls, switches, network."""
    pace = Pace(interval, None, duration)
    if pids:
        pace, arguments = _paced(pace, arguments), ()
    elif not arguments:
        raise click.UsageError("there is nothing to trace: give a COMMAND, or -p PID.")
    if light and (by in ("class", "syscall") or failed or max_overhead is not None):
        given = f"--by {by}" if by in ("class", "syscall") else "-x" if failed else "--max-overhead"
        raise click.UsageError(f"{given} is of system calls, which --light leaves out: give one of them only.")
    if failed and latency:
        raise click.UsageError("-L is of all calls, -x of those that failed: give one of them only.")
    if top and json_wanted:
        raise click.UsageError("--top is for people, --json for programs: give one of them only.")
    if top and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("--top wants a terminal.")
    view = View(by, latency, function, failed, timestamps, channel)
    sys.exit(traced(Request(view, pace, pids, arguments, json_wanted, light, max_overhead, record, openmetrics, top)))


def _paced(pace: Pace, arguments: tuple[str, ...]) -> Pace:
    """With the interval and the count that stand behind the options."""
    if len(arguments) > 2:
        raise click.UsageError("after -p come an interval and a count only, no command: give one of them only.")
    if arguments and pace.interval is not None:
        raise click.UsageError("the interval is given twice.")
    if arguments:
        pace = replace(pace, interval=_number(arguments[0], "interval", float, SECONDS.min))
    return replace(pace, count=_number(arguments[1], "count", int, 1)) if len(arguments) == 2 else pace


def _number(text: str, name: str, kind: Callable[[str], Number], least: float | None) -> Number:
    try:
        number = kind(text)
    except ValueError:
        number = kind("0")
    if not (least or 0) <= number <= 1e6:
        raise click.UsageError(f"{text!r} is no {name}; after -p comes no command.")
    return number


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The page, in HTML.")
def report(recording: Path, output: Path) -> None:
    """Makes a page about a trace that was recorded with --record: one file, which needs nothing else.

    It ends with 65 where the file is no recording, or is damaged. Of one that is cut off it shows what there is, and
    says so.
    """
    from .trace_history import history
    from .trace_page import page

    try:
        found = read(recording)
        text = page(found, history(found))
    except NoRecording as error:
        complain(str(error))
        sys.exit(error.exit_code)
    if found.lack:
        complain(f"{recording}: {found.lack}")
    try:
        save_output(output, text)
    except click.FileError as error:
        complain(f"{output}: {error.message}")
        sys.exit(RecordingFailed.exit_code)


def entry() -> None:
    """The program: `report` is a command of ours only where it stands first."""
    if sys.argv[1:2] == ["report"]:
        report.main(sys.argv[2:], prog_name="cwasi-trace report")
    main.main()


if __name__ == "__main__":
    entry()
