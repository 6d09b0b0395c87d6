"""Live runs as a table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

    from ..live.played import Played


def table(played: Sequence[Played], channel: str, title: str) -> Table:
    """channel: whose ways count."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from ..live.table import HEADINGS, rows

    made = Table(box=SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left")
    for number, heading in enumerate(HEADINGS):
        justify: JustifyMethod = "left" if number in (0, 1, 5) else "right"
        made.add_column(heading, justify=justify, no_wrap=number != 1, overflow="fold")
    for row in rows(played, channel):
        made.add_row(*map(Text, row))
    return made
