"""cwasi ps: the channels of this node whose ends can be found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..description import EndDescription


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the ends as JSON.")
def ps(as_json: bool) -> None:
    """Show the ends of channels on this node: those that wait for their peer, and those in use.

    Each process that holds some is asked, by its socket in the runtime directory (CWASI_RUNTIME_DIR, else
    XDG_RUNTIME_DIR/cwasi, else /run/cwasi for root and /tmp/cwasi-UID for others). So only channels of this user are
    shown, those of a shared runtime directory, and not those of open_channel. A pid in parentheses is that of a process
    in another pid namespace, as it knows itself.

    \b
    Examples:
      cwasi ps
      cwasi ps --json
      watch -n 1 cwasi ps
    """
    from ..census import census

    ends, failures = census()
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"schema": 1, "ends": [asdict(end) for end in ends], "failures": failures}))
    elif ends:
        _print(ends)
    else:
        click.echo("no process that can be found here holds an end of a channel", err=True)
    for failure in failures:
        click.echo(f"cwasi: {failure}", err=True)


def _print(ends: list[EndDescription]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from . import console

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("channel", "role", "pid", "function", "transport", "mode", "peer"):
        table.add_column(heading)
    for heading in ("messages", "bytes", "unread", "age"):
        table.add_column(heading, justify="right")
    for end in ends:
        cells = (
            end.channel,
            end.role,
            f"({end.pid})" if end.foreign else str(end.pid),
            end.function or "-",
            end.transport or "-",
            end.mode or "-",
            peer_of(end, ends),
            f"{end.metrics.get('messages', 0):,}",
            short(end.metrics.get("bytes", 0)),
            "-" if end.unread is None else f"{end.unread:,}",
            age(end.age_seconds),
        )
        table.add_row(*map(Text, cells))
    console(sys.stdout).print(table)


def peer_of(end: EndDescription, ends: list[EndDescription]) -> str:
    """The process at the other side, or the function where it has a name; else in which state the end is."""
    if end.state != "open":
        return end.state
    if end.function is None:
        return ", ".join(end.peers)
    return "+".join(_function_at(name, end, ends) for name in end.peers)


def _function_at(name: str, end: EndDescription, ends: list[EndDescription]) -> str:
    """With its pid, where that is another one and there is no doubt."""
    pids = {one.pid for one in ends if (one.channel, one.function) == (end.channel, name) and one.role != end.role}
    return f"{name} (pid {pids.pop()})" if len(pids) == 1 and end.pid not in pids else name


def short(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def age(seconds: float) -> str:
    """A time for people."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
