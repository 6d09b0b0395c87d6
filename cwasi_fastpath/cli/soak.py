"""cwasi soak: channels of every kind under load, with faults."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from .numbers import Finite

if TYPE_CHECKING:
    from rich.table import Table

    from ..soak.lane import Lane
    from ..soak.soak import Outcome


_FAULTS = ("kill", "close", "stop")
_WRONGS = ("lost", "doubled", "corrupt", "hung")


@click.command()
@click.option("--minutes", type=Finite(0.05, 10080), default=10.0, show_default=True,
              help="How long; 0.5 is half a minute.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the faults and of the sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def soak(minutes: float, seed: int, as_json: bool) -> None:
    """Uses channels of every kind at full speed, breaks one about every second, and checks each message.

    Ends of channels are killed, closed in the middle and stopped; then the channel is opened anew. Ends with 1 if a
    message was lost, doubled or corrupt, an end hung or ended with the wrong error, memory or descriptors grew, or
    anything was left behind.
    """
    outcome = _run(minutes * 60, seed)
    if as_json:
        click.echo(json.dumps(outcome.as_dict(), indent=1))
    else:
        _print(outcome)
    sys.exit(0 if outcome.well else 1)


def _run(seconds: float, seed: int) -> Outcome:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ..soak.soak import soak

    console = Console(stderr=True)
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seconds)

        def told(gone: float, lanes: list[Lane]) -> None:
            messages = sum(lane.score.messages for lane in lanes)
            faults = sum(sum(lane.score.faults.values()) for lane in lanes)
            progress.update(task, completed=gone, description=f"{messages:,} messages, {faults:,} faults")

        return soak(seconds, seed, told)


def _print(outcome: Outcome) -> None:
    from rich.table import Table

    from . import console

    found = outcome.as_dict()
    table = Table(box=None, pad_edge=False)
    for title in ("channel", "opened", "messages", "MiB", *_FAULTS, *_WRONGS):
        table.add_column(title, justify="left" if title == "channel" else "right")
    for row in found["channels"]:
        faults = [f"{row['faults'].get(kind, 0):,}" for kind in _FAULTS]
        wrong = [f"{row[kind]:,}" for kind in _WRONGS]
        done = [f"{row['channels']:,}", f"{row['messages']:,}", f"{row['bytes'] / (1 << 20):,.0f}"]
        table.add_row(row["name"], *done, *faults, *wrong)
    out = console(sys.stdout)
    out.print(table)
    out.print()
    out.print(_footprint(found))
    for complaint in [f"{row['name']}: {text}" for row in found["channels"] for text in row["complaints"]]:
        out.print(complaint, style="red", markup=False)
    for left in outcome.left:
        out.print(f"left behind: {left}", style="red", markup=False)
    verdict = "all is well" if outcome.well else "not all is well"
    out.print(f"{outcome.seconds:.0f} s: {verdict}", style="green" if outcome.well else "red")


def _footprint(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "middle third", "last third", "peak", ""):
        table.add_column(title, justify="left" if not title else "right")
    names = {"own_rss": "memory of this process, MiB", "pss": "memory of all processes, MiB",
             "descriptors": "descriptors", "maps": "mappings", "threads": "threads"}
    for name, title in names.items():
        unit = 1 << 20 if "MiB" in title else 1
        one = found["growth"][name]
        figures = [f"{value / unit:,.0f}" for value in (one["middle"], one["last"], found["peaks"][name])]
        table.add_row(title, *figures, ("flat" if one["flat"] else "grows") if found["growth_judged"] else "")
    return table
