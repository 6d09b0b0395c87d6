"""A live view of a trace, on the whole screen: sorted as one likes, with keys."""

from __future__ import annotations

import os
import sys
import termios
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..trace_report import Process, TraceReport
from .ps import short
from .trace_loop import Interval
from .trace_tables import footer, labels_of
from .trace_view import View

_FRAME = 12
"""Lines that are not rows."""
_NAME, _FIGURE = 24, 14
_HEADINGS = ("calls/s", "ms/s", "bytes/s", "off-CPU ms/s", "switches/s", "sockets/s")
"""Those that do not fit are left out, from the right."""


@dataclass(slots=True)
class Row:
    """What one owner did in an interval."""

    name: str
    calls: int = 0
    ns: int = 0
    bytes: int = 0
    off_cpu_ns: int = 0
    switches: int = 0
    socket_bytes: int = 0


_Sort = Callable[[Row], Any]
_SORTS: dict[str, tuple[str, _Sort]] = {
    "t": ("time in calls", lambda row: -row.ns),
    "c": ("calls", lambda row: -row.calls),
    "b": ("bytes", lambda row: -row.bytes),
    "o": ("time off the CPU", lambda row: -row.off_cpu_ns),
    "w": ("switches", lambda row: -row.switches),
    "s": ("sockets", lambda row: -row.socket_bytes),
    "n": ("name", lambda row: row.name),
}
"""By key."""


class Top:
    """The screen, from entering to leaving; then the terminal is as it was."""

    def __init__(self, view: View, target: dict[str, Any], leave: Callable[[], None]) -> None:
        """target: what is traced. leave: called when the user has had enough."""
        self.keyboard = sys.stdin.fileno()
        self._view = view
        words = target.get("command") or ["processes", *target.get("pids", [])]
        # It goes to a terminal: nothing of it may do anything there.
        self._title = "".join(sign if sign.isprintable() else "?" for sign in " ".join(map(str, words)))
        self._leave = leave
        self._sort = "t"
        self._reversed = False
        self._last: Interval | None = None
        self._console = Console(file=sys.stdout)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Top:
        self._before = termios.tcgetattr(self.keyboard)
        tty.setcbreak(self.keyboard)  # Ctrl-C is a signal still
        self._live.start()
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        termios.tcsetattr(self.keyboard, termios.TCSADRAIN, self._before)

    def show(self, interval: Interval) -> None:
        """See Sink."""
        self._last = interval
        self._draw()

    def press(self) -> None:
        """Called when there is something to read from the keyboard."""
        try:
            keys = os.read(self.keyboard, 64).decode(errors="replace")
        except OSError:
            keys = ""
        for key in keys or "q":  # a terminal that is gone says nothing, for ever
            if key == "q":
                self._leave()
            elif key == "r":
                self._reversed = not self._reversed
            elif key in _SORTS:
                self._sort, self._reversed = key, False
        self._draw()

    def _draw(self) -> None:
        self._live.update(self._screen(), refresh=True)

    def _screen(self) -> Group:
        order = f"sorted by {_SORTS[self._sort][0]}{', reversed' if self._reversed else ''}"
        keys = " ".join(f"{key} {name}," for key, (name, _) in _SORTS.items())
        at = time.strftime("%H:%M:%S", time.localtime(self._last.time if self._last else None))
        head = Text(f"{at}  {self._title}", style="bold", no_wrap=True, overflow="ellipsis")
        parts: list[Text | Table] = [head, Text(order)]
        if self._last is not None:
            rows = rows_of(self._view.within(self._last.total).of(self._last.report))
            rows.sort(key=_SORTS[self._sort][1], reverse=self._reversed)
            parts.append(self._table(rows, self._last.report.seconds or 1.0))
            parts.append(Text(footer(self._last.report), style="dim"))
        parts.append(Text(f"Keys: {keys} r reverse, q quit", style="dim"))
        return Group(*parts)

    def _table(self, rows: list[Row], seconds: float) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        columns = max(1, (self._console.width - _NAME) // _FIGURE)
        table.add_column("function", no_wrap=True, min_width=min(_NAME, self._console.width - _FIGURE))
        for heading in _HEADINGS[:columns]:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows[: max(1, self._console.height - _FRAME)]:
            figures = (
                f"{row.calls / seconds:,.0f}",
                f"{row.ns / 1e6 / seconds:,.1f}",
                short(row.bytes / seconds),
                f"{row.off_cpu_ns / 1e6 / seconds:,.1f}",
                f"{row.switches / seconds:,.0f}",
                short(row.socket_bytes / seconds),
            )
            table.add_row(Text(row.name), *figures[:columns])
        return table


def rows_of(report: TraceReport) -> list[Row]:
    """A row for each owner that did anything."""
    labels = labels_of([*report.rows, *report.scheduling, *report.network])
    rows: dict[str | Process, Row] = {owner: Row(label) for owner, label in labels.items()}
    for call in report.rows:
        row = rows[call.owner]
        row.calls += call.count
        row.ns += call.ns
        row.bytes += call.bytes
    for turns in report.scheduling:
        rows[turns.owner].off_cpu_ns += turns.off_cpu_ns
        rows[turns.owner].switches += turns.voluntary + turns.involuntary
    for traffic in report.network:
        rows[traffic.owner].socket_bytes += traffic.sent_bytes + traffic.received_bytes
    return list(rows.values())
