"""Reports of the tracer are subtracted right. Pure: runs everywhere."""

from __future__ import annotations

import pytest

from cwasi_fastpath.trace_report import ClassRow, NetworkRow, Process, SchedulingRow, SyscallRow, TraceReport, merged


def report_of(
    *rows: SyscallRow,
    classes: tuple[ClassRow, ...] = (),
    scheduling: tuple[SchedulingRow, ...] = (),
    network: tuple[NetworkRow, ...] = (),
    lost: int = 0,
    seconds: float = 1.0,
) -> TraceReport:
    return TraceReport(
        *(rows, classes, scheduling, network, ()),
        *(lost, 0, 0, 0, 0),
        seconds=seconds,
        ns_per_call=100.0,
        ns_per_switch=200.0,
        light=False,
    )


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


def test_histograms_are_subtracted_bucket_by_bucket() -> None:
    earlier = report_of(classes=(ClassRow("f", "io", 3, 30, 5, (1, 2, 0)), ClassRow("f", "wait", 1, 9, 0, (0, 0, 1))))
    later = report_of(classes=(ClassRow("f", "io", 10, 90, 7, (1, 4, 5)), ClassRow("f", "wait", 1, 9, 0, (0, 0, 1))))
    assert later.since(earlier).classes == (ClassRow("f", "io", 7, 60, 2, (0, 2, 5)),)


def test_switches_are_subtracted() -> None:
    earlier = report_of(scheduling=(SchedulingRow("f", 1, 2, 0, 30, 4, 1, 3, (0, 1)),))
    later = report_of(
        scheduling=(SchedulingRow("g", 0, 1, 0, 9, 9, 0, 0, (0, 0)), SchedulingRow("f", 5, 3, 2, 70, 6, 5, 4, (2, 3)))
    )
    assert later.since(earlier).overhead_seconds == pytest.approx(6 * 200e-9)
    assert later.since(earlier).scheduling == (
        SchedulingRow("f", 4, 1, 2, 40, 2, 4, 1, (2, 2)),
        SchedulingRow("g", 0, 1, 0, 9, 9, 0, 0, (0, 0)),
    )


def test_traffic_is_subtracted_by_kind_and_means_are_those_of_the_difference() -> None:
    other = NetworkRow("f", "other", 1, 2, 3, 4, 5, 0, 0, 0, 0, 0)
    earlier = report_of(network=(NetworkRow("f", "tcp", 1, 10, 2, 20, 3, 1, 0, 4, 400, 40), other))
    later = report_of(network=(NetworkRow("f", "tcp", 5, 50, 2, 20, 9, 1, 7, 6, 500, 44), other))
    (row,) = later.since(earlier).network
    assert row == NetworkRow("f", "tcp", 4, 40, 0, 0, 6, 0, 7, 2, 100, 4)
    assert (row.srtt_us, row.cwnd) == (50.0, 2.0)
    assert (other.srtt_us, other.cwnd) == (None, None)


def test_rows_of_one_name_are_merged() -> None:
    rows = [ClassRow("other", "io", 1, 2, 3, (1, 0)), ClassRow("f", "io", 1, 1, 1, (0, 1))]
    assert merged([*rows, ClassRow("other", "io", 10, 20, 30, (4, 6))]) == [
        ClassRow("other", "io", 11, 22, 33, (5, 6)),
        rows[1],
    ]
