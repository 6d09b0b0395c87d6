"""cwasi policy live: policies under a load that changes on a script, with real functions and real messages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .numbers import Finite
from .output_file import check_output, save_output

if TYPE_CHECKING:
    from ..live.played import Played
    from ..live.script import Phase


@click.command()
@click.option("--script", "source", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="What changes when; by default one that --show-script prints.")
@click.option("--policy", "policies", default="cost,static", show_default=True, metavar="NAMES",
              help="cost, static, thresholds or always:WAY; several with commas between them.")
@click.option("--seconds", type=Finite(0.5, 3600), help="Stretch the script, or shorten it, to that.")
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True,
              help="How often each policy runs, in turn.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("-o", "--html", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a page to this file: way and latency over time.")
@click.option("--show-script", is_flag=True, help="Print the script, and run nothing.")
def live(
    source: Path | None, policies: str, seconds: float | None, rounds: int, as_json: bool, html: Path | None,
    show_script: bool,
) -> None:  # fmt: skip
    """Runs two functions under a load that changes on a script, once with each policy.

    One sends a message and waits until it comes back; each is checked. A line of a script is a phase: a name, and what
    is so in it:

    \b
    seconds=2          how long it takes
    size=64            of a message: bytes, KiB or MiB
    rate=1000          messages a second; without it the next is sent when the last has come back
    busy=1             so many other processes want a core each
    receiver=process   the function that answers runs in another process of the node

    Both functions and the other processes are kept to two cores. Where the receiver moves, functions find each other by
    name, and where their threads run is left to the kernel.

    \b
    Examples:
      cwasi policy live -o live.html
      cwasi policy live --script my.script --policy cost,static,always:pipe --json
    """
    from ..live.script import DEFAULT, scaled

    text = DEFAULT if source is None else _read(source)
    script = _script(text, source)
    if show_script:
        click.echo(text, nl=not text.endswith("\n"))
        return
    if html is not None:
        check_output(html)
    found = _play(scaled(script, seconds) if seconds else script, policies, rounds)
    if html is not None:
        save_output(html, _page(found))
    if as_json:
        _print_json(found)
    else:
        _print(found)


def _read(path: Path) -> str:
    from ..errors import BadSpec

    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        what = f"--script {path}: {error.strerror}"
        raise BadSpec(f"{what}. Give the path of a script, as --show-script prints one") from error
    except UnicodeDecodeError as error:
        raise BadSpec(f"--script {path}: this is no text. Give a script, as --show-script prints one") from error


def _script(text: str, source: Path | None) -> tuple[Phase, ...]:
    from ..live.script import parse

    return parse(text, "the script" if source is None else str(source))


def _play(script: tuple[Phase, ...], policies: str, rounds: int) -> list[Played]:
    from .. import calibration
    from ..live.play import play
    from ..policy.comparisons import policy_named
    from .live_progress import progress

    names = [name.strip() for name in policies.split(",")]
    for name in names:
        policy_named(name, calibration.costs(None))   # before the first has taken its time
    turns = names * rounds
    with progress(len(turns)) as told:
        return [play(script, name, told(name)) for name in turns]


def _page(found: Sequence[Played]) -> str:
    from ..bench.environment import environment
    from ..live.page import page
    from ..live.pair import CHANNELS
    from ..live.table import HEADINGS, rows

    return page(found, CHANNELS[0], environment(), HEADINGS, rows(found, CHANNELS[0]))


def _print_json(found: Sequence[Played]) -> None:
    import json

    from ..live.pair import CHANNELS
    from ..live.played import as_plain

    click.echo(json.dumps({"schema": 1, "runs": as_plain(found, CHANNELS[0])}))


def _print(found: Sequence[Played]) -> None:
    from ..live.pair import CHANNELS
    from . import console
    from .live_table import table

    out = console(sys.stdout)
    for part in found[0].parts:
        out.print(f"{part.phase.name}: {part.phase}", highlight=False, markup=False, soft_wrap=True)
    out.print(table(found, CHANNELS[0], f"Two functions on cores {', '.join(map(str, found[0].cores))}"))
    messages = sum(one.messages for one in found)
    out.print(f"All {messages:,} messages came, once, in order and as they were sent", highlight=False)
