"""cwasi inspect: everything that is known of one channel."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from ..description import EndDescription
    from ..network import Network
    from ..process_facts import ProcessFacts


@click.command()
@click.argument("channel")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(channel: str, as_json: bool) -> None:
    """Show everything that is known of a channel: its ends, where they are, why this transport, what they counted.

    Also of their processes, and of the network namespaces that these are in: which addresses each has, and which way to
    the others. Into another namespace than ours only root may look. Ends with 69 where nobody on this node holds an end
    of it. Where several runs have a channel of that name, all are shown.

    \b
    Examples:
      cwasi inspect frames
      cwasi inspect frames --json
    """
    from ..census import census
    from ..errors import NoSuchChannel
    from ..names import checked

    checked(channel, "channel")
    ends, failures = census()
    for failure in failures:
        click.echo(f"cwasi: {failure}", err=True)
    names = sorted({end.channel for end in ends})
    ends = [end for end in ends if end.channel == channel]
    if not ends:
        there = f"there are {', '.join(names[:20])}" if names else "there is no channel at all"
        raise NoSuchChannel(f"no process that can be found holds an end of channel {channel!r}; {there} (cwasi ps)")
    processes, networks = _processes(ends), _networks(ends)
    if as_json:
        import json
        from dataclasses import asdict

        plain = {
            "ends": [asdict(end) for end in ends],
            "processes": [asdict(process) for process in processes],
            "networks": [asdict(network) for network in networks],
        }
        click.echo(json.dumps({"schema": 1, "channel": channel, **plain}))
    else:
        for end in ends:
            _print(end)
        for line in (*map(ran, processes), *(line for network in networks for line in connected(network))):
            click.echo(line)


def _processes(ends: list[EndDescription]) -> list[ProcessFacts]:
    """As far as they can be seen from here."""
    from ..process_facts import facts_of

    starts = {end.pid: end.placement.get("started", 0) for end in ends if not end.foreign}
    return [facts for pid, start in starts.items() if (facts := facts_of(pid, start)) is not None]


def _networks(ends: list[EndDescription]) -> list[Network]:
    from ..network import networks

    inside: dict[int, int] = {}
    for end in ends:
        number = end.placement.get("network", 0)
        if number and not inside.get(number):
            inside[number] = 0 if end.foreign else end.pid
    return networks(inside)


def ran(process: ProcessFacts) -> str:
    """A process in words."""
    from datetime import datetime

    since = datetime.fromtimestamp(process.since).astimezone().isoformat(" ", "seconds")
    return f"process {process.pid}: {process.command}, since {since}, last on CPU {process.cpu}"


def connected(network: Network) -> list[str]:
    """A network namespace in words, and its ways to the others."""
    title = f"network namespace {network.number}" + (f" ({network.name})" if network.name else "")
    if not network.seen:
        return [f"{title}: only root may look into it"]
    outward = f", outward from {network.outward}" if network.outward else ", no default route"
    lines = [f"{title}: {' '.join(network.addresses) or 'no address'}{outward}"]
    for way in network.ways:
        through = f" through {way.gateway}" if way.gateway else ""
        lines.append(f"  to {way.to}: {way.address} by {way.device}{through}, from {way.source}")
    return lines


def _print(end: EndDescription) -> None:
    from . import console

    out = console(sys.stdout)
    whose = f"function {end.function}" if end.function else "no function"
    where = " of another pid namespace" if end.foreign else ""
    title = f"{end.channel}: {end.role}, {whose}, pid {end.pid}{where}, {end.state}"
    out.print(title, style="bold", markup=False, highlight=False)
    out.print(_facts(end))
    for edge, words in end.explanations.items():
        out.print(f"  {edge}", markup=False, highlight=False)
        for line in words.splitlines():
            out.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    out.print()


def _facts(end: EndDescription) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
    for name, value in rows(end):
        table.add_row(name, Text(value))
    return table


def rows(end: EndDescription) -> list[tuple[str, str]]:
    """What is known of an end, in words."""
    from .ps import age

    found = [
        ("transport", f"{end.transport}, mode {end.mode}, epoch {end.epoch}" if end.transport else "not decided yet"),
        ("peer", ", ".join(end.peers) or "none yet"),
        ("age", age(end.age_seconds)),
        ("trust", f"{end.trust}; the peer's {end.peer_placement.get('trust')}" if end.peer_placement else end.trust),
        ("placement", placed(end.placement)),
    ]
    if end.peer_placement:
        found.append(("its peer's", placed(end.peer_placement)))
    counted = [f"{name} {_figure(name, value)}" for name, value in end.metrics.items() if value is not None]
    if end.unread is not None:
        counted.append(f"unread {end.unread:,}")
    return [*found, ("counted", ", ".join(counted) or "nothing")]


def _figure(name: str, value: Any) -> str:
    return f"{value / 1000:,.1f} us" if name.endswith("_ns") else f"{value:,}"


def placed(placement: dict[str, Any]) -> str:
    """A placement in words."""
    from ..placement import container_of

    process = placement.get("process")
    words = [
        f"process {process}" if process else "a process of another pid namespace",
        f"user {placement.get('uid')}",
        f"pid namespace {placement.get('pid_namespace')}",
        f"network namespace {placement.get('network')}",
        f"cgroup {placement.get('cgroup') or '-'}",
        f"container {container_of(placement.get('cgroup', '')) or '-'}",
        f"CPUs {_listed(placement.get('cpus'))}",
        f"memory nodes {_listed(placement.get('numa'))}",
        f"node {placement.get('node')}",
    ]
    return ", ".join(words)


def _listed(numbers: Any) -> str:
    return " ".join(map(str, numbers)) if isinstance(numbers, list) and numbers else "-"
