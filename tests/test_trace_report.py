"""Reports of the tracer are subtracted right. Pure: runs everywhere."""

from __future__ import annotations

import pytest

from cwasi_fastpath.metrics import Process, SyscallRow, TraceReport


def report_of(*rows: SyscallRow, lost: int = 0, seconds: float = 1.0) -> TraceReport:
    return TraceReport(rows, lost, 0, seconds, 100.0)


def test_since_is_the_difference() -> None:
    earlier = report_of(
        SyscallRow("f", "read", 1, 10, 5), SyscallRow(Process(1 << 33, 2, "sh"), "read", 3, 30, 9), lost=1
    )
    later = report_of(
        SyscallRow("f", "read", 1, 10, 5),
        SyscallRow("f", "write", 2, 20, 7),
        SyscallRow(Process(1 << 33, 2, "dd"), "read", 13, 130, 19),
        lost=4,
        seconds=3.0,
    )
    difference = later.since(earlier)
    assert difference.rows == (
        SyscallRow(Process(1 << 33, 2, "dd"), "read", 10, 100, 10),
        SyscallRow("f", "write", 2, 20, 7),
    )
    assert (difference.lost, difference.seconds, difference.calls) == (3, 2.0, 12)
    assert difference.overhead_seconds == pytest.approx(1.2e-6)
