"""Guests that use windows and calls, while their channel goes from one transport to another."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from channels import HANG, Start

import cwasi_fastpath as cwasi

QUIET = Path(os.devnull)
PAGE = 65536
TARGETS = ["pipe", "ring", "ring"]


def switch_while(host: cwasi.Host, channel: str, running: Future[Any]) -> int:
    """As often as it goes; how often."""
    done = 0
    while not running.done():
        with suppress(cwasi.ChannelError):
            host.switch(channel, TARGETS[done % len(TARGETS)], timeout=0.1)
            done += 1
    return done


def enough(switches: Iterable[int]) -> bool:
    """Of runs that are longer each time: on a busy machine a short one may be over before there were some."""
    return any(number > 3 for number in switches)


@pytest.mark.parametrize("how", [("window", "window"), ("window", "copy"), ("copy", "window")], ids="-".join)
@pytest.mark.parametrize("windows", [(4, 4), (2, 4)], ids=str)
def test_windows(guests: Path, start: Start, how: tuple[str, str], windows: tuple[int, int]) -> None:
    """The receiver ends with an error where a message is wrong; it writes over what it holds."""
    sends, receives = (str(pages * PAGE) for pages in windows)

    def switches(count: int) -> int:
        sent, taken = (str(count), "5000", how[0], sends), (str(count), "5000", how[1], receives, "scribble")
        with cwasi.Host(timeout=HANG) as host:
            filler = host.load(guests / "filler.wasm", arguments=sent, stdout=QUIET)
            summer = host.load(guests / "summer.wasm", arguments=taken, stdout=QUIET)
            channel = host.connect("lab", filler, summer, ports=("out", "in"))
            running = start(host.run)
            number = switch_while(host, "lab", running)
            running.result(HANG)
            assert channel.metrics().received == channel.metrics().sent == count
            return number

    assert enough(map(switches, (40_000, 200_000, 1_000_000)))


def switches_of_calls(guests: Path, start: Start, count: int) -> int:
    """Two ask so often; their questions go elsewhere all the time, and the answers of one too. How often at least."""
    with cwasi.Host(timeout=HANG) as host:
        asks = [
            host.load(guests / "ask.wasm", f"ask{n}", arguments=[str(count), f"from {n}"], stderr=QUIET) for n in (0, 1)
        ]
        channel = host.connect("questions", asks, host.load(guests / "answer.wasm", stderr=QUIET), calls=True)
        running = start(host.run)
        answers = start(switch_while, host, "questions.answers.ask0", running)
        questions = switch_while(host, "questions", running)
        running.result(HANG)
        assert channel.metrics().received == channel.metrics().sent == 2 * count
        return min(questions, cast(int, answers.result(HANG)))


def test_calls(guests: Path, start: Start) -> None:
    assert enough(switches_of_calls(guests, start, count) for count in (4_000, 20_000, 100_000))
