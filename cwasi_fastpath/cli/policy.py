"""cwasi policy: what a policy would have done, on what was recorded or made up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadSpec, Error
from .policy_live import live

if TYPE_CHECKING:
    from ..policy import Objective, Policy
    from ..policy.replay import Replay
    from ..policy.trace import Trace

_USUAL = "cost,static,thresholds"
_SCENARIOS = ("steady", "bursty", "size-shift", "contention", "link", "migration", "alike")


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
@click.option("--policy", "policies", default=_USUAL, show_default=True, metavar="NAMES",
              help="cost, static, thresholds, always:WAY, or FILE.py:CLASS; several with commas between them.")
@click.option("--objective", default="latency=1", show_default=True, metavar="WEIGHTS",
              help="What a message costs: latency, throughput and cpu, as latency=1,cpu=0.5.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("-o", "--html", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a page with plots to this file; of one trace.")
def replay(traces: tuple[Path, ...], policies: str, objective: str, as_json: bool, html: Path | None) -> None:
    """Says what policies would have cost on a trace.

    Each is given what it would have seen on the way that it is on, and nothing else. Regret is against the oracle: the
    least that was possible for somebody who knows the future, with the switches paid.

    \b
    Examples:
      cwasi policy replay busy.trace
      cwasi policy replay busy.trace --policy cost,always:tcp,my_policy.py:MyPolicy -o busy.html
    """
    from ..policy.replay import oracle, with_adaptations
    from ..policy.replay import replay as replayed

    if html is not None and len(traces) > 1:
        raise click.BadParameter("a page is of one trace", param_hint="--html")
    wanted = _objective(objective)
    results = []
    for path in traces:
        trace = _read(path)
        best = oracle(trace, wanted)
        found = [best]
        for name in policies.split(","):
            one = _policy(name.strip(), trace)
            try:
                found.append(with_adaptations(trace, replayed(trace, one, name.strip(), wanted), best, wanted))
            except Exception as error:
                if ".py:" not in name:
                    raise
                raise PolicyFailed(f"policy {name} on {path}: {type(error).__name__}: {error}") from error
        results.append((trace, found))
    if html is not None:
        _write(html, *results[0])
    if as_json:
        _print_json(results)
    else:
        for trace, found in results:
            _print(trace, found)


@policy.command()
@click.argument("scenario", type=click.Choice(_SCENARIOS))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same makes the same trace.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=120.0, show_default=True, help="Of the trace.")
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

    _save(output, "".join(lines_of(generated(scenario, seed=seed, seconds=seconds))))
    click.echo(f"{output}: {scenario}, {seconds:g} s")


@policy.command()
@click.argument("scenario", type=click.Choice(("steady", "size-shift", "contention")))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, help="Of the trace.")
@click.option("--redis", metavar="URL", help="A server, whose way is measured too.")
def record(scenario: str, output: Path, seconds: float, redis: str | None) -> None:
    """Records a trace with real messages between two threads, by every way in turn.

    \b
    steady       nothing changes
    size-shift   messages get larger, from 64 bytes to 1 MiB, for a third of the time
    contention   another process wants one of the cores, for a third of the time

    \b
    Examples:
      cwasi policy record contention -o busy.trace
    """
    from ..bench.recording import record as recorded
    from ..bench.recording import usable_ways
    from ..policy.trace import lines_of

    _save(output, "")   # before it takes its time
    trace = recorded(scenario, seconds, usable_ways(redis), redis)
    _save(output, "".join(lines_of(trace)))
    click.echo(f"{output}: {scenario}, {trace.seconds:.0f} s in {len(trace.blocks)} blocks")


policy.add_command(live)


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error


def _read(path: Path) -> Trace:
    from ..policy.trace import read

    try:
        with path.open(encoding="utf-8") as file:
            return read(file, str(path))
    except OSError as error:
        raise NoTrace(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NoTrace(f"{path}: this is no trace of cwasi policy record or generate") from error
    except BadSpec as error:
        raise NoTrace(str(error)) from error


def _objective(text: str) -> Objective:
    from ..policy import Objective

    weights = dict.fromkeys(("latency", "throughput", "cpu"), 0.0)
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            weights[name] = float(weight) if name in weights else float("nan")
        except ValueError:
            weights[name] = float("nan")
        if weights[name] != weights[name]:
            raise BadSpec(f"objective {text!r}: give weights of {', '.join(weights)}, as latency=1,cpu=0.5")
    return Objective(**weights)


def _policy(name: str, trace: Trace) -> Policy:
    """By name, or the user's own class."""
    from ..policy.comparisons import policy_named

    file, colon, kind = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return policy_named(name, trace.costs)
    try:
        found: Any = _module(Path(file))[kind]
    except OSError as error:
        raise BadSpec(f"policy {name}: {error.strerror}") from error
    except KeyError:
        raise BadSpec(f"policy {name}: there is no {kind} in {file}") from None
    except Exception as error:
        raise PolicyFailed(f"policy {name}: {type(error).__name__}: {error}") from error
    return _made(found, name)


def _module(path: Path) -> dict[str, Any]:
    import runpy

    path.open().close()   # says what is wrong with it
    return runpy.run_path(str(path))


def _made(kind: Any, name: str) -> Policy:
    from ..policy import Policy

    if not isinstance(kind, type) or not issubclass(kind, Policy):
        raise BadSpec(f"policy {name}: it is no subclass of cwasi_fastpath.Policy")
    try:
        return kind()
    except Exception as error:
        raise PolicyFailed(f"policy {name}: it is made without arguments: {type(error).__name__}: {error}") from error


def _figures(found: Replay, best: Replay, seconds: float) -> dict[str, Any]:
    adapted = found.adaptations
    return {
        "policy": found.policy,
        "cost_ns": found.total_ns,
        "regret": found.regret(best),
        "switches": found.switches,
        "forced": found.forced,
        "switches_per_minute": 60 * found.switches / seconds,
        "adapt_seconds": found.time_to_adapt,
        "adaptations": [
            {"at": one.at, "seconds": one.seconds, "messages": one.messages, "in_time": one.in_time} for one in adapted
        ],
    }


def _print_json(results: Sequence[tuple[Trace, list[Replay]]]) -> None:
    import json

    plain = [
        {
            "trace": trace.name, "about": dict(trace.about), "seconds": trace.seconds, "blocks": len(trace.blocks),
            "changes": None if trace.changes is None else list(trace.changes),
            "policies": [_figures(one, found[0], trace.seconds) for one in found],
        }
        for trace, found in results
    ]  # fmt: skip
    click.echo(json.dumps({"schema": 1, "traces": plain}, indent=1))


HEADINGS = ("policy", "a message", "regret", "switches", "a minute", "to adapt", "in time")


def rows(trace: Trace, found: Sequence[Replay]) -> list[tuple[str, ...]]:
    """Of the table: a line for each policy."""
    messages = sum(block.messages for block in trace.blocks)
    lines: list[tuple[str, ...]] = []
    for one in found:
        figures = _figures(one, found[0], trace.seconds)
        adapt, answers = figures["adapt_seconds"], one.adaptations
        lines.append((
            one.policy,
            f"{one.total_ns / max(1, messages) / 1000:,.3g} us",
            f"{100 * figures['regret']:.2f} %",
            f"{one.switches}",
            f"{figures['switches_per_minute']:.1f}",
            "" if adapt is None else f"{1000 * adapt:,.0f} ms",
            f"{sum(answer.in_time for answer in answers)} of {len(answers)}" if answers else "",
        ))
    return lines


def _print(trace: Trace, found: Sequence[Replay]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from . import console

    changes = "" if trace.changes is None else f", {len(trace.changes)} changes"
    title = f"{trace.name}: {trace.seconds:,.0f} s in {len(trace.blocks):,} blocks{changes}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows(trace, found):
        table.add_row(*map(Text, row))
    console(sys.stdout).print(table)


def _write(html: Path, trace: Trace, found: Sequence[Replay]) -> None:
    from .policy_page import page

    _save(html, page(trace, found, HEADINGS, rows(trace, found)))
