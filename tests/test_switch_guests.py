"""Guests that use windows and calls, while their channel goes from one transport to another."""

from __future__ import annotations

import os
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("how", [("window", "window"), ("window", "copy"), ("copy", "window")], ids="-".join)
@pytest.mark.parametrize("windows", [(4, 4), (2, 4)], ids=str)
def test_windows(guests: Path, start: Start, how: tuple[str, str], windows: tuple[int, int]) -> None:
    """The receiver ends with an error where a message is wrong; it writes over what it holds."""
    count, size = "40000", "5000"
    sends, receives = (str(pages * PAGE) for pages in windows)
    with cwasi.Host(timeout=HANG) as host:
        filler = host.load(guests / "filler.wasm", arguments=(count, size, how[0], sends), stdout=QUIET)
        summer = host.load(guests / "summer.wasm", arguments=(count, size, how[1], receives, "scribble"), stdout=QUIET)
        channel = host.connect("lab", filler, summer, ports=("out", "in"))
        running = start(host.run)
        assert switch_while(host, "lab", running) > 3
        running.result(HANG)
        assert channel.metrics().received == channel.metrics().sent == 40_000


def test_calls(guests: Path, start: Start) -> None:
    """The questions go elsewhere all the time, and the answers too."""
    count = 4_000
    with cwasi.Host(timeout=HANG) as host:
        asks = [
            host.load(guests / "ask.wasm", f"ask{n}", arguments=[str(count), f"from {n}"], stderr=QUIET) for n in (0, 1)
        ]
        channel = host.connect("questions", asks, host.load(guests / "answer.wasm", stderr=QUIET), calls=True)
        running = start(host.run)
        answers = start(switch_while, host, "questions.answers.ask0", running)
        assert switch_while(host, "questions", running) > 3
        running.result(HANG)
        assert answers.result(HANG) not in range(4)
        assert channel.metrics().received == channel.metrics().sent == 2 * count
