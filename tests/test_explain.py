"""channel.explain(), cwasi explain, and what if: of a host that runs, of others, of processes that lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from channels import HANG, Start, control_ended, eventually, is_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import control
from cwasi_fastpath.explanation import EXPLAIN, Alternative, Explanation, WhatIf, what_if, what_if_in_words
from cwasi_fastpath.metrics import Observation
from cwasi_fastpath.modes import EdgeFacts, Locality, Transport
from cwasi_fastpath.policy import Decision, Request, Way
from cwasi_fastpath.request import Request as Asked


@pytest.fixture(autouse=True)
def directory(runtime_directory: Path) -> Iterator[Path]:
    yield runtime_directory
    control_ended()


def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cwasi_fastpath.cli", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG)


@pytest.fixture
def busy(guests: Path, start: Start) -> Iterator[cwasi.Host]:
    """A host whose guests use a channel, of which its steward has seen something."""
    with cwasi.Host() as host:
        loaded = [host.load(guests / f"{name}.wasm", arguments=("2000000000", "100")) for name in ("source", "sink")]
        channel = host.connect("lab", *loaded, ports=("out", "in"))
        running = start(host.run)
        eventually(lambda: "  seen " in channel.explain() or running.done())
        yield host
        host.stop()
        with suppress(cwasi.GuestExit):
            running.result(HANG)


def test_of_a_channel_in_use(busy: cwasi.Host) -> None:
    done = explain("lab")
    assert done.returncode == 0, done
    for words in ("channel lab, process ", "local, ring", "messages of 0.1 KiB", "what a message would cost:",
                  "   <- in use", "pipe: ", "redis: no server is configured", "lacked: no tracer"):  # fmt: skip
        assert words in done.stdout
    told = json.loads(explain("lab", "--json").stdout)
    [one] = told["told"]
    assert told["channel"] == "lab" and one["what_if"] == {}
    found = one["explanation"]
    ways = {alternative["way"]: alternative for alternative in found["alternatives"]}
    assert found["way"] in ways and ways["redis"]["ruled_out"]
    used = ways[found["way"]]
    assert 0 < used["low"] <= used["ns"] <= used["high"]
    assert is_of(100, Observation(**found["observation"])) and found["age_seconds"] >= 0 and found["lacked"]


def test_what_if(busy: cwasi.Host) -> None:
    done = explain("lab", "--if-size", "10x", "--if-locality", "node")
    assert done.returncode == 0 and "with messages of 10x, the peer's place node: " in done.stdout, done
    [one] = json.loads(explain("lab", "--if-size", "1000000", "--if-rate", "5", "--json").stdout)["told"]
    answer = one["what_if"]
    assert answer["if"] == {"size": "1000000", "rate": "5"}
    for when in ("now", "then"):
        ways = {way["way"]: way for way in answer[when]["alternatives"]}
        assert answer[when]["chosen"] in ways and ways["pipe"]["ns"] > 0 and ways["redis"]["ruled_out"]
    wrong = explain("lab", "--if-size", "large")
    assert wrong.returncode == 2 and "size 'large'" in wrong.stderr
    assert explain("lab", "--if-locality", "moon").returncode == 2
    absurd = explain("lab", "--if-size", "5000000000")
    assert absurd.returncode == 2 and "mean_bytes: there are no such messages" in absurd.stderr


def test_of_ends_that_met_by_name(start: Start) -> None:
    receiver = start(cwasi.open_receiver, "lab", timeout=HANG)
    with cwasi.open_sender("lab", timeout=HANG), receiver.result(HANG):
        done = explain("lab")
        assert done.returncode == 0 and "lacked: " not in done.stdout and "   <- in use" in done.stdout, done
        [told] = json.loads(explain("lab", "--json").stdout)["told"]
        assert told["explanation"]["way"] == "ring" and any("no host" in lack for lack in told["explanation"]["lacked"])
        other = explain("lab", "--if-rate", "10x")
        assert other.returncode == 2 and "none was seen yet of which that would be a multiple" in other.stderr
        assert "with messages of 100: ring" in explain("lab", "--if-size", "100").stdout


def test_of_nothing() -> None:
    done = explain("lab")
    assert done.returncode == 69 and "'lab'" in done.stderr
    assert explain("../lab").returncode == 2


@pytest.mark.parametrize("option", [["--if-size", "10y"], ["--if-size", "5000000000"], ["--if-rate", "-1"],
                                    ["--if-rate", "nan"], ["--if-size", "10", "--if-rate", "x"]], ids=str)  # fmt: skip
@pytest.mark.parametrize("form", [[], ["--json"]], ids=str)
def test_nonsense_is_said_before_the_channel_is_missed(option: list[str], form: list[str]) -> None:
    done = explain("nosuch", *option, *form)
    assert done.returncode == 2 and "nosuch" not in done.stdout + done.stderr, done


@pytest.mark.parametrize(
    "body",
    [{}, {"text": 1}, {"text": "x", "explanation": [], "what_if": {}}, {"text": "x", "explanation": {}, "what_if": 7}],
    ids=str,
)
def test_a_process_that_answers_nonsense(busy: cwasi.Host, body: dict[str, Any]) -> None:
    def lie(request: Asked) -> None:
        request.answer(body)

    control.on(EXPLAIN, lie, "lab")
    try:
        done = explain("lab")
        assert done.returncode == 74 and "answered nonsense" in done.stderr, done
    finally:
        control.off(EXPLAIN, lie, "lab")


def test_a_process_that_would_drive_the_terminal(busy: cwasi.Host) -> None:
    def lie(request: Asked) -> None:
        request.answer({"text": "red \x1b[31m", "explanation": {"\x1b": "\x07"}, "what_if": {}})

    control.on(EXPLAIN, lie, "lab")
    try:
        done = explain("lab")
        assert done.returncode == 0 and "red [31m" in done.stdout and "\x1b" not in done.stdout, done
    finally:
        control.off(EXPLAIN, lie, "lab")


@pytest.mark.parametrize("wish", [7, [], {"size": 1}, {"size": None, "rate": None, "locality": 3}, {"size": "1x"}])
def test_what_others_ask_is_checked(wish: object) -> None:
    with pytest.raises(cwasi.BadSpec):
        WhatIf.of_plain(wish)


def test_in_words() -> None:
    found = Explanation(
        "lab", "ring", "local", "it is near", "local, ring: it is near", pinned="a wish", changes=2, seconds=1.26,
        alternatives=(Alternative("ring", 1e3, 900.0, 1100.0), Alternative("tcp", ruled_out="far"), Alternative("x")),
        observation={"messages": 2000, "mean_bytes": 1024.0, "parked": 0.5, "seconds": 0.05, "latency_ns": 1500.0},
        age_seconds=0.5, lacked=("a tracer",), trouble="it hurts",
    )  # fmt: skip
    assert found.at_length().splitlines() == [
        "local, ring: it is near",
        "  pinned: a wish",
        "  changed 2 times, last 1.3 s ago",
        "  seen 0.5 s ago: 2,000 messages of 1.0 KiB, in 0.05 s, latency 1.5 us, the receiver slept for 50% of them",
        "  lacked: a tracer",
        "  held: it hurts",
        "  what a message would cost:",
        "    ring: 1.0 us a message (0.9 to 1.1)   <- in use",
        "    tcp: far",
        "    x: not predicted",
    ]
    assert str(replace(found, pinned="", changes=0, observation={}, trouble="")) == "local, ring: it is near"


class Stubborn(cwasi.Policy):
    """Always wants the same."""

    def decide(self, request: Request) -> Decision | None:
        return Decision.for_way(request, Way(Transport.RING), "I like it")


def test_a_way_that_cannot_be_is_not_offered() -> None:
    """And is said to be what the policy chose: as it would be, and as it is."""
    wish, far = WhatIf(locality="elsewhere"), Request(EdgeFacts(Locality.ELSEWHERE))
    answer = what_if(Stubborn(), Request(EdgeFacts(Locality.NODE)), wish)
    trouble = "the policy chose ring, which cannot be: the peer is on another node"
    assert (answer["now"]["chosen"], answer["now"]["trouble"]) == ("ring", "")
    assert (answer["then"]["chosen"], answer["then"]["trouble"]) == (None, trouble)
    assert what_if_in_words(wish, answer).splitlines()[0] == f"  with the peer's place elsewhere: {trouble}, now ring"
    as_it_is = what_if(Stubborn(), far, WhatIf(size="1"))
    assert as_it_is["now"]["chosen"] is None and trouble in what_if_in_words(WhatIf(size="1"), as_it_is)


def test_what_would_be_is_asked_without_what_was_measured() -> None:
    ways = [Way.parse(name) for name in ("ring", "ring/one core")]
    request = Request(
        EdgeFacts(Locality.PROCESS, same_trust=False), Observation(9, 100.0, 0.1, rate=50.0, latency_ns=7.0),
        ways=frozenset(ways), current=ways[1], pinned=True,
    )  # fmt: skip
    asked = WhatIf("2x", "0.5x", "node").applied(request)
    assert asked.facts == EdgeFacts(Locality.NODE, same_trust=False)
    assert asked.observation == Observation(9, 200.0, 0.1, rate=25.0)
    assert (asked.ways, asked.current, asked.pinned) == (frozenset({Way.parse("ring")}), None, False)
