"""cwasi calibrate: what messages cost on this machine, measured and kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output_file import check_output, save_output

if TYPE_CHECKING:
    from ..calibrated import Calibration
    from ..prediction_check import Case


@click.command()
@click.option("--redis", metavar="URL", help="Measure this server, too.")
@click.option("--force", is_flag=True, help="Measure also where something that suits is kept.")
@click.option("--check", is_flag=True, help="Also measure how far predictions are off, in half a minute.")
@click.option("-o", "--html", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a page with plots of that to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def calibrate(redis: str | None, force: bool, check: bool, html: Path | None, as_json: bool) -> None:
    """Measure what a message costs on each way that this machine has, in less than a second, and keep it.

    Hosts predict from it. It is kept in CWASI_CACHE_DIR, else XDG_CACHE_HOME/cwasi, else /var/cache/cwasi for root and
    ~/.cache/cwasi for others, one table for each regime of the machine (virtual machines are moved between cores that
    share a cache and such that do not). What is kept is measured anew where the regime, the kernel, the processor, the
    allowed cores or the release are not those of then, and where the file is damaged or not ours alone.

    \b
    Examples:
      cwasi calibrate
      cwasi calibrate --force --json
      cwasi calibrate --check -o predictions.html
    """
    from .. import cache, calibrated, calibration

    if html is not None:
        if not check:
            raise click.UsageError("-o is for --check: a page is of how far predictions are off")
        check_output(html)
    found, why = (None, "it was asked for") if force else calibration.known(redis)
    if found is not None and redis is not None and found.server != calibrated.server_key(redis):
        found, why = None, "this server was not measured yet"
    fresh = found is None
    if found is None:
        cache.prepare()   # not after a second of work
        found = calibration.calibrate(redis)
        calibrated.store(found)
    cases = _checked(redis) if check else []
    if html is not None:
        save_output(html, _page(found, cases))
    if as_json:
        import json

        kept = {"schema": 1, "machine": calibrated.machine(), "file": str(calibrated.path()), "measured_now": fresh}
        click.echo(json.dumps({**kept, "because": why or None, **found.as_plain(), **_cases(cases)}))
    else:
        _print(found, f"measured now, since {why}" if fresh else "measured before")
        if cases:
            _print_errors(cases)


def _print(found: Calibration, when: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..calibrated import path
    from ..policy import SIZES
    from . import console
    from .ps import short

    title = "One message one way, us: the median, and where eight of ten were"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("way", no_wrap=True)
    sizes = [size for size in SIZES if all(size in cells for cells in found.ways.values())]
    for size in sizes:
        table.add_column(short(size).replace(".0 ", " "), justify="right")
    for way, cells in found.ways.items():
        latencies = [cells[size].latency for size in sizes]
        row = (f"{c.ns / 1e3:,.1f}\n{c.low / 1e3:,.1f}-{c.high / 1e3:,.1f}" for c in latencies)
        table.add_row(str(way), *row)
    console(sys.stdout).print(table)
    switches = ", ".join(f"{kind} {cell.ns / 1e3:,.0f} us" for kind, cell in found.switches.items())
    click.echo(f"hop {found.hop:.0f} ns, wake {found.wake / 1e3:.1f} us, turn on one core {found.turn.ns:.0f} ns")
    click.echo(f"a switch to {switches}")
    click.echo(f"{when}, in {found.seconds:.2f} s; kept in {path()}")


def _checked(redis: str | None) -> list[Case]:
    from rich.progress import track

    from .. import calibration, prediction_check
    from . import console

    shown = console(sys.stderr)
    rounds = track(range(prediction_check.ROUNDS), "checking", console=shown, transient=True,
                   disable=not shown.is_terminal)  # fmt: skip
    return prediction_check.check(calibration.costs(redis), redis, rounds)


def _cases(cases: list[Case]) -> dict[str, Any]:
    from dataclasses import asdict

    def plain(case: Case) -> dict[str, Any]:
        return {**asdict(case), "error": case.error, "error_kept": case.error_kept, "noise": case.noise}

    return {"cases": list(map(plain, cases))} if cases else {}


def _print_errors(cases: list[Case]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from . import console

    title = "How far predictions are off, at sizes and rates that were not calibrated"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(_HEADINGS[0], no_wrap=True)
    for heading in _HEADINGS[1:]:
        table.add_column(heading, justify="right")
    for row in _quartiles(cases):
        table.add_row(*row)
    console(sys.stdout).print(table)
    click.echo("before: half, by what was calibrated before; the others by what was calibrated at the same time")
    click.echo("noise: half of what was measured twice differs by more; no prediction can be better")


_HEADINGS = ("way", "cases", "a quarter below", "half", "three quarters", "the worst", "too much by", "before", "noise")


def _quartiles(cases: Sequence[Case]) -> Iterator[tuple[str, ...]]:
    """Of each way, and of all, as a row."""
    from statistics import median, quantiles

    for way in (*dict.fromkeys(case.way for case in cases), "all"):
        those = [case for case in cases if way in (case.way, "all")]
        errors = [case.error for case in those]
        cuts = quantiles(errors, n=4, method="inclusive") if len(errors) > 1 else 3 * errors
        more = zip(*((case.deviation, case.error_kept, case.noise) for case in those), strict=True)
        yield way, str(len(those)), *(f"{part:.0%}" for part in (*cuts, max(errors), *map(median, more)))


def _page(found: Calibration, cases: Sequence[Case]) -> str:
    from ..bench.environment import environment
    from .calibrate_page import page

    told = {**environment(), "hop": f"{found.hop:.0f} ns", "wake": f"{found.wake / 1e3:.1f} us"}
    return page(cases, told, _HEADINGS, list(_quartiles(cases)))
