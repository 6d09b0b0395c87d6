"""cwasi run: functions from the command line, connected by channels."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from .numbers import Finite

if TYPE_CHECKING:
    from ..deployment import Options, RunReport
    from ..metrics import Observation
    from ..transport.tls import TlsFiles
    from ..workflow import EdgeSpec, FunctionSpec, Workflow

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("functions", nargs=-1, required=True, metavar="[NAME=]FILE.wasm...")
@click.option(
    "--connect",
    "edges",
    multiple=True,
    metavar="CHANNEL:FROM[/PORT]:TO[/PORT]",
    help="A channel from one function to another, or several: A+B:C, A:B+C. PORT: what that function calls it.",
)
@click.option(
    "--call",
    "calls",
    multiple=True,
    metavar="CHANNEL:FROM[/PORT]:TO[/PORT]",
    help="The same, for requests, each of which TO answers.",
)
@click.option("--mode", type=click.Choice(["auto", "local", "proximal", "remote"]), default="auto", show_default=True)
@click.option("--transport", type=click.Choice(["ring", "pipe", "tcp", "redis"]), help="Leave only this one.")
@click.option("--trust", multiple=True, metavar="FUNCTION=LABEL", help="The trust domain of a function.")
@click.option("--redis", metavar="URL", help="The server for Redis; by default a private one is started.")
@click.option("--tls-authority", type=_FILE, help="TLS for TCP: who must have signed both ends' certificate (PEM).")
@click.option("--tls-certificate", type=_FILE, help="That of the host processes; it names 127.0.0.1.")
@click.option("--tls-key", type=_FILE, help="Its private key, without a password.")
@click.option("--input", "stdin", type=_FILE, help="Standard input of the function that receives nothing.")
@click.option("--output", "stdout", type=_FILE, help="Standard output of the function that sends nothing.")
@click.option("--timeout", type=Finite(min=0, min_open=True), help="Interrupt what runs longer (s).")
@click.option("--sample", type=int, default=64, show_default=True, help="Time one message in so many (a power of two).")
@click.option("--observed", type=_FILE, help="The JSON report of an earlier run: the policy predicts from what it saw.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON; the functions' output goes to stderr.")
def run(
    functions: tuple[str, ...],
    edges: tuple[str, ...],
    calls: tuple[str, ...],
    mode: str,
    transport: str | None,
    trust: tuple[str, ...],
    redis: str | None,
    tls_authority: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    stdin: Path | None,
    stdout: Path | None,
    timeout: float | None,
    sample: int,
    observed: Path | None,
    as_json: bool,
) -> None:
    """Run functions to their end, connected by channels.

    A function is the path of a WASI command, with arguments if quoted; its name is the file's, or NAME. auto puts the
    functions of a trust domain into one process and lets the policy choose; proximal gives each function a host
    process of its own; remote does too, and sends everything over TCP, or through Redis where that is chosen.

    \b
    Examples:
      cwasi run decode.wasm grey.wasm encode.wasm \\
          --connect rgb:decode:grey --connect grey:grey:encode/edges --input photo.jpg --output grey.jpg
      cwasi run "a=source.wasm 10 64" "b=sink.wasm 10 64" --connect frames:a/out:b/in --mode proximal --json
    """
    from ..deployment import Options
    from ..modes import parse_mode, parse_transport
    from ..shield import shield
    from ..workflow import Workflow

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    labels = _labels(trust)
    specs = tuple(_function(text, labels) for text in functions)
    workflow = Workflow(specs, _edges("--connect", edges) + _edges("--call", calls)).with_streams(stdin, stdout)
    unknown = set(labels) - {spec.name for spec in specs}
    if unknown:
        raise click.UsageError(f"--trust names a function that is not run: {', '.join(sorted(unknown))}")
    if not 0 < sample < 1 << 32 or sample & (sample - 1):
        raise click.UsageError(f"--sample {sample}: use a power of two, for example 1, 64 or 1024")
    if len({spec.trust for spec in specs}) > 1:
        shield()   # what we connect passes through us
    if as_json:
        _keep_for_the_report()
    tls = _tls(tls_authority, tls_certificate, tls_key)
    asked = (parse_mode(mode), parse_transport(transport))
    options = Options(*asked, redis, timeout, sample, _observations(observed), tls)
    report = _with_server(workflow, options)
    if as_json:
        import json

        click.echo(json.dumps(report.as_dict()))
    elif report.edges:
        _print(report)


def _keep_for_the_report() -> None:
    """What functions and further host processes print goes to standard error, what we print to standard output."""
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def _terminated(number: int, frame: object) -> NoReturn:
    """Ends as Ctrl-C does: what was started is ended, too, and a server's directory removed."""
    raise click.exceptions.Exit(128 + number)


def _with_server(workflow: Workflow, options: Options) -> RunReport:
    """Runs, with a private server where one is needed and none was named."""
    from dataclasses import replace

    from ..deployment import run as run_workflow
    from ..modes import Transport
    from ..redis_server import RedisServer

    if options.redis is not None or options.transport is not Transport.REDIS:
        return run_workflow(workflow, options)
    with RedisServer() as server:
        return run_workflow(workflow, replace(options, redis=server.url))


_LONGEST_REPORT = 64 << 20
"""Characters."""


def _observations(report: Path | None) -> dict[str, Observation]:
    """What a report of this command says of each channel."""
    import json

    from ..metrics import Observation

    if report is None:
        return {}
    try:
        with report.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_REPORT)   # of /dev/zero, too
        rows = {edge["channel"]: edge["metrics"] for edge in json.loads(text)["edges"]}
        return {name: Observation.of(row["received"], row["bytes"], row["parks"]) for name, row in rows.items()}
    except OSError as error:
        raise click.UsageError(f"--observed {report}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise click.UsageError(f"--observed {report}: not a report that cwasi run --json wrote ({error!r})") from error


def _tls(authority: Path | None, certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """All three, or none."""
    from ..transport.tls import TlsFiles

    if authority is None or certificate is None or key is None:
        if any(file is not None for file in (authority, certificate, key)):
            raise click.UsageError("TLS needs all of --tls-authority, --tls-certificate and --tls-key")
        return None
    files = TlsFiles(*(str(file.absolute()) for file in (authority, certificate, key)))
    files.check("127.0.0.1")
    return files


def _labels(trust: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for text in trust:
        name, found, label = text.partition("=")
        if not found:
            raise click.UsageError(f"--trust {text!r}: write FUNCTION=LABEL")
        labels[name.lower()] = label
    return labels


def _function(text: str, labels: dict[str, str]) -> FunctionSpec:
    from ..workflow import FunctionSpec

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise click.UsageError(f"function {text!r}: {error}") from error
    if not words:
        raise click.UsageError("a function is the path of a .wasm file; this one is empty")
    name, found, path = words[0].partition("=")
    if not found:
        name, path = Path(words[0]).stem, words[0]
    name = name.lower()
    return FunctionSpec(name, Path(path), tuple(words[1:]), trust=labels.get(name, "default"))


def _edges(option: str, texts: tuple[str, ...]) -> tuple[EdgeSpec, ...]:
    from ..workflow import EdgeSpec

    edges = []
    for text in texts:
        parts = text.split(":")
        if len(parts) != 3 or not all(parts):
            raise click.UsageError(f"{option} {text!r}: write CHANNEL:FROM:TO, for example frames:a:b or f:a/out:b/in")
        for sender, sender_port in _ends(parts[1]):
            for receiver, receiver_port in _ends(parts[2]):
                edges.append(EdgeSpec(parts[0], sender, receiver, sender_port, receiver_port, option == "--call"))
    return tuple(edges)


def _ends(text: str) -> list[tuple[str, str | None]]:
    """Each function and its port."""
    found = []
    for end in text.split("+"):
        function, _, port = end.partition("/")
        found.append((function.lower(), port or None))
    return found


def _print(report: RunReport) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from . import console

    out = console(sys.stderr)
    title = f"{report.seconds:.3f} s in {report.processes} host process(es)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("channel", "edge", "mode", "transport"):
        table.add_column(heading)
    for heading in ("messages", "MiB", "p50 us", "p99 us"):
        table.add_column(heading, justify="right")
    for edge in report.edges:
        metrics = edge.metrics
        table.add_row(
            edge.channel,
            f"{edge.sender} -> {edge.receiver}",
            str(edge.decision.mode),
            str(edge.decision.transport),
            f"{metrics.received:,}",
            f"{metrics.bytes / 2**20:,.1f}",
            *("-" if ns is None else f"{ns / 1000:,.0f}" for ns in (metrics.p50_ns, metrics.p99_ns)),
        )
    out.print(table)
    for edge in report.edges:
        changed = f" (changed {edge.changes} times while it ran)" if edge.changes else ""
        out.print(f"{edge.channel}: {edge.decision.reason}{changed}", highlight=False, markup=False, soft_wrap=True)
