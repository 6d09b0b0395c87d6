"""What functions of another host process did: by the kernel and by a tracer, told in rows, and believed as far as it
can be.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cwasi_fastpath import attribution, doings
from cwasi_fastpath.doings import ROW_BYTES, Did, Doings, of_rows
from cwasi_fastpath.feed import STALE_SECONDS, Elsewhere, Feed
from cwasi_fastpath.figures import Figures
from cwasi_fastpath.placing import Thread
from cwasi_fastpath.tally import Told

SECOND = 1_000_000_000


@pytest.fixture
def mine() -> Thread:
    thread = Thread()
    thread.begins()
    return thread


def sums(number: int) -> list[int | None]:
    """A tenth of each second in system calls; what is sent is not counted."""
    figures = Figures(10 * number, number * SECOND // 10, *[0] * 4, None, None, *[0] * 4)
    return figures.plain()


def told(rows: Mapping[str, Any], tracer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a tracer, from now on."""

    def figures(names: Iterable[str]) -> tuple[object, dict[str, Any]]:
        return tracer, {name: rows[name] for name in names if name in rows}

    monkeypatch.setattr(attribution, "figures", figures)


def test_threads(mine: Thread) -> None:
    """One that runs, and one that has not begun."""
    here = Doings({"f": mine, "g": Thread()})
    (one, other), (again, _) = of_rows(here.rows()), of_rows(here.rows())
    assert one.thread is not None and again.thread is not None
    assert 0 < one.thread.ran < again.thread.ran and one.thread.waited <= again.thread.waited
    assert other == Did(None, 0, None) and one.told is None


def opened() -> int:
    """Files about threads."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):   # that by which we look, or another thread's
            found += link.readlink().name == "schedstat"
    return found


def test_of_too_many_functions_no_thread_is_looked_at(mine: Thread) -> None:
    for count in (doings._THREADS, doings._THREADS + 1):
        rows = of_rows(Doings({f"f{number}": mine for number in range(count)}).rows())
        assert len(rows) == count and {one.thread is None for one in rows} == {count > doings._THREADS}


def test_a_thread_in_place_of_another() -> None:
    """Of a function that is run again; of one that has ended nothing stays open."""
    thread, found, before = Thread(), [], opened()
    here = Doings({"f": thread})

    def run() -> None:
        thread.begins()
        found.append(of_rows(here.rows())[0].thread)
        thread.ends()

    for _ in range(2):
        runs = threading.Thread(target=run)
        runs.start()
        runs.join()
    assert None not in found and of_rows(here.rows())[0].thread is None
    assert opened() == before


def test_what_a_tracer_tells(mine: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doings, "_PACE", 0.0)
    here = Doings({"f": mine, "g": mine, "h": mine, "i": mine})
    row = {"f": (5, sums(3)), "g": ("noon", sums(3)), "h": (5, [-1] * 12), "of others": (5, sums(1))}
    told(row, "tracer", monkeypatch)
    found = of_rows(here.rows())
    assert [one.told for one in found] == [(5, sums(3)), None, None, None]
    assert {one.tracer for one in found} == {1}
    told(row, "another", monkeypatch)
    assert of_rows(here.rows())[0].tracer == 2
    monkeypatch.setattr(attribution, "figures", lambda names: None)
    assert of_rows(here.rows())[0][1:] == (2, (5, sums(3))), "it is asked by somebody else just now"
    told({}, None, monkeypatch)
    assert of_rows(here.rows())[0][1:] == (0, None), "there is none"
    told({}, "the first again", monkeypatch)
    assert of_rows(here.rows())[0][1:] == (3, None), "whose sums may be others"


def test_the_tracer_is_not_asked_each_time(mine: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(doings, "_PACE", 1000.0)
    monkeypatch.setattr(attribution, "figures", lambda names: asked.append(names) or ("tracer", {}))
    here = Doings({"f": mine})
    here.rows()
    here.rows()
    assert len(asked) == 1


def test_any_bytes_are_rows() -> None:
    for rows in (b"\xff" * 3 * ROW_BYTES, b"\xfe" * 3 * ROW_BYTES, bytes(3 * ROW_BYTES), os.urandom(3 * ROW_BYTES)):
        assert len(of_rows(rows)) == 3


class Processes:
    """The one of f and that of g."""

    def __init__(self) -> None:
        self.told: Told | None = None
        self.feed = Feed(Elsewhere(dict.fromkeys("fg", self)))   # type: ignore[arg-type]

    def tells(self, tracer: int, number: int, *names: str) -> None:
        did = {name: Did(None, tracer, (number * SECOND, sums(number)) if name in names else None) for name in "fg"}
        self.told = Told(0.0, [], dict.fromkeys("fg", 10 * number), did)


def test_a_feed_of_other_processes() -> None:
    processes = Processes()
    feed = processes.feed
    assert feed.latest(["f", "g"], 0.0) == {} and feed.lack(0.0, ["f", "g"]) == (attribution.NO_TRACER,)
    for number in (1, 2):
        processes.tells(1, number, "f", "g")
        found = feed.latest(["f", "g"], float(number))
    assert found.keys() == {"f", "g"} and found["f"].figures.calls == 10 and feed.lack(2.0, ["f", "g"]) == ()
    processes.tells(1, 3, "f")
    assert feed.latest(["f", "g"], 3.0).keys() == {"f"}
    assert feed.lack(3.0, ["f", "g"]) == ("the tracer has told nothing of g",)
    processes.tells(2, 4, "f")
    assert feed.latest(["f", "g"], 4.0) == {}, "sums of another tracer are others"
    processes.tells(2, 5, "f")
    assert feed.latest(["f", "g"], 5.0).keys() == {"f"}
    assert feed.latest(["f", "g"], 5.5 + STALE_SECONDS) == {}


def test_a_process_that_hangs_for_a_while() -> None:
    """When it goes on it tells first what a tracer saw before: its messages were not sent in all that time."""
    processes = Processes()
    feed = processes.feed
    for second in range(1, 30):
        if second < 5 or second > 20:   # it answers
            processes.tells(1, 5 if second == 21 else second, "f", "g")
        found = feed.latest(["f", "g"], float(second))
        assert not found or feed.rates()["f"] == 10.0
        assert bool(found) is (1 < second < 5 + STALE_SECONDS or second > 22)
        assert second in range(9, 21) or feed.lack(float(second), ["f", "g"]) == ()


def test_a_tracer_that_has_told_nothing_yet() -> None:
    """Or nothing that can be: there is one."""
    processes = Processes()
    processes.tells(1, 1)
    assert processes.feed.latest(["f", "g"], 1.0) == {}
    assert processes.feed.lack(1.0, ["f", "g"]) == ("the tracer has told nothing of these functions yet",)


def test_functions_that_are_forgotten_begin_anew() -> None:
    """A channel of theirs has gone another way."""
    processes = Processes()
    feed = processes.feed
    for number in (1, 2):
        processes.tells(1, number, "f", "g")
        assert bool(feed.latest(["f", "g"], float(number))) is (number == 2)
    feed.forget(["f", "nobody"])
    assert feed.latest(["f", "g"], 2.1).keys() == {"g"} and feed.lack(2.1, ["f"]) == (), "it has told something"
    processes.tells(1, 3, "f", "g")
    assert feed.latest(["f", "g"], 3.0).keys() == {"g"}
    processes.tells(1, 4, "f", "g")
    assert feed.latest(["f", "g"], 4.0).keys() == {"f", "g"}
