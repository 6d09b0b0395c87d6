"""cwasi explain: why a channel goes as it goes, and what else it would cost."""

from __future__ import annotations

import click


@click.command()
@click.argument("channel")
@click.option("--if-size", metavar="BYTES|10x", help="What it would cost with messages of that size.")
@click.option("--if-rate", metavar="RATE|10x", help="What it would cost with so many messages a second.")
@click.option("--if-locality", type=click.Choice(["process", "node", "elsewhere"]), help="And with the peer there.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(channel: str, if_size: str | None, if_rate: str | None, if_locality: str | None, as_json: bool) -> None:
    """Explain why a channel goes as it goes: what was seen of it, and what each other way would cost.

    The process that holds its sender is asked, or that of its receiver, which asks there; of a run in several host
    processes, the command that has started them. Ends with 69 where nobody on this node holds an end of the channel.

    \b
    Examples:
      cwasi explain frames
      cwasi explain frames --if-size 10x --if-locality node
    """
    from ..explanation import WhatIf
    from ..explanation_asked import ask

    found = ask(channel, WhatIf(if_size, if_rate, if_locality))
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"schema": 1, "channel": channel, "told": [asdict(told) for told in found]}))
        return
    for told in found:
        click.echo(f"channel {channel}, process {told.pid}: {told.text}")
