"""cwasi calibrate: what is measured, the file that keeps it, and which files are not believed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest
from channels import HANG

from cwasi_fastpath import calibrated, calibration, paced_ways, prediction_check, timed_ways, two_sides
from cwasi_fastpath.cache import ENVIRONMENT
from cwasi_fastpath.calibrated import Calibration, Message, Rest, Timed
from cwasi_fastpath.cli.calibrate_page import page, shares
from cwasi_fastpath.errors import Unavailable
from cwasi_fastpath.modes import Transport
from cwasi_fastpath.policy import Cores, Way

TIME = Timed(1000.0, 900.0, 1300.0, 9)
MESSAGE = Message(TIME, 500.0, 1500.0)
FOUND = Calibration(
    hop=60.0,
    measured_at=1e9,
    seconds=0.5,
    ways={
        Way(Transport.RING, Cores.TWO): {64: MESSAGE, 4096: MESSAGE},
        Way(Transport.REDIS): {64: MESSAGE, 99: MESSAGE},
    },
    rests={Way(Transport.RING, Cores.TWO): (Rest(3e5, 30e3, 0.1), Rest(2e6, 40e3, 0.2))},
    switches={Transport.PIPE: TIME},
    wake=20000.0,
    turn=TIME,
    server=calibrated.server_key("unix:///run/redis.sock"),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file goes."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "cache"))
    return tmp_path / "cache"


def calibrate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cwasi_fastpath.cli", "calibrate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG)


def measured(cache: Path, *arguments: str) -> str:
    """What it printed; on a machine that is too busy it says so, and keeps nothing."""
    before = [entry.read_bytes() for entry in cache.glob("*")]
    done = calibrate(*arguments)
    if done.returncode == 69:
        assert "this machine is too busy" in done.stderr, done
        assert [entry.read_bytes() for entry in cache.glob("*")] == before
        pytest.skip("the cores of this machine are not free")
    assert done.returncode == 0, done
    return done.stdout


def test_measures_every_way_and_keeps_it(cache: Path) -> None:
    told = json.loads(measured(cache, "--json"))
    assert told["measured_now"] and told["because"] == "nothing was measured yet"
    assert told["file"] == str(cache / "calibration.json")
    assert {Way.parse(way) for way in told["ways"]} == set(timed_ways.ways())
    for cells in told["ways"].values():
        assert [int(size) for size in cells] == list(timed_ways.SIZES)
        assert all(0 < c["latency"]["low"] <= c["latency"]["ns"] <= c["latency"]["high"] for c in cells.values())
    assert set(told["switches"]) == {"ring", "pipe", "tcp"}
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [(entry.name, stat.S_IMODE(entry.stat().st_mode)) for entry in cache.iterdir()] == [
        ("calibration.json", 0o600)
    ]
    [kept], _ = calibrated.load()
    assert kept.as_plain().items() <= told.items()


def test_forced_and_for_people(cache: Path) -> None:
    calibrated.store(replace(FOUND, hop=calibration.hop_ns(400)))
    shown = measured(cache, "--force")
    assert "measured now, since it was asked for" in shown and str(cache) in shown
    for words in ("ring/one core", "pipe", "tcp", "4 MiB", "a switch to ring"):
        assert words in shown


def test_a_server_that_does_not_answer(cache: Path) -> None:
    done = calibrate("--redis", f"unix://{cache}/none.sock")
    assert done.returncode == 69 and "none.sock" in done.stderr and not list(cache.iterdir())


def test_a_directory_for_others_is_refused(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o755)
    done = calibrate()
    assert done.returncode == 74 and "open to others" in done.stderr, done
    assert not list(cache.iterdir())


def test_each_regime_and_each_server_has_a_table(cache: Path) -> None:
    far, bare = replace(FOUND, hop=230.0, measured_at=2e9), replace(FOUND, server="", measured_at=3e9)
    for one in (FOUND, far, bare):
        calibrated.store(one)
    known, why = calibrated.load()
    assert (len(known), why) == (3, "")
    assert calibrated.suiting(known, 200.0, "unix:///run/redis.sock") == far
    assert calibrated.suiting(known, 66.0, "unix:///run/redis.sock") == FOUND
    assert calibrated.suiting(known, 66.0) == bare
    assert calibrated.suiting(known, 120.0) is None and calibrated.suiting(known, 0.0) is None
    later = replace(far, measured_at=4e9)
    calibrated.store(later)
    assert calibrated.load()[0] == (later, bare, FOUND), "in place of the old one"


def test_a_table_is_what_a_policy_predicts_from(cache: Path) -> None:
    curve = FOUND.curves("unix:///run/redis.sock")[Way(Transport.REDIS)]
    assert (curve.sizes, curve.latency_ns, curve.stream_ns, curve.cpu_ns) == (
        (64.0, 99.0), (1000.0, 1000.0), (500.0, 500.0), (1500.0, 1500.0)
    )  # fmt: skip
    placed = FOUND.curves()[Way(Transport.RING, Cores.TWO)]
    assert (placed.pauses, placed.rest_ns, placed.rest_byte) == ((3e5, 2e6), (30e3, 40e3), (0.1, 0.2))
    assert set(FOUND.curves("redis://other")) == set(FOUND.curves()) == {Way(Transport.RING, Cores.TWO)}


def test_hosts_take_what_is_kept_for_their_regime(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "SAME_REGIME", 1e9)   # whatever the neighbours on this machine do
    calibrated.store(replace(FOUND, hop=calibration.hop_ns(400), server=""))
    calibration.costs.cache_clear()
    try:
        found = calibration.costs()
    finally:
        calibration.costs.cache_clear()   # those that come after shall not have it
    assert set(found.curves) == set(FOUND.ways) and found.switch == {Transport.PIPE: 1000.0}
    assert found.wake == FOUND.wake


def test_the_file_does_not_grow_without_end(cache: Path) -> None:
    for power in range(1, 30):
        calibrated.store(replace(FOUND, hop=1.7**power))
    assert [round(one.hop) for one in calibrated.load()[0]] == [round(1.7**power) for power in range(29, 23, -1)]


def _plain(**changes: Any) -> str:
    regime = {**FOUND.as_plain(), **changes}
    return json.dumps({"schema": 2, "machine": calibrated.machine(), "regimes": [regime]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"schema": 2}',
        "[" * 100_000,
        _plain(hop_ns=float("nan")),
        _plain(wake_ns=float("inf")),
        _plain(wake_ns=-1),
        _plain(seconds="1"),
        _plain(ways={"ring/nine cores": {}}),
        _plain(ways={"ring": {"64": {}}}),
        _plain(ways={"ring": {"64": 1, "x": 2}}),
        _plain().replace('"4096"', '"' + "9" * 400 + '"'),
        _plain(ways=[1]),
        _plain(switches={"ring": {"ns": 2, "low": 3, "high": 1, "values": 1}}),
        _plain(turn={"ns": 1, "low": 1, "high": 1, "values": 0}),
        _plain(server=7),
        _plain().replace(calibrated.machine(), "0" * 32),
        _plain(ways={"ring": {"64": {**asdict(MESSAGE), "parked": 2}, "99": asdict(MESSAGE)}}),
        _plain(rests={"ring": [{"pause": 0, "ns": 1, "byte": 1}]}),
        _plain(rests={"ring": 2 * [{"pause": 1, "ns": 1, "byte": 1}]}),
        _plain(rests={"ring": [{"pause": 1}]}),
        _plain().replace('"schema": 2', '"schema": 1'),
    ],
)
def test_a_damaged_or_foreign_file_is_as_if_it_were_not_there(cache: Path, text: str) -> None:
    cache.mkdir(mode=0o700)
    (cache / "calibration.json").write_text(text)
    (cache / "calibration.json").chmod(0o600)
    known, why = calibrated.load()
    assert known == () and str(cache) in why
    calibrated.store(FOUND)
    assert calibrated.load()[0] == (FOUND,), "and is done anew"


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.chmod(0o666),
        lambda file: file.parent.chmod(0o755),
        _link,
        _pipe,
        lambda file: os.chown(file, 65534, -1),
        lambda file: os.chown(file.parent, 65534, -1),
    ],
    ids=["file for others", "directory for others", "link", "pipe", "another's file", "another's directory"],
)
def test_a_file_that_others_could_write_is_not_read(cache: Path, spoil: Callable[[Path], None]) -> None:
    calibrated.store(FOUND)
    try:
        spoil(cache / "calibration.json")
    except PermissionError:
        pytest.skip("only root can give a file away")
    known, why = calibrated.load()
    assert known == () and why


def test_a_user_without_a_home() -> None:
    """As in a container, whose uid is in no list of users."""
    command = (
        "import os; os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
        "from cwasi_fastpath import cache, calibrated\n"
        "assert calibrated.load()[0] == ()\n"
        "print(cache.directory())\n"
    )
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("HOME", "XDG_CACHE_HOME", ENVIRONMENT)}  # fmt: skip
    run = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=HANG)
    assert run.returncode == 0 and "54321" in run.stdout, run


# ---- messages with pauses, and how far predictions are off ----


def test_who_waited_for_a_core_does_not_count_and_where_most_did_nothing_is_known() -> None:
    assert paced_ways.undisturbed([1000.0] * 9 + [3e6]) == 1000.0
    assert paced_ways.undisturbed([500.0] * 9 + [40_000.0]) == 4450.0, "a sleeper does"
    assert paced_ways.undisturbed([1000.0, 1000.0, 3e6, 3e6]) is None


def test_a_pause_after_which_others_had_the_cores_each_time_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a server has to wait for the core of who keeps time."""
    took = {1024: 250e3, 96 << 10: 260e3}
    monkeypatch.setattr(paced_ways, "warm", lambda *args: None)
    monkeypatch.setattr(paced_ways, "paced", lambda *args: paced_ways.Paced(took[args[2]], 1.0, 0.0))
    sides = cast(timed_ways.Sides, {Way(Transport.REDIS): (None, None)})
    found = paced_ways.rest_times(sides, lambda way, size: 100e3)[Way(Transport.REDIS)]
    assert [(rest.pause, rest.ns) for rest in found] == [(3e5, 150e3), (2e6, 150e3)]
    took[1024] = 2.2e6
    assert not paced_ways.rest_times(sides, lambda way, size: 100e3)


def test_a_side_that_waits_without_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a server that does not answer."""
    monkeypatch.setattr(two_sides, "LATEST", 0.01)
    with pytest.raises(Unavailable, match=r"did not come in 0\.01 s"):
        two_sides.both(Future(), Future())


def test_two_ends_pass_messages_with_pauses() -> None:
    way = Way(Transport.PIPE)
    with timed_ways.all_sides([way], largest=4096) as sides:
        paced_ways.warm(*sides[way], 64)
        seen = paced_ways.paced(*sides[way], 64, 1_000_000, 5)
        assert sides[way][1].saw.ended > 0
    assert seen is None or (seen.ns > 0 and 0 <= seen.parked <= 1 and seen.together in (0.0, 0.5, 1.0))


CASES = [
    prediction_check.Case("ring", 256, 0, 110.0, 150.0, 100.0, 100.0, 105.0),
    prediction_check.Case("ring", 4096, 1000, 260.0, 100.0, 100.0, 100.0, 90.0),
    prediction_check.Case("pipe", 256, 0, 30e3, 30e3, 40e3, 40e3, 41e3),
]


def test_a_page_of_a_check() -> None:
    text = page(CASES, {"cpu": "<one>"}, ["way", "half"], [["ring", "85%"]])
    assert text.count("<svg") == 2 and text.count("<circle") == len(CASES)
    assert "ring, 4 KiB, 1,000/s: 260 ns predicted, 100 ns measured, +160%" in text
    assert "&lt;one&gt;" in text and "<script" not in text and "src=" not in text
    assert text.count('class="k1 noise"') == text.count('class="k2 noise"') == 1


def test_what_part_of_the_predictions_is_off_by_no_more() -> None:
    assert shares([0.5, 0.1]) == [(0.0, 0.0), (0.1, 0.0), (0.1, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]
    assert shares([1.6]) == [(0.0, 0.0), (1.0, 0.0)], "it is beyond the end"


def test_a_page_is_of_a_check(cache: Path, tmp_path: Path) -> None:
    done = calibrate("-o", str(tmp_path / "x.html"))
    assert done.returncode == 2 and "-o is for --check" in done.stderr
    done = calibrate("--check", "-o", str(tmp_path / "no" / "x.html"))
    assert done.returncode == 1 and "No such file" in done.stderr and not cache.exists()


def test_a_check_predicts_what_it_then_measures_in_rounds() -> None:
    try:
        found = calibration.calibrate()
        cases = prediction_check.check(calibration.costs_by(found), rounds=range(2))
    except Unavailable:
        pytest.skip("the cores of this machine are not free")
    assert {case.way for case in cases if not case.rate} == set(map(str, timed_ways.ways()))
    assert {case.size for case in cases if not case.rate} == set(prediction_check.SIZES)
    assert {case.rate for case in cases} <= {0, *prediction_check.RATES}
    assert not set(prediction_check.SIZES) & {*timed_ways.SIZES, *paced_ways.SIZES}
    for case in cases:
        assert min(case.predicted, case.kept, case.once, case.again) > 0
        assert case.measured == pytest.approx((case.once + case.again) / 2), "the median of two"
        assert case.measured * (1 + case.deviation) == pytest.approx(case.predicted)
        assert case.error == abs(case.deviation) and case.noise == abs(case.again - case.once) / case.once
    assert any(case.kept != case.predicted for case in cases), "it was calibrated anew"
