"""cwasi bench: measures this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .numbers import Finite
from .output_file import check_output, save_output

if TYPE_CHECKING:
    from rich.console import Console

    from ..bench.case import Case
    from ..bench.report import Report
    from ..bench.rounds import Settings
    from ..bench.switching import Gaps

_SMALLEST = 8   # a time stamp must fit in
_LARGEST = 1 << 30
_FILE_WIDTH = 120


@click.group()
def bench() -> None:
    """Measures channels on this machine."""


_Body = Callable[..., None]
_OPTIONS = (
    click.option("--rounds", type=click.IntRange(1, 1000), help="How often everything is measured.  [default: 7]"),
    click.option("--size", "sizes", type=click.IntRange(_SMALLEST, _LARGEST), multiple=True, metavar="BYTES",
                 help="Size of messages; repeat it for several.  [default: 64, 1024, 65536, 1048576, 100000000]"),
    click.option("--only", multiple=True, metavar="TEXT",
                 help="Only cases with TEXT in their name, as the JSON has it; repeat it for several."),
    click.option("--seconds", type=Finite(0.1, 86400),
                 help="About how long to measure, set-up apart.  [default: 45]"),
    click.option("--seed", type=int, default=1, show_default=True, help="Of the order of cases and of the intervals."),
    click.option("--quick", is_flag=True, help="2 rounds of 2 sizes in some 15 seconds: to see that it works."),
    click.option("--json", "as_json", is_flag=True, help="Print all values of all rounds as JSON."),
    click.option("--html", type=click.Path(dir_okay=False, path_type=Path),
                 help="Write a page with plots to this file."),
)  # fmt: skip


def _in_rounds(body: _Body) -> _Body:
    """The options of a command that measures in rounds."""
    for option in reversed(_OPTIONS):
        body = option(body)
    return body


@bench.command()
@_in_rounds
@click.option("--full", is_flag=True, help="Every way at 11 sizes, in about 10 minutes.")
def channel(full: bool, as_json: bool, html: Path | None, **asked: Any) -> None:
    """Compares channels with what the machine charges, and with what else there is.

    Guests, C and Python at the ends, on two cores and on one; Redis, iceoryx2, ZeroMQ, multiprocessing and WASI's
    stdio; all interleaved in rounds. Starts its own redis-server.
    """
    from ..bench import matrix

    if asked["quick"] and full:
        raise click.BadParameter("--quick and --full contradict each other", param_hint="--quick")
    settings = _settings(html, full=full, **asked)
    _report(settings, partial(matrix.all_cases, full=full), as_json, html)


@bench.command()
@_in_rounds
def transport(as_json: bool, html: Path | None, **asked: Any) -> None:
    """Compares the transports by size of message, with what the kernel and Redis do without them.

    Ring, pipe, tcp, tcp with TLS and redis between two threads in C; a bare pipe, vmsplice, unix socket and TCP
    connection; Redis lists and streams; all interleaved in rounds. Starts its own redis-server.

    \b
    Examples:
      cwasi bench transport
      cwasi bench transport --only tcp --size 65536 --html tcp.html
    """
    from ..bench import matrix

    _report(_settings(html, **asked), matrix.transport_cases, as_json, html)


def _settings(
    html: Path | None,
    *,
    rounds: int | None,
    sizes: tuple[int, ...],
    only: tuple[str, ...],
    seconds: float | None,
    seed: int,
    quick: bool,
    full: bool = False,
) -> Settings:
    from ..bench import matrix
    from ..bench.rounds import Settings

    _check_writable(html)
    usual = matrix.QUICK_SIZES if quick else matrix.FULL_SIZES if full else matrix.SIZES
    return Settings(
        sizes=tuple(sorted(set(sizes or usual))),
        rounds=rounds or (2 if quick else 7),
        seconds=seconds or (3.0 if quick else 300.0 if full else 45.0),
        seed=seed,
        full=full,
        only=only,
    )


def _check_writable(html: Path | None) -> None:
    """Before anything is measured."""
    try:
        if html is not None:
            check_output(html)
    except click.FileError as error:
        raise click.BadParameter(f"{html} cannot be written: {error.message}", param_hint="--html") from error


def _report(settings: Settings, cases: Callable[..., tuple[Case, ...]], as_json: bool, html: Path | None) -> None:
    """cases: makes them, from sizes and the number of cores."""
    from ..bench import cores
    from ..bench.page import page

    report = _measure(settings, cases(settings.sizes, cores=cores.count()))
    _print(report, as_json)
    if html is not None:
        save_output(html, page(report))


def _measure(settings: Settings, cases: tuple[Case, ...]) -> Report:
    from ..bench.environment import environment
    from ..bench.report import Report
    from ..bench.runners import measure_channels

    if settings.only:
        cases = tuple(case for case in cases if any(text in case.key for text in settings.only))
    if not cases:
        raise click.BadParameter(f"no case has {' or '.join(settings.only)} in its name", param_hint="--only")
    with _progress(len(cases) * (settings.rounds + 1)) as step:
        outcome = measure_channels(settings, cases, lambda case: step(case.key))
    return Report(settings, environment(), outcome)


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """Shows how far it is, if somebody looks on: to be called with the name of each step."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    percent, name = TextColumn("{task.percentage:3.0f}%"), TextColumn("{task.description}")
    # Redrawn between steps only: a thread that draws would be measured too.
    with Progress(BarColumn(), percent, TimeElapsedColumn(), name, console=console, transient=True, auto_refresh=False,
                  disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=steps)
        yield lambda step: progress.update(task, advance=1, description=step, refresh=True)


def _print(report: Report, as_json: bool) -> None:
    from ..bench.report import print_report

    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        print_report(report, _output())


def _output() -> Console:
    """Into a file or a pipe nothing has to be folded."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)


@bench.command()
@click.option("--switches", type=click.IntRange(4, 100_000), default=200, show_default=True,
              help="About how many from each transport to each other.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def switch(switches: int, as_json: bool) -> None:
    """Measures what a live switch does to the messages that meet it.

    Every pair of ring, pipe, tcp and redis, there and back, under a steady stream of small messages between two threads
    in C. Starts its own redis-server.

    \b
    Examples:
      cwasi bench switch
      cwasi bench switch --switches 1000 --json
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track

    from ..bench.environment import environment
    from ..bench.switching import measure
    from ..redis_server import RedisServer

    with RedisServer() as server:
        transports = {"ring": "ring", "pipe": "pipe", "tcp": "tcp", "redis": server.url}
        pairs = len(transports) * (len(transports) - 1) // 2
        shown = Console(stderr=True)
        steps = track(measure(transports, switches), "switching", total=pairs, console=shown, transient=True,
                      disable=not shown.is_terminal)
        found = [gaps for both in steps for gaps in both]
    if as_json:
        plain = {"schema": 1, "environment": environment(), "unit": "us", "gaps": [asdict(gaps) for gaps in found]}
        click.echo(json.dumps(plain, indent=1))
    else:
        _print_gaps(found)


@bench.command()
@click.option("--edges", type=click.IntRange(3, 10_000), default=1000, show_default=True, help="How many are decided.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True,
              help="How often everything is measured.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def policy(edges: int, rounds: int, as_json: bool) -> None:
    """Measures what the policy costs.

    Its decisions and the looks for them, in CPU time; and whether messages between guests take longer for it.

    \b
    Examples:
      cwasi bench policy
      cwasi bench policy --edges 10000 --rounds 3
    """
    from ..bench.deciding import PolicyReport, measure
    from ..bench.environment import environment

    with _progress(rounds) as step:
        found = []
        for number, values in enumerate(measure(edges, rounds), 1):
            found.append(values)
            step(f"round {number}")
    report = PolicyReport(edges, environment(), found)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        report.print(_output())


def _print_gaps(found: list[Gaps]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from . import console

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="The slowest message at each switch, us", title_justify="left")
    for heading in ("from", "to"):
        table.add_column(heading)
    for heading in ("switches", "p50", "p99", "worst", "p50 without", "p99 without"):
        table.add_column(heading, justify="right")
    for gaps in found:
        figures = (f"{value:,.0f}" for value in (gaps.p50, gaps.p99, gaps.worst, gaps.usual_p50, gaps.usual_p99))
        table.add_row(gaps.source, gaps.target, f"{gaps.switches:,}", *figures)
    console(sys.stdout).print(table)


@bench.command()
@click.option("--rounds", type=click.IntRange(1, 1000), help="How often everything is measured.  [default: 7]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the order and of the intervals.")
@click.option("--quick", is_flag=True, help="2 rounds, in some 20 seconds: to see that it works.")
@click.option("--json", "as_json", is_flag=True, help="Print all values of all rounds as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with a plot to this file.")
def trace(rounds: int | None, seed: int, quick: bool, as_json: bool, html: Path | None) -> None:
    """Measures what cwasi-trace costs the traced, all others, and itself.

    A system call that nobody watches, with programs that do nothing, traced, beside a tracer and in the light mode;
    attaching; the tracer's CPU; what it loses. All interleaved in rounds. Needs what cwasi-trace needs.

    \b
    Examples:
      sudo cwasi bench trace
      sudo cwasi bench trace --rounds 15 --html trace.html
    """
    from ..bench.environment import environment
    from ..bench.tracing import STEPS, Plan, measure
    from ..bench.tracing_report import TracingReport

    _check_writable(html)
    plan = Plan(rounds or (2 if quick else 7), seed, paced=3.0 if quick else 5.0)
    with _progress(STEPS * (plan.rounds + 1)) as step:
        report = TracingReport(plan, environment(), measure(plan, step))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        report.print(_output())
    if html is not None:
        save_output(html, report.page())
