"""A file that policies are replayed on: a trace of cwasi policy or, as its first line tells, a recording."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TextIO

from ..errors import BadSpec
from ..policy import trace
from ..policy.recorded_load import is_recording, load
from ..policy.trace import Trace
from . import trace_recording

_LONGEST_LINE = 16 << 20
"""Characters of a trace; more are damage."""


def read(file: TextIO, path: Path, channel: str | None = None) -> Trace:
    """channel: of a recording, which one. Raises BadSpec, NoRecording, UnicodeDecodeError, and OSError where it cannot
    be read.
    """
    first = file.readline(_LONGEST_LINE)
    if is_recording(first):
        return _loaded(first + file.read(), path, channel)
    if channel is not None:
        raise BadSpec(f"{path} is no recording of cwasi-trace: --channel is for these, a trace is of one channel")
    lines = iter(lambda: file.readline(_LONGEST_LINE), "")
    return trace.read(chain([first] if first else [], lines), str(path))


def _loaded(content: str, path: Path, channel: str | None) -> Trace:
    from ..calibration import costs

    recording = trace_recording.parsed(content.encode(), path)
    if recording.lack is not None:
        raise BadSpec(
            f"{path} is cut off after {len(recording.intervals)} intervals: record it again, and let cwasi-trace end"
        )
    try:
        return load(recording.head, recording.intervals, costs(), channel)
    except BadSpec as error:
        raise BadSpec(f"{path}: {error}") from None
