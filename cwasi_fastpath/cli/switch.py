"""cwasi switch: another transport for a channel, while it is in use."""

from __future__ import annotations

import click

from .numbers import Finite


@click.command()
@click.argument("channel")
@click.option("--to", "target", required=True, metavar="TRANSPORT", help="ring, pipe, tcp, or a Redis server's URL.")
@click.option("--timeout", type=Finite(0, 60), default=5.0, show_default=True, help="Seconds it may take.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def switch(channel: str, target: str, timeout: float, as_json: bool) -> None:
    """Take a channel to another transport, live: nothing is lost, doubled or out of order.

    The process that holds the sender is asked, or the cwasi run that started it; it offers the new transport to the
    receivers. Where that does not succeed in time, the channel goes on as before, and the command ends with 74; with 69
    where the channel or the transport cannot be had.

    \b
    Examples:
      cwasi switch frames --to pipe
      cwasi switch frames --to unix:///run/redis/redis.sock --timeout 10
    """
    from ..switch_asked import ask

    found = ask(channel, target, timeout)
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"schema": 1, **asdict(found)}))
    else:
        click.echo(f"{found.channel} goes by {found.transport} ({found.mode}) now")
