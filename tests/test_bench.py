"""Statistics on plain data, the rounds with a measurement that is made up, and the command as a whole.

No test asserts a time: those that run for real check what was counted, and that figures are there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path as File
from typing import Any

import pytest
from click.testing import CliRunner

from cwasi_fastpath import errors
from cwasi_fastpath.bench import guests
from cwasi_fastpath.bench.case import REDIS_PATHS, Case, Kind, Path, Sample, all_cases
from cwasi_fastpath.bench.page import page
from cwasi_fastpath.bench.redis_peer import Task
from cwasi_fastpath.bench.report import Report
from cwasi_fastpath.bench.rounds import FAR_FROM_NS, Regime, Round, Settings, run_rounds
from cwasi_fastpath.bench.stats import estimate, quantile_of, ratios
from cwasi_fastpath.bench.summary import Goal, rate_text, size_text, summarize, time_text
from cwasi_fastpath.cli.bench import bench

KIB, MIB = 1 << 10, 1 << 20
NEAR, FAR = FAR_FROM_NS / 2, FAR_FROM_NS * 2
ENVIRONMENT: dict[str, str | int] = {
    name: "<1>" for name in ("cpu", "cores", "kernel", "redis-server", "redis-py", "hiredis", "wasmtime")
}

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


# ---- stats ----


def test_the_median_lies_in_its_interval_which_lies_in_the_values() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    found = estimate(values)
    assert found.median == 3.0 and found.rounds == 5
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_equal_values_leave_no_doubt() -> None:
    found = estimate([7.0] * 9)
    assert (found.low, found.median, found.high) == (7.0, 7.0, 7.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [float(value * value % 17) for value in range(11)]
    assert estimate(values, seed=3) == estimate(values, seed=3)


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="no values"):
        estimate([])
    with pytest.raises(ValueError, match="no values"):
        quantile_of([], 0.5)


@pytest.mark.parametrize(("q", "expected"), [(0.0, 10.0), (0.5, 20.0), (0.75, 25.0), (1.0, 30.0)])
def test_quantiles_are_interpolated(q: float, expected: float) -> None:
    assert quantile_of([10.0, 20.0, 30.0], q) == expected


def test_ratios_are_paired() -> None:
    assert ratios([1.0, 9.0], [2.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError):
        ratios([1.0], [])


# ---- rounds ----


def made_up(case: Case, count: int) -> Sample:
    """Ring 10 us, pipe 100 us, Redis 0.5 to 2 ms; the same for what streaming a message takes."""
    slow = {Path.LIST: 1e6, Path.STREAM: 2e6, Path.TUNED_LIST: 5e5, Path.TUNED_STREAM: 2e6}
    ns = {Path.RING: 1e4, Path.PIPE: 1e5, **slow}[case.path]
    figures = {
        Kind.LATENCY: {"p50_ns": ns, "p99_ns": 2 * ns},
        Kind.THROUGHPUT: {"bytes_per_second": case.size * 1e9 / ns},
        Kind.SEND_COST: {"ns_per_call": 60.0},
    }
    return Sample(count, count * ns / 1e9, figures[case.kind])


def run(hops: list[float], rounds: int = 2) -> tuple[list[Round], list[tuple[Case, int]]]:
    calls: list[tuple[Case, int]] = []

    def measure(case: Case, count: int) -> Sample:
        calls.append((case, count))
        return made_up(case, count)

    settings = Settings((KIB, MIB), rounds, 4.0, 1)
    probes = iter(hops)
    return run_rounds(settings, all_cases(settings.sizes), measure, lambda: next(probes), lambda case: None), calls


def test_every_round_measures_every_case_once_in_its_own_order() -> None:
    cases = all_cases((KIB, MIB))
    rounds, calls = run([NEAR] * 6)
    assert len(rounds) == 2 and all(set(item.samples) == set(cases) for item in rounds)
    orders = [[case for case, _ in calls[start : start + len(cases)]] for start in range(0, len(calls), len(cases))]
    assert len(orders) == 3 and all(set(order) == set(cases) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert calls == run([NEAR] * 6)[1]


def test_counts_follow_the_time_there_is() -> None:
    _, calls = run([NEAR] * 6)
    counts = [count for case, count in calls if case == Case(Kind.LATENCY, Path.LIST, KIB)]
    budget = 4.0 / (2 * len(all_cases((KIB, MIB))))
    assert counts[1] == counts[2] == int(budget / 1e-3)


def test_a_round_belongs_to_a_regime_or_to_none() -> None:
    rounds, _ = run([NEAR, NEAR, NEAR, NEAR, FAR, FAR, NEAR, FAR], rounds=3)
    assert [item.regime for item in rounds] == [Regime.NEAR, Regime.FAR, Regime.MIXED]
    assert [(found.regime, found.rounds) for found in summarize(rounds, 1)] == [(Regime.NEAR, 1), (Regime.FAR, 1)]


# ---- summary, report ----


def test_the_ring_is_compared_with_the_better_of_redis() -> None:
    (summary,) = summarize(run([NEAR] * 6)[0], 1)
    assert summary.against_redis[Case(Kind.LATENCY, Path.RING, KIB)].median == pytest.approx(99.0)
    assert summary.against_redis[Case(Kind.THROUGHPUT, Path.PIPE, MIB)].median == pytest.approx(10.0)
    assert summary.against_tuned[Case(Kind.LATENCY, Path.RING, KIB)].median == pytest.approx(98.0)
    assert not any(case.path in REDIS_PATHS for case in summary.against_redis)
    assert {goal.name: goal.verdict for goal in summary.goals} == {
        "latency, 1 KiB": "met",
        "latency, 1 MiB": "met",
        "throughput, 1 MiB": "met",
        "send of 64 B": "met",
    }


@pytest.mark.parametrize(
    ("at_least", "values", "verdict"),
    [(True, [96.0], "met"), (True, [94.0], "not met"), (True, [94.0, 96.0], "undecided"), (False, [94.0], "met")],
)
def test_a_goal_is_met_only_by_its_whole_interval(at_least: bool, values: list[float], verdict: str) -> None:
    assert Goal("latency", "%", 95.0, at_least, estimate(values)).verdict == verdict


def test_texts() -> None:
    assert [size_text(size) for size in (64, KIB, 3 * MIB // 2, 1 << 30)] == ["64 B", "1 KiB", "1.5 MiB", "1 GiB"]
    assert [time_text(ns) for ns in (99.0, 1500.0, 2e6, 3e9)] == ["99 ns", "1.5 us", "2 ms", "3 s"]
    assert [rate_text(rate) for rate in (8e8, 1.7e10)] == ["800 MB/s", "17 GB/s"]


def test_the_page_needs_nothing_else_and_escapes() -> None:
    rounds, _ = run([NEAR] * 6)
    text = page(Report(Settings((KIB, MIB), 2, 4.0, 1), ENVIRONMENT, rounds))
    assert text.count("<svg") == 2 and "&lt;1&gt;" in text and "<1>" not in text
    assert "http://" not in text and "https://" not in text and "<script" not in text


def test_a_page_of_a_single_small_size_has_no_throughput() -> None:
    cases = all_cases((64,))
    rounds = [Round(NEAR, NEAR, {case: made_up(case, 1) for case in cases})]
    text = page(Report(Settings((64,), 1, 1.0, 1), ENVIRONMENT, rounds))
    assert text.count("<svg") == 1


def test_a_task_survives_its_line() -> None:
    task = Task("ping", Path.STREAM, "unix:///somewhere", "key", 64, 10)
    assert Task.from_json(task.to_json()) == task


# ---- for real ----


@pytest.mark.parametrize("path", [Path.RING, Path.PIPE])
@pytest.mark.parametrize("size", [8, 5000, MIB])
def test_guests_count_what_they_exchange(path: Path, size: int) -> None:
    echoed = guests.measure(Case(Kind.LATENCY, path, size), 30)
    assert echoed.messages == 60 and 0 < echoed.figures["p50_ns"] <= echoed.figures["p99_ns"]
    streamed = guests.measure(Case(Kind.THROUGHPUT, path, size), 30)
    assert streamed.messages == 30 and streamed.figures["bytes_per_second"] > 0


def test_sends_without_a_receiver_fit_in_the_ring() -> None:
    sample = guests.measure(Case(Kind.SEND_COST, Path.RING, 64), 20_000)
    assert sample.messages == 20_000 and sample.figures["ns_per_call"] > 0


@needs_redis
def test_the_command_measures_everything(tmp_path: File) -> None:
    html = tmp_path / "bench.html"
    arguments = ["--quick", "--seconds", "1", "--size", "64", "--size", "65536", "--json", "--html", str(html)]
    result = CliRunner().invoke(bench, ["channel", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["schema"] == 1 and found["settings"]["sizes"] == [64, 65536] and len(found["rounds"]) == 2
    assert {"cpu", "cores", "kernel", "redis-server", "redis-py", "hiredis", "wasmtime"} <= set(found["environment"])
    keys = {case.key for case in all_cases((64, 65536))}
    for item in found["rounds"]:
        assert item["regime"] in list(Regime) and set(item["samples"]) == keys
        assert all(_plausible(sample) for sample in item["samples"].values())
    assert html.read_text().startswith("<!doctype html>")


def _plausible(sample: dict[str, Any]) -> bool:
    return sample["messages"] > 0 and all(value > 0 for value in sample["figures"].values())


@needs_redis
def test_the_command_prints_tables() -> None:
    result = CliRunner().invoke(bench, ["channel", "--rounds", "1", "--seconds", "0.5", "--size", "64"])
    assert result.exit_code == 0 and "redis-stream" in result.stdout and "GOAL" in result.stdout


def test_without_a_server_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = CliRunner().invoke(bench, ["channel", "--quick"])
    assert isinstance(result.exception, errors.RedisUnavailable) and result.exception.exit_code == 69
    assert "apt install redis-server" in str(result.exception)


@pytest.mark.parametrize("bad", [["--size", "0"], ["--size", str((1 << 30) + 1)], ["--rounds", "0"], ["--seconds", "0"],
                                 ["--html", "/nonexistent/page.html"]])  # fmt: skip
def test_bad_arguments_are_refused_before_anything_runs(bad: list[str]) -> None:
    result = CliRunner().invoke(bench, ["channel", *bad])
    assert result.exit_code == 2 and bad[0] in result.output
