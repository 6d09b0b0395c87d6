"""cwasi include: where the guest header is."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def include(as_json: bool) -> None:
    """Print the directory that holds cwasi.h, for a guest's compiler.

    \b
    Example:
      clang --target=wasm32-wasi --sysroot=/usr -O2 -I "$(cwasi include)" -o f.wasm f.c
    """
    directory = str(Path(__file__).parent.parent / "include")
    if as_json:
        import json

        directory = json.dumps({"schema": 1, "include": directory})
    click.echo(directory)
