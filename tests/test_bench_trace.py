"""`cwasi bench trace` measures what real tracers cost; no test asserts a time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cwasi_fastpath.bench.empty_program import empty_programs
from cwasi_fastpath.bench.rounds import Regime
from cwasi_fastpath.bench.tracing import Figure, TracingRound, Watching, summaries
from cwasi_fastpath.cli.bench import bench
from cwasi_fastpath.errors import Error
from cwasi_fastpath.tracer import Check, TracerUnavailable, requirements

tracing = pytest.mark.skipif(
    any(check.status == "fail" for check in requirements()), reason="cannot trace here (see cwasi doctor)"
)


def round_of(nobody: float = 80.0, share: float = 0.5, lost: float = 0.0, hop: float = 100.0) -> TracingRound:
    calls = {watching: 2 * nobody for watching in Watching} | {Watching.NOBODY: nobody}
    figures = {figure: 0.1 for figure in Figure} | {Figure.SHARE: share, Figure.LOST: lost}
    return TracingRound(hop, hop, calls, figures)


@tracing
def test_everything_is_measured_and_judged(tmp_path: Path) -> None:
    """One run, in both forms: attaching takes its time."""
    page = tmp_path / "page.html"
    arguments = ["trace", "--quick", "--rounds", "1", "--json", "--html", str(page)]
    result = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    (one,) = report["rounds"]
    assert set(one["calls"]) == {str(watching) for watching in Watching}
    assert set(one["figures"]) == {str(figure) for figure in Figure}
    assert all(ns > 0 for ns in one["calls"].values())
    assert one["figures"]["of these lost"] == 0
    assert one["figures"]["attach, s"] > 0
    for summary in report["summaries"]:   # none where the machine changed meanwhile
        assert {goal["verdict"] for goal in summary["goals"]} <= {"met", "missed"}
        assert len(summary["goals"]) == 8
    text = page.read_text()
    assert "What tracing costs" in text
    assert len(report["summaries"]) == text.count("<svg") == len(re.findall("<h2>", text))


@tracing
def test_what_goes_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from cwasi_fastpath.bench import tracing

    with tracing._Talker("tracing_worker") as worker, pytest.raises(Error, match="JSONDecodeError"):
        monkeypatch.setattr(tracing.json, "dumps", str)
        worker.ask({"calls": 1})   # with quotes that JSON has not
        worker.heard()


def programs() -> int:
    """How many descriptors of this process are BPF programs, or what hangs them somewhere."""
    return sum("prog_id" in info.read_text() for info in Path("/proc/self/fdinfo").iterdir() if info.exists())


@tracing
def test_empty_programs_leave_nothing() -> None:
    before = programs()
    with empty_programs():
        assert programs() == before + 3   # the program, and its two links
    assert programs() == before


def test_who_cannot_trace_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from cwasi_fastpath.bench import tracing

    lack = Check("capabilities", "fail", "CAP_BPF missing", "run as root")
    monkeypatch.setattr("cwasi_fastpath.tracer.requirements", lambda: [lack])
    with pytest.raises(TracerUnavailable, match=r"CAP_BPF missing. Remedy: run as root"):
        tracing.measure(tracing.Plan(1, 1, 1.0), lambda step: pytest.fail(f"{step} was measured"))


def test_goals_are_ratios_of_one_round() -> None:
    """A machine that became slower by the half changes none of them."""
    (summary,) = summaries([round_of(80.0), round_of(120.0), round_of(80.0)], 1)
    assert summary.calls[Watching.FUNCTION].median == 160.0
    light = next(goal for goal in summary.goals if "--light" in goal.name)
    assert light.measured is not None
    assert (light.measured.low, light.measured.high, light.verdict) == (2.0, 2.0, "missed")
    others = next(goal for goal in summary.goals if "not traced" in goal.name)
    assert (others.measured.median if others.measured else None, others.verdict) == (1.0, "met")


def test_one_lost_call_of_all_rounds_is_seen() -> None:
    for lost, verdict in ((0.0, "met"), (1.0, "missed")):
        (summary,) = summaries([round_of()] * 20 + [round_of(lost=lost)], 1)
        assert next(goal for goal in summary.goals if "lost" in goal.name).verdict == verdict


def test_rounds_of_different_regimes_are_not_mixed() -> None:
    rounds = [round_of(), round_of(hop=300.0), TracingRound(100.0, 300.0, {}, {})]
    assert [(summary.regime, summary.rounds) for summary in summaries(rounds, 1)] == [(Regime.NEAR, 1), (Regime.FAR, 1)]


def test_a_page_that_cannot_be_written_is_said_before_anything_is_measured() -> None:
    result = CliRunner().invoke(bench, ["trace", "--html", "/nonexistent/page.html"])
    assert result.exit_code == 2 and "cannot be written" in result.output
