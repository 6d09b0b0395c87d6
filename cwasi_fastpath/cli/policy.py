"""cwasi policy: what a policy would have done, on what was recorded or made up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadSpec, Error
from .numbers import Finite
from .output_file import check_output, save_output
from .policy_live import live

if TYPE_CHECKING:
    from ..policy import Objective, Policy
    from ..policy.trace import Trace
    from .policy_table import Compared

_USUAL = "cost,static,thresholds"
_HEAVIEST = 1e6
"""Weight of a part of a message's cost."""
_RECORDED = ("steady", "bursty", "size-shift", "contention", "link", "migration")
_SCENARIOS = (*_RECORDED, "alike")


class NoTrace(Error):
    """A file that is missing, damaged, or no trace."""

    exit_code = 65


class PolicyFailed(Error):
    """A policy of the user's raised an error."""


@click.group()
def policy() -> None:
    """Replay what happened under other policies, or run them live."""


@policy.command()
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--channel", metavar="NAME", help="Of a recording of cwasi-trace: which channel, if there are several.")
@click.option("--policy", "policies", default=_USUAL, show_default=True, metavar="NAMES",
              help="cost, static, thresholds, always:WAY, or FILE.py:CLASS; several with commas between them.")
@click.option("--objective", default="latency=1", show_default=True, metavar="WEIGHTS",
              help="What a message costs: latency, throughput and cpu, as latency=1,cpu=0.5.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("-o", "--html", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a page with plots to this file; of one trace.")
def replay(
    traces: tuple[Path, ...], channel: str | None, policies: str, objective: str, as_json: bool, html: Path | None
) -> None:
    """Says what policies would have cost on a trace, or on a recording of cwasi-trace --record.

    Each is given what it would have seen on the way that it is on, and nothing else. Regret is against the oracle: the
    least that was possible for somebody who knows the future, with the switches paid. Where each block was measured
    twice, it is also against an oracle without luck, which gains nothing from noise. The page and the JSON tell between
    which figures they lie, nineteen times in twenty. The oracle of phases takes one way from each change to the next.

    A recording tells what a channel carried and, on the way in use, how long messages took. What they would have taken
    on others is the model's guess, with what this node charges.

    \b
    Examples:
      cwasi policy replay busy.trace
      cwasi policy replay busy.trace --policy cost,always:tcp,my_policy.py:MyPolicy -o busy.html
      cwasi policy replay run.jsonl --channel frames
    """
    from ..policy.oracle import oracle, oracle_of_phases, oracle_without_luck
    from ..policy.replay import replay as replayed
    from ..policy.replay import with_adaptations
    from .policy_table import Compared

    if html is not None and len(traces) > 1:
        raise click.BadParameter("a page is of one trace", param_hint="--html")
    wanted = _objective(objective)
    results = []
    for path in traces:
        trace = _read(path, channel)
        best, fair = oracle(trace, wanted), oracle_without_luck(trace, wanted)
        found = [one for one in (best, fair, oracle_of_phases(trace, wanted)) if one is not None]
        for name in policies.split(","):
            one = _policy(name.strip(), trace)
            try:
                found.append(with_adaptations(trace, replayed(trace, one, name.strip(), wanted), best, wanted))
            except (Exception, SystemExit) as error:
                if ".py:" not in name:
                    raise
                raise PolicyFailed(f"policy {name} on {path}: {type(error).__name__}: {error}") from error
        results.append(Compared(trace, best, fair, found))
    if html is not None:
        _write(html, results[0])
    if as_json:
        _print_json(results)
    else:
        for compared in results:
            _print(compared)


@policy.command()
@click.argument("scenario", type=click.Choice(_SCENARIOS))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same makes the same trace.")
@click.option("--seconds", type=Finite(0.1, 3600), default=120.0, show_default=True, help="Of the trace.")
def generate(scenario: str, output: Path, seed: int, seconds: float) -> None:
    """Makes up a trace, of a machine that does not exist.

    \b
    steady       nothing changes
    bursty       few messages, then many, and again
    size-shift   messages get larger by three orders of magnitude, for a third of the time
    contention   somebody else's thread takes a part of the cores
    link         the network between the nodes gets slow
    migration    the peer moves: to another process, to another node, and back
    alike        all ways cost the same; what differs is noise

    \b
    Examples:
      cwasi policy generate contention -o busy.trace
    """
    from ..policy.generate import generate as generated
    from ..policy.trace import lines_of

    save_output(output, "".join(lines_of(generated(scenario, seed=seed, seconds=seconds))))
    click.echo(f"{output}: {scenario}, {seconds:g} s")


@policy.command()
@click.argument("scenario", type=click.Choice(_RECORDED))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file.")
@click.option("--seconds", type=Finite(0.1, 3600), default=30.0, show_default=True, help="Of the trace.")
@click.option("--redis", metavar="URL", help="A server, whose way is measured too.")
def record(scenario: str, output: Path, seconds: float, redis: str | None) -> None:
    """Records a trace with real messages between two threads, by every way in turn.

    \b
    steady       nothing changes
    bursty       few messages, with pauses in which receivers fall asleep, then many, and again
    size-shift   messages get larger, from 64 bytes to 1 MiB, for a third of the time
    contention   another process wants one of the cores, for a third of the time
    link         the receiver is on another node, to which the network gets slow, for a third of the time
    migration    the receiver goes to another node, for a third of the time, and comes back

    To another node only tcp leads, and redis where a server is given. That node is this one, too: in migration tcp is
    on the loopback; in link there is a network of its own in between, of which the packets are delayed. It takes root.

    \b
    Examples:
      cwasi policy record contention -o busy.trace
      cwasi policy record link -o slow.trace --redis unix:///run/redis/redis.sock
    """
    from ..bench.recording import record as recorded
    from ..bench.recording import usable_ways
    from ..policy.trace import lines_of

    check_output(output)
    trace = recorded(scenario, seconds, usable_ways(redis), redis)
    save_output(output, "".join(lines_of(trace)))
    click.echo(f"{output}: {scenario}, {trace.seconds:.0f} s in {len(trace.blocks)} blocks")


policy.add_command(live)


def _read(path: Path, channel: str | None = None) -> Trace:
    from .policy_load import read

    try:
        with path.open(encoding="utf-8") as file:
            return read(file, path, channel)
    except OSError as error:
        raise NoTrace(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NoTrace(
            f"{path}: this is no trace of cwasi policy record or generate, and no recording of cwasi-trace"
        ) from error
    except BadSpec as error:
        raise NoTrace(str(error)) from error


def _objective(text: str) -> Objective:
    from ..policy import Objective

    weights = dict.fromkeys(("latency", "throughput", "cpu"), 0.0)
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            found = float(weight) if name in weights else -1.0
        except ValueError:
            found = -1.0
        if not 0 <= found <= _HEAVIEST:
            wanted = f"give weights of {', '.join(weights)}, numbers from 0 to {_HEAVIEST:g}, as latency=1,cpu=0.5"
            raise BadSpec(f"objective {text!r}: {wanted}")
        weights[name] = found
    return Objective(**weights)


def _policy(name: str, trace: Trace) -> Policy:
    """By name, or the user's own class."""
    from ..policy.comparisons import policy_named

    file, colon, kind = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        try:
            return policy_named(name, trace.costs)
        except BadSpec as error:
            raise BadSpec(f"{error}, or FILE.py:CLASS") from None
    try:
        found: Any = _module(Path(file))[kind]
    except OSError as error:
        raise BadSpec(f"policy {name}: {error.strerror}") from error
    except KeyError:
        raise BadSpec(f"policy {name}: there is no {kind} in {file}") from None
    except (Exception, SystemExit) as error:
        raise PolicyFailed(f"policy {name}: {type(error).__name__}: {error}") from error
    return _made(found, name)


def _module(path: Path) -> dict[str, Any]:
    import runpy

    path.open().close()   # says what is wrong with it
    sys.path.insert(0, str(path.resolve().parent))   # as of a program: it may have parts beside it
    return runpy.run_path(str(path))


def _made(kind: Any, name: str) -> Policy:
    from ..policy import Policy

    if not isinstance(kind, type) or not issubclass(kind, Policy):
        raise BadSpec(f"policy {name}: it is no subclass of cwasi_fastpath.Policy")
    try:
        return kind()
    except (Exception, SystemExit) as error:
        raise PolicyFailed(f"policy {name}: it is made without arguments: {type(error).__name__}: {error}") from error


def _print_json(results: Sequence[Compared]) -> None:
    import json

    from .policy_table import figures

    plain = []
    for one in results:
        trace = one.trace
        plain.append({
            "trace": trace.name, "about": dict(trace.about), "seconds": trace.seconds, "blocks": len(trace.blocks),
            "changes": None if trace.changes is None else list(trace.changes),
            "policies": [figures(found, one) for found in one.found],
        })  # fmt: skip
    click.echo(json.dumps({"schema": 1, "traces": plain}, indent=1))


def _print(compared: Compared) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from . import console
    from .policy_table import table

    trace = compared.trace
    changes = "" if trace.changes is None else f", {len(trace.changes)} changes"
    title = f"{trace.name}: {trace.seconds:,.0f} s in {len(trace.blocks):,} blocks{changes}"
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left")
    headings, rows = table(compared)
    for number, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if number else "left", no_wrap=number > 0, overflow="fold",
                         min_width=None if number else 14)
    for row in rows:
        shown.add_row(*map(Text, row))
    console(sys.stdout).print(shown)
    if trace.note:
        click.echo(trace.note)
    for one in compared.found:
        if one.refused:
            click.echo(f"{one.policy}: {one.refused:,} answers could not be, and no host would have followed them")


def _write(html: Path, compared: Compared) -> None:
    from .policy_page import page
    from .policy_table import table

    save_output(html, page(compared.trace, compared.found, *table(compared, wide=True)))
