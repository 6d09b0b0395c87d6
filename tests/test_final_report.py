"""What a host process says at its end: what cannot be is refused, and takes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cwasi_fastpath import errors, final_report
from cwasi_fastpath.endpoint import HISTOGRAM_BUCKETS
from cwasi_fastpath.final_report import Outcome
from cwasi_fastpath.metrics import EndMetrics, EndReport
from cwasi_fastpath.process import HostProcess

COUNTED = EndMetrics(5, 500, 0, 1, 2, 3, 0, (0, 4, *([0] * (HISTOGRAM_BUCKETS - 2))))
HONEST = Outcome(
    (EndReport("lab", "a", True, COUNTED), EndReport("lab", "b", False, COUNTED, (COUNTED, COUNTED))),
    {"a": 0.5, "b": 0},
)


def sent() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(final_report.plain(HONEST)))
    return found


def test_what_is_written_is_read() -> None:
    assert final_report.read(sent(), ["a", "b"]) == HONEST
    assert final_report.read(None, ["a"]) == Outcome()


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "many buckets": lambda done: done["ends"][0]["metrics"].update(buckets=300_000_000),
    "fewer than none": lambda done: done["ends"][0]["metrics"].update(buckets=-1),
    "buckets in words": lambda done: done["ends"][0]["metrics"].update(buckets="9"),
    "a bucket that is none": lambda done: done["ends"][0]["metrics"].update(latency=[[HISTOGRAM_BUCKETS, 1]]),
    "a bucket from behind": lambda done: done["ends"][0]["metrics"].update(latency=[[-1, 1]]),
    "a count that is none": lambda done: done["ends"][0]["metrics"].update(latency=[[1, float("nan")]]),
    "no pairs": lambda done: done["ends"][0]["metrics"].update(latency=[1]),
    "no latency": lambda done: done["ends"][0]["metrics"].pop("latency"),
    "too many": lambda done: done["ends"][0]["metrics"].update(messages=2**64),
    "a truth": lambda done: done["ends"][0]["metrics"].update(messages=True),
    "below 0": lambda done: done["ends"][1]["sources"][0].update(bytes=-7),
    "ends that are a number": lambda done: done.update(ends=5),
    "ends that are words": lambda done: done.update(ends="ab"),
    "no name": lambda done: done["ends"][0].update(channel=7),
    "neither side": lambda done: done["ends"][0].update(sends="yes"),
    "for others": lambda done: done["ends"][0].update(function="c"),
    "time of others": lambda done: done["cpu_seconds"].update(c=1.0),
    "time without end": lambda done: done["cpu_seconds"].update(a=float("inf")),
    "time in words": lambda done: done["cpu_seconds"].update(a="x"),
    "no times": lambda done: done.update(cpu_seconds=[]),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be(lie: str) -> None:
    done = sent()
    LIES[lie](done)
    with pytest.raises(ValueError, match=r"."):
        final_report.read(done, ["a", "b"])


@pytest.mark.parametrize("done", [1, "x", [], [{}], {}, True])
def test_what_is_no_report(done: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        final_report.read(done, ["a"])


def test_who_has_started_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one that has died."""
    process = HostProcess.__new__(HostProcess)
    process.functions = ["a"]
    monkeypatch.setattr(HostProcess, "pid", 7)
    with pytest.raises(errors.HostDied, match=r"of a \(pid 7\) speaks nonsense at its end: it speaks for functions of"):
        process.outcome({"done": sent()})
