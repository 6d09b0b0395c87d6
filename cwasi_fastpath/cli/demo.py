"""cwasi demo: the picture pipeline over every kind of channel, traced and compared; then a load that changes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..bench.pipeline import Job, Run, Summary
    from ..live.played import Played
    from ..tracer import Tracer

PAPER = "CWASI's authors report up to 95 % less latency and up to 30x throughput (other hardware)"


@click.command()
@click.option(
    "--functions",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/functions"),
    show_default=True,
    help="Where decode.wasm, grey.wasm, blur.wasm, edges.wasm and encode.wasm are.",
)
@click.option("--input", "picture", type=click.Path(path_type=Path), required=True, help="A JPEG, PNG, BMP or PPM.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("edges.jpg"), show_default=True)
@click.option(
    "--report", type=click.Path(path_type=Path), help="Also write the JSON report to this file, and a page beside it."
)
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--quick", is_flag=True, help="Fewer frames, one round, a short second act.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def demo(
    functions: Path, picture: Path, output: Path, report: Path | None, rounds: int, quick: bool, as_json: bool
) -> None:
    """Run a picture pipeline over every kind of channel and compare.

    Five functions (decode, grey, blur, edges, encode) pass a picture on in bands: through Redis, as one would write it
    by hand, from process to process, and as the policy chooses; all watched by a tracer where that is permitted. The
    pictures that come out must be the same to the byte.

    In a second act two functions exchange messages while the load changes and another process wants a core: under the
    default policy, which switches meanwhile, and under the static rule, which does not. Every message is checked.

    \b
    Example:
      cwasi demo --input photo.jpg --output edges.jpg --json > report.json
    """
    from ..bench import pipeline
    from ..errors import BadModule, BadSpec
    from . import demo_act

    _readable(picture)
    for stage in pipeline.STAGES:
        if not (functions / f"{stage}.wasm").is_file():
            raise BadModule(f"{functions}/{stage}.wasm is missing: build the functions with make build")
    output.parent.mkdir(parents=True, exist_ok=True)
    job = pipeline.Job(functions, picture, output)
    tracer, untraced_because = _tracer()
    try:
        runs = _run_all(job, 1 if quick else rounds, quick, tracer)
    finally:
        if tracer:
            tracer.close()
    difference = pipeline.disagreement(runs)
    summaries = [pipeline.summarise(runs, scenario) for scenario in pipeline.SCENARIOS]
    second = demo_act.play(quick)
    _publish(runs, summaries, second, output, untraced_because, report, as_json)
    if difference:
        raise BadSpec(f"the runs disagree: {difference}")


def _readable(picture: Path) -> None:
    try:
        with picture.open("rb"):
            pass
    except OSError as error:
        raise click.UsageError(f"--input {picture}: {error.strerror}. Give the path of a picture") from error


def _tracer() -> tuple[Tracer | None, str]:
    """A tracer, or why there is none."""
    from ..errors import Unavailable
    from ..tracer import Tracer

    try:
        return Tracer(), ""
    except Unavailable as error:
        return None, str(error)


def _run_all(job: Job, rounds: int, quick: bool, tracer: Tracer | None) -> list[Run]:
    """Every scenario in every phase, in turn, so that a machine whose speed drifts treats all alike."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ..bench import pipeline

    phases = pipeline.phases(quick)
    columns = TextColumn("{task.description:<46}"), BarColumn(), TimeElapsedColumn()
    runs: list[Run] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=rounds * len(phases) * len(pipeline.SCENARIOS))
        for _ in range(rounds):
            for phase in phases:
                for scenario in pipeline.SCENARIOS:
                    progress.update(task, description=f"{scenario.title}, {phase.key}")
                    earlier = runs[-1] if runs else None
                    runs.append(pipeline.run(job, scenario, phase, tracer, earlier))
                    progress.advance(task)
    return runs


def _publish(
    runs: list[Run],
    summaries: list[Summary],
    second: list[Played],
    output: Path,
    untraced: str,
    report: Path | None,
    as_json: bool,
) -> None:
    import json
    from dataclasses import asdict

    from . import demo_act
    from .output_file import save_output

    document: dict[str, Any] = {
        "schema": 1,
        "picture": str(output),
        "identical": len({run.sha256 for run in runs}) == 1,
        "traced": not untraced,
        "untraced_because": untraced or None,
        "scenarios": [asdict(summary) for summary in summaries],
        "chosen": _chosen(runs)["edges"],
        "runs": [
            {
                "scenario": run.scenario.key,
                "phase": run.phase.key,
                "frames": run.phase.frames,
                "sha256": run.sha256,
                "syscalls": run.syscalls(),
                "report": run.report,
            }
            for run in runs
        ],
        "second_act": demo_act.as_plain(second),
    }
    page = report.with_suffix(".html") if report else None
    if report and page:
        report.parent.mkdir(parents=True, exist_ok=True)
        save_output(report, json.dumps(document, indent=1))
        demo_act.write(page, second)
    if as_json:
        click.echo(json.dumps(document))
    else:
        from . import console

        _print(console(sys.stdout), runs, summaries, output, untraced)
        demo_act.show(console(sys.stdout), second, page)


def _chosen(runs: list[Run]) -> dict[str, Any]:
    """The report of the last paced run in which the policy chose."""
    return next(run for run in reversed(runs) if run.scenario.key == "policy" and run.phase.interval_us).report


def _print(console: Console, runs: list[Run], summaries: list[Summary], output: Path, untraced: str) -> None:
    console.print(_edge_table(_chosen(runs)))
    for edge in _chosen(runs)["edges"]:
        reason = f"  {edge['channel']}: {edge['decision']['reason']}"
        console.print(reason, highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(_scenario_table(summaries))
    if untraced:
        console.print(f"  no system calls were counted: {untraced}\n", highlight=False, markup=False)
    _print_gain(console, summaries)
    frames = sum(run.phase.frames for run in runs)
    console.print(
        f"\nAll {len(runs)} runs, {frames} frames, gave the same picture to the byte: {output}", highlight=False
    )


def _edge_table(report: dict[str, Any]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="What the policy chose", title_justify="left", box=SIMPLE_HEAD)
    for title in ("channel", "edge", "mode", "transport"):
        table.add_column(title)
    for title in ("messages", "KiB each", "p50 us", "p99 us"):
        table.add_column(title, justify="right")
    for edge in report["edges"]:
        metrics, decision = edge["metrics"], edge["decision"]
        table.add_row(
            edge["channel"],
            f"{edge['sender']} -> {edge['receiver']}",
            decision["mode"],
            decision["transport"],
            f"{metrics['received']:,}",
            f"{metrics['bytes'] / max(1, metrics['received']) / 1024:.0f}",
            f"{metrics['p50_ns'] / 1000:,.0f}",
            f"{metrics['p99_ns'] / 1000:,.0f}",
        )
    return table


def _scenario_table(summaries: list[Summary]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = "The same functions, four ways (latency: paced source, nothing queued; the rest: full speed)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("how")
    for heading in ("p50 us", "p99 us", "run s", "of it CPU s", "MiB/s", "syscalls/msg", "copied KiB/msg"):
        table.add_column(heading, justify="right")
    for row in summaries:
        table.add_row(
            row.scenario.title,
            f"{row.p50_ns / 1000:,.0f}",
            f"{row.p99_ns / 1000:,.0f}",
            f"{row.seconds:.2f}",
            f"{row.cpu_seconds:.2f}",
            f"{row.mib_per_second:,.0f}",
            "-" if row.syscalls_per_message is None else f"{row.syscalls_per_message:.2f}",
            "-" if row.copied_per_message is None else f"{row.copied_per_message / 1024:,.0f}",
        )
    return table


def _print_gain(console: Console, summaries: list[Summary]) -> None:
    redis = next(row for row in summaries if row.scenario.key == "redis")
    for row in summaries:
        if row is redis:
            continue
        less = 100 * (1 - row.p50_ns / redis.p50_ns)
        faster = row.mib_per_second / redis.mib_per_second
        console.print(
            f"  {row.scenario.title}: {less:.0f} % less latency than Redis, {faster:.1f}x its throughput",
            highlight=False,
        )
    console.print(
        f"  {PAPER}.\n"
        "  The throughput above includes what the functions compute; make bench shows the transport alone.",
        highlight=False,
    )
