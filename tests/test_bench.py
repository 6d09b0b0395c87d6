"""Statistics on plain data, the rounds with a measurement that is made up, and the command as a whole.

No test asserts a time: those that run for real check what was counted, and that figures are there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import psutil
import pytest
from channels import descriptors
from click.testing import CliRunner

from cwasi_fastpath import errors
from cwasi_fastpath.bench import c_ends, floors, guests
from cwasi_fastpath.bench.case import (
    BYTE_FLOORS,
    COST,
    OWN_PATHS,
    P50,
    P99,
    RATE,
    RAW_PATHS,
    REDIS_PATHS,
    SHARE,
    Case,
    Cores,
    Ends,
    How,
    Kind,
    Path,
    Sample,
)
from cwasi_fastpath.bench.goals import PROMISES, Goal
from cwasi_fastpath.bench.matrix import (
    BUFFERS,
    BURST,
    FLOWS,
    HOP,
    IDLE,
    LENT,
    LENT_COPY,
    OWN_WORK,
    PASSES,
    SEND_COST,
    TURNS,
    WRITTEN,
    YIELD,
    all_cases,
    transport_cases,
)
from cwasi_fastpath.bench.page import page
from cwasi_fastpath.bench.pair import Pair
from cwasi_fastpath.bench.remote_ends import RemoteEnds
from cwasi_fastpath.bench.report import Report, goal_texts, topics
from cwasi_fastpath.bench.rounds import FAR_FROM_NS, Outcome, Regime, Round, Settings, run_rounds
from cwasi_fastpath.bench.stats import estimate, quantile_of, ratios
from cwasi_fastpath.bench.summary import summarize
from cwasi_fastpath.bench.task import Task
from cwasi_fastpath.bench.units import plain_text, rate_text, share_text, size_text, time_text
from cwasi_fastpath.cli.bench import bench

KIB, MIB = 1 << 10, 1 << 20
NEAR, FAR = FAR_FROM_NS / 2, FAR_FROM_NS * 2
ENVIRONMENT: dict[str, str | int] = {
    name: "<1>" for name in ("cpu", "cores", "kernel", "redis-server", "redis-py", "hiredis", "wasmtime")
}
CASES = all_cases((KIB, MIB), cores=2)
PACKAGES = {Path.ZMQ: "zmq", Path.ICEORYX: "iceoryx2"}

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")


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


# ---- cases ----


def test_cases_have_names_of_their_own() -> None:
    cases = all_cases((64, MIB, 100_000_000), cores=2, full=True)
    assert len({case.key for case in cases}) == len(cases) == len(set(cases))
    assert Case(Kind.LATENCY, Path.RING, 64, Ends.C, Cores.ONE).key == "latency/c/ring/one-core/waiting/64"


def test_one_core_leaves_out_what_needs_two() -> None:
    cases = all_cases((64, MIB), cores=1)
    assert cases and not any(case.cores is Cores.TWO for case in cases)
    assert IDLE in cases and YIELD in cases and HOP not in cases


def test_large_messages_are_measured_a_few_ways_unless_everything_is() -> None:
    few, all_of_them = (all_cases((100_000_000,), cores=2, full=full) for full in (False, True))
    assert len([case for case in few if case.kind is Kind.LATENCY]) == 3
    assert set(few) < set(all_of_them)
    assert not any(case.how is How.SPINNING for case in all_of_them if case.size > MIB)


# ---- rounds ----


def made_up(case: Case, count: int) -> Sample:
    """Ring 10 us, its windows 5, pipe 100, Redis 0.5 to 2 ms, others 20 us; streaming a message takes the same."""
    slow = {Path.LIST: 1e6, Path.STREAM: 2e6, Path.TUNED_LIST: 5e5, Path.TUNED_STREAM: 2e6}
    ns = {Path.RING: 1e4, Path.WINDOWS: 5e3, Path.PIPE: 1e5, **slow}.get(case.path, 2e4)
    rate, cost = {RATE: case.size * 1e9 / ns}, {COST: 60.0 if case.kind is Kind.SEND_COST else ns}
    figures = {
        Kind.LATENCY: {P50: ns, P99: 2 * ns},
        Kind.BURST: {P50: ns, P99: 2 * ns},
        Kind.THROUGHPUT: rate,
        Kind.FLOW: rate,
        Kind.PASS: cost,
        Kind.SEND_COST: cost,
        Kind.IDLE: {SHARE: 0.001},
        Kind.FLOOR: rate if case.path in BYTE_FLOORS else cost,
    }
    return Sample(count, count * ns / 1e9, figures[case.kind])


def run(hops: list[float], rounds: int = 2, unavailable: Path | None = None) -> tuple[Outcome, list[tuple[Case, int]]]:
    calls: list[tuple[Case, int]] = []

    def measure(case: Case, count: int) -> Sample:
        calls.append((case, count))
        if case.path is unavailable:
            raise errors.Unavailable("not installed. Remedy: install it")
        return made_up(case, count)

    settings = Settings((KIB, MIB), rounds, 4.0, 1)
    probes = iter(hops)
    return run_rounds(settings, CASES, measure, lambda: next(probes), lambda case: None), calls


def test_every_round_measures_every_case_once_in_its_own_order() -> None:
    outcome, calls = run([NEAR] * 6)
    assert len(outcome.rounds) == 2 and all(set(item.samples) == set(CASES) for item in outcome.rounds)
    orders = [[case for case, _ in calls[start : start + len(CASES)]] for start in range(0, len(calls), len(CASES))]
    assert len(orders) == 3 and all(set(order) == set(CASES) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert calls == run([NEAR] * 6)[1]


def test_counts_follow_the_time_there_is() -> None:
    _, calls = run([NEAR] * 6)
    redis = Case(Kind.LATENCY, Path.LIST, KIB, Ends.PYTHON, Cores.ANY)
    counts = [count for case, count in calls if case == redis]
    assert counts[1] == counts[2] == max(4, int(4.0 / (2 * len(CASES)) / 1e-3))
    assert {count for case, count in calls if case == IDLE} == {100}


def test_a_round_belongs_to_a_regime_or_to_none() -> None:
    outcome, _ = run([NEAR, NEAR, NEAR, NEAR, FAR, FAR, NEAR, FAR], rounds=3)
    assert [item.regime for item in outcome.rounds] == [Regime.NEAR, Regime.FAR, Regime.MIXED]
    assert [(found.regime, found.rounds) for found in summarize(outcome, 1)] == [(Regime.NEAR, 1), (Regime.FAR, 1)]


def test_what_is_unavailable_is_tried_once_and_hurts_nothing_else() -> None:
    outcome, calls = run([NEAR] * 6, unavailable=Path.ZMQ)
    zmq = {case for case in CASES if case.path is Path.ZMQ}
    assert set(outcome.missing) == zmq and sum(case in zmq for case, _ in calls) == len(zmq)
    assert all(set(item.samples) == set(CASES) - zmq for item in outcome.rounds)
    (summary,) = summarize(outcome, 1)
    rows = [row for topic in topics(summary) for row in topic.rows if row[0].startswith("zeromq")]
    assert len(rows) == len(zmq) and all("missing" in row and "Remedy" in row[-2] + row[-1] for row in rows)


# ---- summary, report ----


def test_the_ring_is_compared_with_the_better_of_redis() -> None:
    (summary,) = summarize(run([NEAR] * 6)[0], 1)
    assert summary.against_redis[Case(Kind.LATENCY, Path.RING, KIB)].median == pytest.approx(99.0)
    assert summary.against_redis[Case(Kind.THROUGHPUT, Path.PIPE, MIB)].median == pytest.approx(10.0)
    assert summary.against_tuned[Case(Kind.LATENCY, Path.RING, KIB)].median == pytest.approx(98.0)
    assert all(case.path in OWN_PATHS for case in summary.against_redis)


def test_goals_are_ratios_of_the_same_round() -> None:
    (summary,) = summarize(run([NEAR] * 6)[0], 1)
    found = {(goal.name, goal.unit): goal for goal in summary.goals}
    assert len(found) == len(PROMISES)
    assert {key: (goal.measured.median, goal.verdict) for key, goal in found.items() if goal.measured} == {
        ("64 B every 10 us, p99", "us"): (20.0, "missed"),
        ("a receiver to whom nothing is sent", "% of a core"): (0.1, "met"),
        ("a guest's send of 64 B, with room", "ns"): (60.0, "met"),
        **{
            (f"1 MiB guest fills -> guest sums, {cores}, {means}", "x own work"): (factor, verdict)
            for means, factor in (("copies", 0.5), ("windows", 0.25))
            for cores, verdict in (("one core", "met"), ("two cores", "no goal"))
        },
        ("stream of 1 MiB fill -> sum, two cores, copies", "x plain buffers"): (2.0, "met"),
        ("stream of 1 MiB fill -> sum, two cores, windows", "x plain buffers"): (4.0, "met"),
        ("stream of 1 MiB, guest to guest, pipe", "x raw vmsplice"): (0.2, "missed"),
        ("stream of 1 MiB, guest to guest, pipe", "x vmsplice with a copy in"): (0.2, "no goal"),
        ("stream of 1 MiB, guest to guest, tcp", "x raw tcp"): (1.0, "no goal"),
        ("1 KiB, guest to guest", "% less than Redis"): (pytest.approx(99.0), "met"),
        ("1 MiB, guest to guest", "% less than Redis"): (pytest.approx(99.0), "met"),
        ("stream of 1 MiB, guest to guest, copies", "x Redis"): (pytest.approx(100.0), "met"),
        ("stream of 1 MiB, guest to guest, windows", "x Redis"): (pytest.approx(200.0), "met"),
    }
    assert found["64 B, C to C, spinning on two cores", "x a hop"].verdict == "not measured"


def test_every_goal_is_of_cases_that_there_are() -> None:
    cases = {case: made_up(case, 1) for case in all_cases((64, KIB, 64 * KIB, MIB, 100_000_000), cores=2)}
    (summary,) = summarize(Outcome([Round(NEAR, NEAR, cases)], {}), 1)
    assert [goal.name for goal in summary.goals if goal.measured is None] == []


@pytest.mark.parametrize(
    ("at_least", "values", "verdict"),
    [(True, [96.0], "met"), (True, [94.0], "missed"), (True, [94.0, 96.0], "undecided"), (False, [94.0], "met")],
)
def test_a_goal_is_met_only_by_its_whole_interval(at_least: bool, values: list[float], verdict: str) -> None:
    assert Goal("latency", "%", 95.0, at_least, estimate(values)).verdict == verdict


def test_without_a_wanted_value_a_figure_is_for_comparison() -> None:
    goal = Goal("latency", "x own work", None, False, estimate([3.0]))
    assert goal.verdict == "no goal" and goal_texts(goal)[1] == "x own work"
    assert Goal("latency", "x own work", None, False, None).verdict == "not measured"


def test_texts() -> None:
    sizes = [size_text(size) for size in (64, KIB, 3 * MIB // 2, 1 << 30, 100_000_000)]
    assert sizes == ["64 B", "1 KiB", "1.5 MiB", "1 GiB", "100 MB"]
    assert [time_text(ns) for ns in (99.0, 1500.0, 2e6, 3e9)] == ["99 ns", "1.5 us", "2 ms", "3 s"]
    assert [rate_text(rate) for rate in (8e8, 1.7e10)] == ["800 MB/s", "17 GB/s"]
    assert [plain_text(value) for value in (0.01234, 1.5678, 1271.4)] == ["0.0123", "1.57", "1271"]
    assert share_text(0.0005) == "0.05 %"


def test_the_page_needs_nothing_else_and_escapes() -> None:
    text = page(Report(Settings((KIB, MIB), 2, 4.0, 1), ENVIRONMENT, run([NEAR] * 6)[0]))
    assert text.count("<svg") == 2 and "&lt;1&gt;" in text and "<1>" not in text
    assert "http://" not in text and "https://" not in text and "<script" not in text


def test_a_page_of_a_single_small_size_has_no_throughput() -> None:
    cases = all_cases((64,), cores=2)
    rounds = [Round(NEAR, NEAR, {case: made_up(case, 1) for case in cases})]
    text = page(Report(Settings((64,), 1, 1.0, 1), ENVIRONMENT, Outcome(rounds, {})))
    assert text.count("<svg") == 1


def test_a_task_survives_its_line() -> None:
    task = Task("ping", Path.STREAM, How.WAITING, 64, 10, None, "unix:///somewhere", "key")
    assert Task.from_json(task.to_json()) == task


# ---- for real ----


@needs_two_cores
@pytest.mark.parametrize("path", [Path.RING, Path.WINDOWS, Path.PIPE, Path.STDIO])
@pytest.mark.parametrize("size", [8, 5000, MIB])
def test_guests_count_what_they_exchange(path: Path, size: int) -> None:
    echoed = guests.measure(Case(Kind.LATENCY, path, size), 30)
    assert echoed.messages == 60 and 0 < echoed.figures[P50] <= echoed.figures[P99]
    streamed = guests.measure(Case(Kind.THROUGHPUT, path, size), 30)
    assert streamed.messages == 30 and streamed.figures[RATE] > 0


def test_a_clock_that_was_looked_at_when_others_had_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes is taken off, and no message takes nothing."""
    played = [[5_000_000, 900, 1000, 1100], [50_000, 900, 1000, 1100]]
    monkeypatch.setattr(guests, "_play", lambda *how: played.pop(0))
    sample = guests.measure(Case(Kind.LATENCY, Path.RING, 64), 3)
    assert sample.figures[P50] == 475 and not played
    monkeypatch.setattr(guests, "_play", lambda *how: [5_000_000, 900, 1000, 1100])
    with pytest.raises(errors.Unavailable, match="others had the core whenever"):
        guests.measure(Case(Kind.LATENCY, Path.RING, 64), 3)


@needs_two_cores
@pytest.mark.parametrize("case", [*PASSES.values(), OWN_WORK, *FLOWS.values(), BUFFERS], ids=lambda case: case.key)
def test_what_is_filled_is_summed_up(case: Case) -> None:
    """The loops themselves check every message."""
    sample = (floors if case is BUFFERS else guests).measure(case, 20)
    assert sample.messages == 20 and sample.seconds > 0


@needs_two_cores
@pytest.mark.parametrize("case", [LENT, LENT_COPY], ids=lambda case: case.key)
def test_what_is_lent_to_a_pipe_is_read(case: Case) -> None:
    before = descriptors()
    sample = floors.measure(case, 20)
    assert sample.messages == 20 and sample.figures[RATE] > 0
    assert descriptors() == before


@needs_two_cores
@pytest.mark.parametrize(("case", "figure"), [(WRITTEN, RATE), (TURNS, COST)], ids=["written", "turns"])
def test_what_is_written_to_a_connection_is_read(case: Case, figure: str) -> None:
    before = descriptors()
    sample = floors.measure(case, 20)
    assert sample.messages >= 20 and sample.figures[figure] > 0
    assert descriptors() == before


@needs_two_cores
@pytest.mark.parametrize("path", [Path.RING, Path.WINDOWS])
def test_windows_pass_messages_without_a_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []

    class Counted(guests._Stage):
        def results(self, role: str) -> list[int]:
            copied.append(sum(channel.metrics().copied_bytes for channel in self.host.channels))
            return super().results(role)

    monkeypatch.setattr(guests, "_Stage", Counted)
    guests.measure(PASSES[path, Cores.ONE], 20)
    guests.measure(PASSES[path, Cores.ONE], 60)
    first = 2 * 2 * 4 * MIB   # bytes at most that are copied before, there and back
    if path is Path.WINDOWS:
        for count, total in zip((20, 60), copied, strict=True):
            before = total - count * 2 * 8   # without the answers
            assert 0 <= before <= first and before % (4 * MIB) == 0, "only of those that warm up"
        return
    for count, total in zip((20, 60), copied, strict=True):
        # A receiver that waits gets its message by one copy, another one by two.
        assert count * MIB <= total - count * 2 * 8 <= first + count * 2 * MIB


def test_sends_without_a_receiver_fit_in_the_ring() -> None:
    sample = guests.measure(SEND_COST, 20_000)
    assert sample.messages == 20_000 and sample.figures[COST] > 0


@needs_two_cores
@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize("size", [8, MIB])
def test_c_ends_count_what_they_exchange(how: How, size: int) -> None:
    case = Case(Kind.LATENCY, Path.RING, size, Ends.C, Cores.TWO, how)
    echoed = c_ends.measure(case, 30)
    assert echoed.messages == 60 and 0 <= echoed.figures[P50] <= echoed.figures[P99]


@needs_two_cores
def test_bursts_and_idle_channels() -> None:
    count = 3 * c_ends.BURST_MESSAGES
    burst = c_ends.measure(BURST, count + 1)
    assert burst.messages == count and burst.seconds >= count * c_ends.BURST_NS / 1e9
    assert 0 < burst.figures[P50] <= burst.figures[P99]
    idle = c_ends.measure(IDLE, 50)
    assert idle.seconds >= 0.05 and 0 < idle.figures[SHARE] < 1


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Pair(None, "no server here. Remedy: none") as found:
        yield found


@needs_two_cores
@pytest.mark.parametrize("kind", [Kind.LATENCY, Kind.THROUGHPUT])
@pytest.mark.parametrize(
    ("path", "how"),
    [*((path, How.WAITING) for path in (Path.RING, Path.PIPE, Path.MP_PIPE, Path.MP_SHARED, Path.ZMQ, Path.ICEORYX)),
     (Path.RING, How.SPINNING), (Path.ICEORYX, How.SPINNING)],
)  # fmt: skip
def test_two_processes_exchange_messages(pair: Pair, kind: Kind, path: Path, how: How) -> None:
    if path in PACKAGES:
        pytest.importorskip(PACKAGES[path])
    for size in (8, 5000, MIB):
        sample = pair.measure(Case(kind, path, size, Ends.PYTHON, Cores.TWO, how), 20)
        assert sample.messages == (40 if kind is Kind.LATENCY else 20) and sample.seconds > 0


def test_without_a_server_redis_is_unavailable(pair: Pair) -> None:
    for path in REDIS_PATHS:
        with pytest.raises(errors.RedisUnavailable, match="Remedy"):
            pair.measure(Case(Kind.LATENCY, path, 64, Ends.PYTHON, Cores.ANY), 1)


@pytest.mark.parametrize(("path", "package"), [(Path.ZMQ, "pyzmq"), (Path.ICEORYX, "iceoryx2")])
def test_what_is_not_installed_says_so(
    path: Path, package: str, tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of that name that cannot be imported, in the way of the real one."""
    name = PACKAGES[path]
    (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    case = Case(Kind.LATENCY, path, 64, Ends.PYTHON, Cores.ANY)
    with Pair(None) as found, pytest.raises(errors.Unavailable, match=f"not installed. Remedy: pip install {package}"):
        found.measure(case, 1)


def test_a_process_that_dies_is_replaced() -> None:
    case = Case(Kind.LATENCY, Path.MP_PIPE, 64, Ends.PYTHON, Cores.ANY)
    with Pair(None) as found:
        found.measure(case, 5)
        child = psutil.Process(found._peers[0]._process.pid)
        child.kill()
        child.wait()
        with pytest.raises(errors.Unavailable, match="died"):
            found.measure(case, 5)
        assert found.measure(case, 5).messages == 10


@needs_redis
def test_the_command_measures_everything(tmp_path: File) -> None:
    html = tmp_path / "bench.html"
    arguments = ["--quick", "--seconds", "0.5", "--rounds", "1", "--size", "64", "--size", "65536"]
    result = CliRunner().invoke(
        bench, ["channel", *arguments, "--json", "--html", str(html)], catch_exceptions=False
    )
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["schema"] == 3 and found["settings"]["sizes"] == [64, 65536] and len(found["rounds"]) == 1
    assert set(ENVIRONMENT) | {"iceoryx2", "pyzmq"} <= set(found["environment"])
    keys = {case.key for case in all_cases((64, 65536), cores=len(os.sched_getaffinity(0)))}
    for item in found["rounds"]:
        assert item["regime"] in list(Regime) and set(item["samples"]) | set(found["missing"]) == keys
        assert all(_plausible(sample) for sample in item["samples"].values())
    assert html.read_text().startswith("<!doctype html>")


@pytest.fixture
def one_regime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round is in no table whose cores changed meanwhile, or where it looks so as others had them."""
    monkeypatch.setattr(floors, "plausible_hop_ns", lambda: 100.0)


@needs_redis
@needs_two_cores
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl (apt install openssl)")
@pytest.mark.usefixtures("one_regime")
def test_the_command_measures_every_transport(tmp_path: File) -> None:
    html = tmp_path / "bench.html"
    arguments = ["--quick", "--seconds", "0.5", "--rounds", "1", "--size", "64", "--size", "65536"]
    result = CliRunner().invoke(
        bench, ["transport", *arguments, "--json", "--html", str(html)], catch_exceptions=False
    )
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["missing"] == {} and len(found["rounds"]) == 1
    keys = {case.key for case in transport_cases((64, 65536), cores=len(os.sched_getaffinity(0)))}
    assert set(found["rounds"][0]["samples"]) == keys
    assert all(_plausible(sample) for sample in found["rounds"][0]["samples"].values())
    text = html.read_text()
    assert all(f'class="{path}"' in text for path in (Path.TLS, Path.REDIS, Path.RAW_UNIX)) and "Goals" not in text


def test_every_transport_has_latency_and_throughput_at_every_size() -> None:
    cases = transport_cases((64, MIB), cores=2)
    # Of two sizes: five transports, four raw ways, one of which only streams, and two of Redis.
    assert len({case.key for case in cases}) == len(cases) == 2 * (2 * 5 + 4 + 3 + 2 * 2)
    assert {case.kind for case in transport_cases((100_000_000,), cores=2)} == {Kind.LATENCY}
    assert {case.cores for case in transport_cases((64,), cores=1)} == {Cores.ANY}


@needs_two_cores
@pytest.mark.parametrize("path", RAW_PATHS)
@pytest.mark.parametrize("kind", [Kind.LATENCY, Kind.THROUGHPUT])
def test_what_the_kernel_has_is_measured(path: Path, kind: Kind) -> None:
    if (path, kind) == (Path.VMSPLICE, Kind.LATENCY):
        pytest.skip("what is lent has no way back")
    before = descriptors()
    for count in (5, 250):
        sample = floors.measure(Case(kind, path, 5000, Ends.C), count)
        assert sample.figures[P50 if kind is Kind.LATENCY else RATE] > 0
        assert sample.messages == {Kind.LATENCY: 2 * min(count, 200), Kind.THROUGHPUT: count}[kind]
    assert descriptors() == before


def test_without_openssl_there_is_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with RemoteEnds(None, "no server. Remedy: none") as ends:
        for path, reason in ((Path.TLS, "apt install openssl"), (Path.REDIS, "no server")):
            with pytest.raises(errors.Unavailable, match=reason):
                ends.open("lab", Case(Kind.LATENCY, path, 64, Ends.C, Cores.ANY))


def _plausible(sample: dict[str, Any]) -> bool:
    return sample["messages"] > 0 and all(value >= 0 for value in sample["figures"].values())


@needs_two_cores
@pytest.mark.usefixtures("one_regime")
def test_the_command_prints_tables() -> None:
    arguments = ["--rounds", "1", "--seconds", "0.5", "--size", "64", "--only", "latency/c/", "--only", "mp-pipe"]
    result = CliRunner().invoke(bench, ["channel", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("ring, C", "mp-pipe, Python"))
    assert "guests" not in result.stdout.partition("Latency is one way")[0]
    assert "GOAL" not in result.stdout, "none was measured"
    assert max(map(len, result.stdout.splitlines())) <= 120


@pytest.mark.usefixtures("one_regime")
def test_without_a_server_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    arguments = ["--quick", "--seconds", "0.2", "--size", "64", "--only", "redis-list", "--only", "floor/c/memcpy",
                 "--only", "sched-yield"]  # fmt: skip
    result = CliRunner().invoke(bench, ["channel", *arguments], catch_exceptions=False)
    assert result.exit_code == 0 and "missing" in result.stdout and "sched-yield" in result.stdout
    assert "apt install redis-server" in " ".join(result.stdout.split())


@pytest.mark.parametrize("bad", [["--size", "0"], ["--size", str((1 << 30) + 1)], ["--rounds", "0"], ["--seconds", "0"],
                                 ["--html", "/nonexistent/page.html"], ["--only", "no such case"],
                                 ["--quick", "--full"]])  # fmt: skip
def test_bad_arguments_are_refused_before_anything_runs(bad: list[str]) -> None:
    result = CliRunner().invoke(bench, ["channel", *bad])
    assert result.exit_code == 2 and bad[0] in result.output
