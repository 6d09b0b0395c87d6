"""The demo's second act: the load changes, the policy switches, and what the static rule would have cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ..live.played import Played

POLICIES = ("cost", "static")
_QUICK_SECONDS = 1.2


def play(quick: bool) -> list[Played]:
    """The same script under the default policy and under the static rule, one after the other."""
    from ..live.play import play as played
    from ..live.script import DEMO, parse, scaled
    from .live_progress import progress

    script = parse(DEMO, "the demo")
    if quick:
        script = scaled(script, _QUICK_SECONDS)
    with progress(len(POLICIES)) as told:
        return [played(script, name, told(name)) for name in POLICIES]


def as_plain(found: Sequence[Played]) -> dict[str, Any]:
    """For the report."""
    from ..live.pair import CHANNELS
    from ..live.played import as_plain as plain
    from ..live.script import DEMO

    return {"script": DEMO, "runs": plain(found, CHANNELS[0])}


def write(path: Path, found: Sequence[Played]) -> None:
    """The page. Raises click.FileError."""
    from ..bench.environment import environment
    from ..live.page import page
    from ..live.pair import CHANNELS
    from ..live.table import HEADINGS, rows
    from .output_file import save_output

    save_output(path, page(found, CHANNELS[0], environment(), HEADINGS, rows(found, CHANNELS[0])))


def show(console: Console, found: Sequence[Played], page: Path | None) -> None:
    """What happened, and how it explains itself."""
    from ..live.pair import CHANNELS
    from ..live.table import compared
    from .live_table import table

    mine, static = found
    channel = CHANNELS[0]
    console.print()
    console.print(table(found, channel, "Act two: the load changes while two functions exchange messages"))
    lines = compared(mine, static, channel)
    if len(mine.cores) == 1:
        lines.append("There is one core here: nothing to choose about where functions run.")
    changed = [part for part in mine.parts if mine.switches(part, channel)]
    told = changed[-1] if changed else mine.parts[-1]
    lines += ["", f"What explain() said of the channel at the end of {told.phase.name}:", *told.text.splitlines(), ""]
    messages = sum(one.messages for one in found)
    lines.append(f"All {messages:,} messages came, once, in order and as they were sent, also across every switch")
    if page is not None:
        lines.append(f"Both runs over time: {page}")
    for line in lines:
        console.print(f"  {line}".rstrip(), highlight=False, markup=False, soft_wrap=True)
