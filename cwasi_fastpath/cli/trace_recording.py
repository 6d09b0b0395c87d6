"""A recording of a trace: JSON lines, a header first, an object for each interval, and at last one that says it is all.

    {"recording": 1, "schema": 4, "started": "...", "interval": 1.0, "command": [...], "machine": {...}}
    {"schema": 4, "interval": 1, "time": "...", ...}        as cwasi-trace --json -i prints them
    {"end": 7, "status": 0}                                 after 7 intervals

Where processes were traced there is "pids": [...] instead of "command".
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Error
from .trace_json import SCHEMA, as_line, moment
from .trace_loop import Interval
from .trace_view import View

VERSION = 1


class RecordingFailed(Error):
    """A recording could not be written."""

    exit_code = 74


class NoRecording(Error):
    """A file is no recording, or one that cannot be read."""

    exit_code = 65


class Recorder:
    """Writes one. What has been written stays whole if the disk is full; the trace goes on without it then."""

    def __init__(self, path: Path, interval: float, failed: Callable[[str], None]) -> None:
        """failed: told once, if it comes to that. Raises RecordingFailed."""
        self._path = path
        self._interval = interval
        self._failed = failed
        self._size = 0
        self._intervals = 0
        self.complete = True
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RecordingFailed(f"{path}: {error.strerror}") from error

    def begin(self, target: dict[str, Any]) -> None:
        """Writes the header. target: what is traced."""
        machine = {"kernel": platform.release(), "architecture": platform.machine(), "cpus": os.cpu_count()}
        head = {"recording": VERSION, "schema": SCHEMA, "started": moment(time.time()), "interval": self._interval}
        self._write(json.dumps({**head, **target, "machine": machine}))

    def show(self, interval: Interval) -> None:
        """See Sink. All of it, whatever is shown elsewhere."""
        self._write(as_line(interval.report, View(), interval.number, interval.time, interval.edges))
        self._intervals += self.complete

    def end(self, status: int) -> None:
        """Writes that this is all, and how the target ended."""
        self._write(json.dumps({"end": self._intervals, "status": status}))

    def close(self) -> None:
        """Twice is safe."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, line: str) -> None:
        if not self.complete:
            return
        data = line.encode() + b"\n"
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            self._size += written
        except OSError as error:
            self.complete = False
            with contextlib.suppress(OSError):  # a pipe has no length
                os.ftruncate(self._file, self._size)
            self._failed(f"{self._path}: {error.strerror}: the recording ends after {self._intervals} intervals")


@dataclass(frozen=True, slots=True)
class Recording:
    """What was read."""

    head: dict[str, Any]
    intervals: list[dict[str, Any]]
    status: int | None
    """None where the recording ends before the trace did."""

    @property
    def lack(self) -> str | None:
        """In words, if it is not whole."""
        if self.status is not None:
            return None
        return f"The recording is cut off after {len(self.intervals)} intervals: what came later is not in it."


def read(path: Path) -> Recording:
    """Reads one. A last line that is cut off is left out. Raises NoRecording."""
    try:
        return parsed(path.read_bytes(), path)
    except OSError as error:
        raise NoRecording(f"{path}: {error.strerror}") from error


def parsed(content: bytes, path: Path) -> Recording:
    """The same, of what stands in the file."""
    lines = content.split(b"\n")
    whole, rest = lines[:-1], lines[-1]
    objects = [_parsed(path, number, line) for number, line in enumerate(whole, 1)]
    head = objects[0] if objects else {}
    if "recording" not in head:
        raise NoRecording(f"{path} is no recording: record one with cwasi-trace --record FILE")
    if head["recording"] != VERSION or head.get("schema") != SCHEMA:
        raise NoRecording(f"{path} was recorded by another version of cwasi-trace: use that one")
    end = objects.pop() if len(objects) > 1 and "end" in objects[-1] and not rest else {}
    status = end.get("status")
    return Recording(head, objects[1:], status if isinstance(status, int) else None)


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        if number == 1:
            raise NoRecording(f"{path} is no recording: record one with cwasi-trace --record FILE")
        raise NoRecording(f"{path}: line {number} is damaged")
    return found
