"""One run of cwasi-trace: everything that the command line asks for, put together."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import Error
from .trace_edges import Edges
from .trace_json import as_json, as_line
from .trace_loop import Budget, Interval, Pace, Sink, follow
from .trace_recording import Recorder, RecordingFailed
from .trace_tables import as_text
from .trace_view import View, functions_of

if TYPE_CHECKING:
    from ..trace_report import TraceReport
    from ..tracer import Tracer
    from .trace_exporter import Server, TextFile
    from .trace_target import Target

_SECOND = 1.0
"""Between two looks, where nobody says it and somebody wants to look."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says."""

    view: View
    pace: Pace
    pids: tuple[int, ...]
    command: tuple[str, ...]
    json: bool
    light: bool
    max_overhead: float | None
    record: Path | None
    openmetrics: str | None
    top: bool

    @property
    def looks(self) -> bool:
        """Whether somebody wants to look at what was counted before the end."""
        return self.record is not None or self.openmetrics is not None or self.top

    @property
    def printed(self) -> bool:
        """Whether every interval is printed, rather than the whole at the end."""
        return self.pace.interval is not None and not self.top


def traced(request: Request) -> int:
    """Traces it all. Returns the status to end with."""
    from ..names import checked
    from ..tracer import Tracer

    try:
        if request.view.function is not None:
            checked(request.view.function, "function")
        if request.view.channel is not None:
            checked(request.view.channel, "channel")
        with Tracer(request.light, request.view.by == "thread") as tracer:
            return _trace(tracer, request)
    except Error as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # where the report goes
        complain(f"the report cannot be written: {error.strerror}")
        return RecordingFailed.exit_code


def complain(text: str) -> None:
    """Tells the user what went wrong."""
    click.echo(f"cwasi-trace: {text}", err=True)


@dataclass(slots=True)
class _Outputs:
    """Who is shown what was counted, and who may have failed to take it."""

    sinks: list[Sink] = field(default_factory=list)
    recorder: Recorder | None = None
    exporter: Server | TextFile | None = None

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What to go on takes."""
        return () if self.exporter is None else self.exporter.capabilities

    @property
    def status(self) -> int:
        """Of what could not be written."""
        whole = (self.recorder is None or self.recorder.complete) and (self.exporter is None or self.exporter.complete)
        return 0 if whole else RecordingFailed.exit_code


def _trace(tracer: Tracer, request: Request) -> int:
    first = tracer.snapshot()
    pace = request.pace
    if pace.interval is None and request.looks:
        pace = replace(pace, interval=_SECOND)
    with contextlib.ExitStack() as stack:
        outputs = _outputs(request, pace, first, stack)
        target = _target(tracer, request)
        stack.callback(target.close)
        tracer.give_up_privileges([*target.capabilities, *outputs.capabilities])
        if request.top:
            outputs.sinks.append(_screen(request, target, stack))
        if outputs.recorder is not None:
            outputs.recorder.begin(target.described)
        edges = None if outputs.recorder is None else Edges()
        budget, often = Budget(tracer, request.max_overhead), request.view.by == "cgroup"
        total = follow(tracer, first, target, pace, outputs.sinks, budget, edges, often)
        tracer.close()  # what goes on goes on untraced
        status = target.status()
        if outputs.recorder is not None:
            outputs.recorder.end(status)
    if not request.printed:
        _print_whole(total, request, {**target.described, "status": status})
    return status or _lacking(total, request.view) or outputs.status


def _outputs(request: Request, pace: Pace, first: TraceReport, stack: contextlib.ExitStack) -> _Outputs:
    """All but the screen. Raises RecordingFailed, ExporterFailed."""
    outputs = _Outputs()
    if request.printed:
        outputs.sinks.append(_Lines(request.view) if request.json else _Tables(request.view))
    if request.record is not None:
        outputs.recorder = Recorder(request.record, pace.interval or _SECOND, complain)
        stack.callback(outputs.recorder.close)
        outputs.sinks.append(outputs.recorder)
    if request.openmetrics is not None:
        from .trace_exporter import exporter

        outputs.exporter = exporter(request.openmetrics, first, complain)
        stack.callback(outputs.exporter.close)
        outputs.sinks.append(outputs.exporter)
        click.echo(f"Metrics: {outputs.exporter.url}", err=True)
    return outputs


def _target(tracer: Tracer, request: Request) -> Target:
    from .trace_target import Command, Running

    if not request.pids:
        return Command(tracer, request.command, quiet=request.top)
    target = Running(tracer, request.pids)
    if request.pace.count is None and request.pace.duration is None and not request.top:
        click.echo("Tracing... Ctrl-C to quit.", err=True)
    return target


def _screen(request: Request, target: Target, stack: contextlib.ExitStack) -> Sink:
    from .trace_top import Top

    top = stack.enter_context(Top(request.view, target.described, target.leave))
    target.listen(top.keyboard, top.press)
    return top


def _print_whole(total: TraceReport, request: Request, target: dict[str, Any]) -> None:
    view = request.view.within(total)
    click.echo(as_json(total, view, target) if request.json else as_text(total, view))


def _lacking(total: TraceReport, view: View) -> int:
    """Says if what was asked for has done nothing. Returns the status."""
    functions, channels = functions_of(total), sorted({end.channel for end in total.ends})
    status = 0
    for kind, wanted, found in (("function", view.function, functions), ("channel", view.channel, channels)):
        if wanted is not None and wanted not in found:
            others = f"there were {', '.join(found[:20])}" if found else f"no {kind} did anything"
            complain(f"{kind} {wanted!r} did nothing; {others}")
            status = 69
    return status


class _Tables:
    """Prints each interval for people."""

    def __init__(self, view: View) -> None:
        self._view = view

    def show(self, interval: Interval) -> None:
        """See Sink."""
        click.echo(as_text(interval.report, self._view.within(interval.total), interval.time) + "\n")


class _Lines:
    """Prints each interval for programs."""

    def __init__(self, view: View) -> None:
        self._view = view

    def show(self, interval: Interval) -> None:
        """See Sink."""
        view = self._view.within(interval.total)
        click.echo(as_line(interval.report, view, interval.number, interval.time, interval.edges))
