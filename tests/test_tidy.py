"""An idle channel costs little memory, also after it was busy; and many of them cost no more each than one."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from channels import HANG, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import tidy

IDLE = 64 << 10

Look = Callable[[], bool]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Look:
    """A look, which only the test takes: the thread would take one at any moment."""
    gc.collect()   # what other tests have left is mapped until then
    ours = tidy.look
    monkeypatch.setattr(tidy, "look", lambda: True)
    return ours


def resident() -> int:
    """Bytes of the rings of this process that are in memory; each counted once, though mapped several times."""
    shares = re.findall(r"cwasi-ring[^\n]*\n(?:[A-Z]\w+:.*\n)*?Pss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    return 1024 * sum(int(share) for share in shares)


@pytest.mark.usefixtures("look")
def test_a_channel_with_little_in_it_touches_little() -> None:
    before = resident()
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:
        for _ in range(5):
            for _ in range(3000):
                tx.send(b"x" * 300)
                rx.recv()
        assert 0 < resident() - before <= IDLE


def test_a_busy_channel_gives_its_memory_back(look: Look) -> None:
    before = resident()
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:
        for _ in range(3):
            tx.send(b"x" * (1 << 20))
        look()
        look()
        assert resident() - before > 3 << 20, "what is unread stays"
        for _ in range(3):
            assert rx.recv() == b"x" * (1 << 20)
        assert resident() - before > 3 << 20
        assert cwasi_idle(look) and resident() - before <= IDLE
        tx.send(b"again" * 1000)
        assert rx.recv() == b"again" * 1000


def cwasi_idle(look: Look) -> bool:
    """Looks until nothing has changed, as the thread does in time."""
    while look():
        pass
    look()
    return True


def test_it_happens_by_itself() -> None:
    before = resident()
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:
        tx.send(b"x" * (2 << 20))
        rx.recv()
        until = time.monotonic() + 60
        while resident() - before > IDLE and time.monotonic() < until:
            time.sleep(0.1)
        assert resident() - before <= IDLE


def test_senders_that_are_closed_or_gone_are_left_alone(look: Look) -> None:
    tx, rx = cwasi.open_channel("lab")
    tx.send(b"x")
    tx.close()
    look()
    look()
    assert rx.recv() == b"x"
    rx.close()
    del tx
    look()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_a_forked_child_has_sent_is_not_tidied_away_by_its_parent(look: Look) -> None:
    """The parent's copy of the end looks idle and its ring empty."""
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:
        tx.send(b"x" * (1 << 20))
        rx.recv()
        look()

        def child() -> None:
            for number in range(5):
                tx.send(b"%d" % number * 1000)

        assert status_of(in_child(child)) == 0
        assert tx not in tidy._seen, "it could be in the middle of a message"
        for _ in range(4):
            look()
        assert not tx.trim()
        assert [rx.recv(timeout=HANG) for _ in range(5)] == [b"%d" % number * 1000 for number in range(5)]


def test_what_a_switch_leaves_behind_is_freed(look: Look) -> None:
    before = mapped()
    tx, rx = cwasi.open_channel("lab")
    with tx, rx:
        tx.switch("pipe")
        tx.send(b"on")
        assert rx.recv() == b"on"
        assert mapped() > before, "not while messages wait for it"
        look()
        assert mapped() == before
        tx.switch("ring")
        tx.send(b"unread")
        assert rx.peek()[0] == len(b"unread"), "it has come to the ring"
        tx.switch("pipe")
        look()
        assert mapped() > before, "the receiver has not read it to its end"
        assert rx.recv() == b"unread"
        tx.send(b"on")
        assert rx.recv() == b"on"
        look()
        assert mapped() == before


def mapped() -> int:
    """How many mappings of rings there are."""
    return Path("/proc/self/maps").read_text().count("cwasi-ring")
