"""A recording of cwasi-trace as a load: what was measured, what the model says, and what is no recording."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_cli_trace_recording import HEAD
from test_cli_trace_recording import interval as any_interval
from traces import COSTS, PIPE, RING, TCP

from cwasi_fastpath.errors import BadSpec
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import Locality, Transport
from cwasi_fastpath.policy import Way
from cwasi_fastpath.policy.comparisons import policy_named
from cwasi_fastpath.policy.model import Conditions, estimate
from cwasi_fastpath.policy.recorded_load import load
from cwasi_fastpath.policy.replay import replay
from cwasi_fastpath.policy.trace import Trace, lines_of, read
from cwasi_fastpath.policy.way import ONE_CORE, TWO_CORES
from cwasi_fastpath.tracer import requirements

REDIS = Way(Transport.REDIS)
Told = dict[str, Any]


def end(sends: bool, **changes: Any) -> Told:
    """Of 1,000 messages of 256 bytes, of which the receiver slept for 250; 10 were timed, at 700 ns each."""
    direction, timed = ("sends", 0) if sends else ("receives", 10)
    return {
        **{"channel": "frames", "function": "source" if sends else "sink", "direction": direction, "peers": []},
        **{"transport": "ring", "mode": "local", "messages": 1000, "bytes": 256_000, "parks": 3 if sends else 250},
        **{"timed": timed, "timed_ns": 700 * timed, "calls_ns": 5, "waited_ns": 0, "copying_ns": 0},
        **changes,
    }


def pair(**changes: Any) -> list[Told]:
    return [end(True, **changes), end(False, **changes)]


def interval(*ends: Told, heard: str = "", **changes: Any) -> Told:
    told = {"channel": "frames", "sender": "pid 1", "receivers": [], "transport": heard, "mode": "", "messages": 1}
    return any_interval(1, tax={"functions": [], "channels": list(ends)}, channels=[told], **changes)


def loaded(*intervals: Told, channel: str | None = None) -> Trace:
    return load(HEAD, intervals, COSTS, channel)


# ---- what becomes of it ----


def test_an_interval_in_which_messages_came_is_a_block() -> None:
    found = loaded(interval(*pair(), seconds=0.5), interval(seconds=2.0), interval(*pair(messages=10), seconds=0.25))
    first, second = found.blocks
    assert found.name == "frames" and found.changes is None and found.costs is COSTS
    assert (first.at, first.seconds, first.messages, first.size) == (0.0, 0.5, 1000, 256.0)
    assert (second.at, second.seconds, second.messages) == (2.5, 0.25, 10)
    assert first.facts.locality is Locality.PROCESS
    here = first.measured[RING]
    assert (here.latency_ns, here.parked, here.modelled) == (700.0, 0.25, False)
    assert here.rate is None, "whether each message waits for an answer is not recorded"


def test_other_ways_are_priced_by_the_model_and_marked() -> None:
    (block,) = loaded(interval(*pair())).blocks
    seen = Observation(1000, 256.0, 0.25, 1.0, latency_ns=700.0, rate=1000.0)
    assert block.measured.keys() == {RING, ONE_CORE, TWO_CORES, PIPE, TCP}
    for way in block.measured.keys() - {RING}:
        said, one = estimate(COSTS, way, Conditions.of(seen, RING)), block.measured[way]
        assert one.modelled and (one.latency_ns, one.cpu_ns) == (said.latency, said.cpu)


@pytest.mark.parametrize(
    "changes",
    [{"timed": 0, "timed_ns": 0}, {"timed_ns": 10 * 2_000_001}],
    ids=["nothing was timed", "1,000 a second, 2 on their way all the time"],
)
def test_where_latency_was_not_measured_or_says_nothing(changes: Told) -> None:
    found = loaded(interval(end(True), end(False, **changes)), interval(*pair()))
    seen, known = (block.measured[RING] for block in found.blocks)
    assert seen.modelled and seen.latency_ns not in (0.0, 2_000_001) and not known.modelled
    assert "measured in 1 of 2 blocks" in found.note and found.about["note"] == found.note
    assert "priced by the model: their regret is the model's, not measured" in found.note


def test_of_an_older_tracer_there_are_no_times() -> None:
    ends = [{name: told for name, told in one.items() if "timed" not in name} for one in pair()]
    assert loaded(interval(*ends)).blocks[0].measured[RING].modelled


def test_without_its_sender_the_receiver_tells() -> None:
    (block,) = loaded(interval(end(False, messages=8, bytes=64))).blocks
    assert (block.messages, block.size) == (8, 8.0)


BOTH, SENDER = pair, lambda **changes: [end(True, **changes)]


@pytest.mark.parametrize(
    ("ends", "transport", "mode", "locality", "ways"),
    [
        (BOTH, "ring", "proximal", Locality.NODE, {RING, PIPE, TCP}),
        (BOTH, "pipe", "proximal", Locality.NODE, {RING, PIPE, TCP}),
        (SENDER, "pipe", "proximal", Locality.NODE, {RING, PIPE, TCP}),
        (BOTH, "tcp", "remote", Locality.NODE, {RING, PIPE, TCP}),
        (SENDER, "tcp", "remote", Locality.ELSEWHERE, {TCP}),
        (SENDER, "redis", "remote", Locality.ELSEWHERE, {TCP, REDIS}),
        (BOTH, "redis", "remote", Locality.NODE, {RING, PIPE, TCP, REDIS}),
    ],
)
def test_where_the_peer_is(
    ends: Callable[..., list[Told]], transport: str, mode: str, locality: Locality, ways: set[Way]
) -> None:
    (block,) = loaded(interval(*ends(transport=transport, mode=mode))).blocks
    assert block.facts.locality is locality and block.measured.keys() == ways
    assert block.measured[Way(Transport(transport))].modelled is (ends is SENDER)


def test_a_pipe_leads_to_the_same_process_as_the_ring_before_it() -> None:
    found = loaded(interval(*pair()), interval(*pair(transport="pipe", mode="proximal")))
    assert [block.facts.locality for block in found.blocks] == [Locality.PROCESS] * 2
    assert not found.blocks[1].measured[PIPE].modelled and found.blocks[1].measured[RING].modelled


def test_cores_are_a_choice_of_two_functions_that_have_nobody_else() -> None:
    back = [end(sends, channel="back", function="sink" if sends else "source") for sends in (True, False)]
    other = end(True, channel="other", function="source")
    placed = {ONE_CORE, TWO_CORES}
    assert loaded(interval(*pair(), *back), channel="back").blocks[0].measured.keys() >= placed
    assert not placed & loaded(interval(*pair()), interval(other), channel="frames").blocks[0].measured.keys()
    assert not placed & loaded(interval(*pair(function=None))).blocks[0].measured.keys()
    assert not placed & load(HEAD, [interval(*pair())], replace(COSTS, cores=1)).blocks[0].measured.keys()


def test_a_transport_that_ends_do_not_tell() -> None:
    unsaid = pair(transport="", mode="proximal")
    heard = loaded(interval(*unsaid, heard="pipe"), interval(*unsaid))
    assert [block.measured[PIPE].modelled for block in heard.blocks] == [False] * 2, "the second as the first"
    (server,) = loaded(interval(*unsaid, heard="redis")).blocks
    assert not server.measured[REDIS].modelled and server.measured.keys() == {RING, PIPE, TCP, REDIS}
    assert not loaded(interval(*pair(transport=""))).blocks[0].measured[RING].modelled, "local is a ring"
    with pytest.raises(BadSpec, match="by which transport the messages of channel 'frames' came was not recorded"):
        loaded(interval(*unsaid))


def test_between_a_switch_that_of_most_messages_counts() -> None:
    ends = [*pair(messages=10), *pair(messages=900, transport="pipe")]
    (block,) = loaded(interval(*ends)).blocks
    assert not block.measured[PIPE].modelled and block.messages == 910


def test_the_mark_is_kept_in_a_file() -> None:
    found = loaded(interval(*pair()))
    assert read(lines_of(found), "t") == found
    lines = [line.replace('"modelled":true', '"modelled":5') for line in lines_of(found)]
    with pytest.raises(BadSpec, match="modelled is true"):
        read(lines, "t")


def test_policies_run_on_it() -> None:
    found = loaded(*[interval(*pair(), seconds=0.1)] * 20, *[interval(*pair(bytes=1 << 30), seconds=0.1)] * 20)
    for name in ("cost", "static", "thresholds", "always:pipe"):
        assert replay(found, policy_named(name, COSTS), name).total_ns > 0


# ---- what is none ----


def test_a_channel_is_to_be_named_where_there_are_several() -> None:
    both = interval(*pair(), *pair(channel="back"))
    with pytest.raises(BadSpec, match="several channels, of which --channel is to name one: back, frames"):
        loaded(both)
    with pytest.raises(BadSpec, match="no channel 'forth': there are back, frames"):
        loaded(both, channel="forth")
    with pytest.raises(BadSpec, match="no channel 'back': there is frames"):
        loaded(interval(*pair(), *pair(channel="back", messages=0)), channel="back")
    assert loaded(both, channel="back").name == "back"
    for nothing in ([], [interval()], [interval(*pair(messages=0))]):
        with pytest.raises(BadSpec, match="no messages came on any channel"):
            loaded(*nothing)


def test_only_pairs_are_replayed() -> None:
    with pytest.raises(BadSpec, match="several senders or receivers, of other, sink, source"):
        loaded(interval(*pair()), interval(end(False, function="other")))


HUGE = 10**400
DAMAGED: list[Told] = [
    *({"seconds": value} for value in (0, -1.0, float("nan"), float("inf"), 1e6, HUGE, "1", None, True)),
    *({"tax": value} for value in (None, [], {}, {"channels": 5}, {"channels": [5]}, {"channels": [{}]})),
    *({"channels": value} for value in (None, [5], [{}], [{"channel": "frames", "transport": "pigeon"}])),
    *(
        {"tax": {"channels": [end(False, **{name: value})]}}
        for name in ("messages", "bytes", "parks", "timed", "timed_ns")
        for value in (-1, float("nan"), float("inf"), 1e300, HUGE, "1", None, True, [])
    ),
    *({"tax": {"channels": [end(True, channel=value)]}} for value in ("", "a b", "\x1b[31m", 5, None, "x" * 500)),
    *({"tax": {"channels": [end(True, transport=value)]}} for value in ("pigeon", None, 5, [])),
    {"tax": {"channels": [end(True, direction="waits")]}},
    *({"tax": {"channels": [end(True, function=value)]}} for value in (5, "\x1b[31m", "\ud800")),
]


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: str(damage)[:60])
def test_figures_that_cannot_be(damage: Told) -> None:
    with pytest.raises(BadSpec, match="interval 2") as caught:
        loaded(interval(*pair()), {**interval(*pair()), **damage})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("seconds", [1e-6, 999_999.0])
@pytest.mark.parametrize("counted", [1, 1e15])
def test_the_most_extreme_figures_that_can_be(seconds: float, counted: float) -> None:
    most = dict.fromkeys(("bytes", "timed_ns", "parks"), 1e15)
    ends = pair(messages=counted, timed=counted, **most)
    found = loaded(*[interval(*ends, seconds=seconds)] * 3)
    assert replay(found, policy_named("cost", COSTS), "cost").total_ns >= 0
    assert read(lines_of(found), "t").blocks == found.blocks


# ---- as it is typed ----


def cwasi(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cwasi_fastpath.cli", "policy", "replay", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


def recording(*intervals: Told, finished: bool = True) -> str:
    lines = [HEAD, *intervals, *([{"end": len(intervals), "status": 0}] if finished else [])]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "run.jsonl"
        path.write_text(text)
        return path

    return write


def test_a_table_a_page_and_json(file: Callable[[str], Path], tmp_path: Path) -> None:
    path, html = file(recording(interval(*pair()), interval(*pair()))), tmp_path / "out.html"
    done = cwasi(path, "--policy", "cost,static", "-o", html)
    assert (done.returncode, done.stderr) == (0, "")
    said = "The way in use was measured in 2 of 2 blocks. Ways that were not used are priced by the model: their regret"
    assert "frames: 2 s in 2 blocks" in done.stdout and said in done.stdout and said in html.read_text()
    done = cwasi("/dev/stdin", "--channel", "frames", "--json", "--policy", "static", input=path.read_text())
    (told,) = json.loads(done.stdout)["traces"]
    assert told["blocks"] == 2 and said in told["about"]["note"] and told["about"]["machine"] == HEAD["machine"]


WHOLE = recording(interval(*pair()), interval(*pair()))
TRACE = "".join(lines_of(Trace("t", COSTS, loaded(interval(*pair())).blocks)))


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (recording(interval(*pair()), finished=False), [], "cut off after 1 intervals: record it again"),
        (WHOLE[:-4], [], "cut off after 2 intervals"),
        (WHOLE[:-400], [], "cut off after 1 intervals"),
        (WHOLE.partition("\n")[0], [], "is no recording"),
        (WHOLE.replace('"interval": 1, "time"', '"interval": 1, time', 1), [], "line 2 is damaged"),
        (WHOLE.replace('"recording": 1', '"recording": 2'), [], "another version of cwasi-trace"),
        (recording(), [], "no messages came on any channel"),
        (WHOLE.replace('"parks": 250', '"parks": NaN'), [], "interval 1: parks is a number from 0"),
        (recording(interval(*pair(), *pair(channel="back"))), [], "to name one: back, frames"),
        (WHOLE, ["--channel", "\x1b[31m"], "there is no channel '\\x1b[31m'"),
        (TRACE, ["--channel", "frames"], "--channel is for these"),
        ("", [], "is empty: no trace"),
        ('{"kind": 5}\n', [], "and no recording of cwasi-trace"),
    ],
)
def test_files_that_are_none(file: Callable[[str], Path], text: str, words: list[str], message: str) -> None:
    done = cwasi(file(text), *words)
    assert done.returncode == 65 and message in done.stderr and "Traceback" not in done.stderr, done


# ---- a real one ----

SCRIPT = "stream seconds=0.5 size=64\nrequests seconds=0.5 size=4KiB rate=1000\n"


def test_a_real_recording(tmp_path: Path) -> None:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")
    path, script = tmp_path / "run.jsonl", tmp_path / "calls.script"
    script.write_text(SCRIPT)
    traced = [sys.executable, "-m", "cwasi_fastpath.cli.trace", "--record", str(path), "-i", "0.1", "--"]
    live = [sys.executable, "-m", "cwasi_fastpath.cli", "policy", "live", "--script", str(script), "--policy", "static"]
    done = subprocess.run([*traced, *live], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    done = cwasi(path, "--policy", "cost,static")
    assert done.returncode == 65 and "to name one: back, there" in done.stderr
    done = cwasi(path, "--policy", "cost,static", "--channel", "there")
    assert (done.returncode, done.stderr) == (0, "") and "priced by the model" in done.stdout
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = load(lines[0], lines[1:-1], COSTS, "there")
    sent = [one for line in lines[1:-1] for one in line["tax"]["channels"] if (one["channel"], one["function"]) == ASKS]
    assert sum(block.messages for block in found.blocks) == sum(one["messages"] for one in sent) > 0
    carried = sum(block.messages * block.size for block in found.blocks)
    assert carried == pytest.approx(sum(one["bytes"] for one in sent))
    assert {block.facts.locality for block in found.blocks} == {Locality.PROCESS}
    assert 64 < max(block.size for block in found.blocks) <= 4096
    known = [block.measured[RING] for block in found.blocks if not block.measured[RING].modelled]
    assert known and all(one.latency_ns >= 16 for one in known), "each waits for the one before: there is no queue"


ASKS = ("there", "ask")
