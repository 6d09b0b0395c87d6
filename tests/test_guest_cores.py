"""How busy the cores are with others, what guests' threads do on them, and where they are placed."""

from __future__ import annotations

import os
import random
import threading
from queue import Queue
from types import SimpleNamespace
from typing import Any, cast

import pytest
from channels import HANG, eventually

from cwasi_fastpath import placing
from cwasi_fastpath.guest_cores import GuestCores
from cwasi_fastpath.kept import Kept
from cwasi_fastpath.placing import Load, Thread, sets
from cwasi_fastpath.policy import Cores

CORES = sorted(os.sched_getaffinity(0))


def test_the_load_of_others_is_smoothed_and_bounded() -> None:
    load = Load([0, 1])
    assert load.freest({0: 1}) == [1, 0] and load.freest({}) == [0, 1]
    load.look(1.0, {})
    load.look(1.0, {0: 1e9})
    load.look(0.5, {0: 1e18, 1: -1e18})
    load.look(2.0, {0: 1e18, 7: 1.0})
    assert load.others[0] == 0.0 and all(0 <= share <= 1 for share in load.others.values())


def test_the_load_of_others_is_known_from_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{0: 0, 1: 0}, {0: 10**8, 1: 5 * 10**7}, {0: 10**8, 1: 15 * 10**7}])
    monkeypatch.setattr(placing, "busy_ns", lambda stat: next(looks))
    load = Load([0, 1])
    load.look(1.0, {})
    load.look(1.1, {1: 5e7})
    assert load.others == pytest.approx({0: 1.0, 1: 0.0})
    load.look(1.2, {})
    assert 0 < load.others[0] < 1 and 0 < load.others[1] < 1, "from then on it is smoothed"


def test_in_a_very_short_time_the_load_of_others_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts in hundredths of a second."""
    looks = iter([{0: 0, 1: 0}, {0: 10**8, 1: 5 * 10**7}])
    monkeypatch.setattr(placing, "busy_ns", lambda stat: next(looks))
    load = Load([0, 1])
    load.look(1.0, {})
    load.look(1.01, {0: 1e7, 1: 1e7})
    assert load.others == {0: 0.0, 1: 0.0}
    load.look(1.1, {1: 4e7})
    assert load.others == pytest.approx({0: 0.9, 1: 0.0}), "what ours did before is not forgotten"


def test_what_a_guest_did_that_has_begun_since_is_not_taken_for_others() -> None:
    mine = SimpleNamespace(thread=SimpleNamespace(number=threading.get_native_id()))
    cores = GuestCores()
    assert not cores.times({}, 1.0)
    first = cores.times(cast(Any, {"mine": mine}), 1.1)["mine"]
    assert first.ran > 0
    assert 0 <= cores.times(cast(Any, {"mine": mine}), 1.2)["mine"].ran < first.ran, "since then"


def test_a_guest_that_has_the_name_of_one_before_is_another() -> None:
    numbers, cores = Queue[int](), GuestCores()
    over = threading.Event()

    def work() -> None:
        numbers.put(threading.get_native_id())
        over.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        first, second = (SimpleNamespace(thread=SimpleNamespace(number=numbers.get())) for _ in threads)
        assert not cores.times(cast(Any, {"one": first}), 1.0), "it may be old"
        # Nothing, as soon as it is where it waits.
        eventually(lambda: cores.times(cast(Any, {"one": first}), 1.1)["one"].ran == 0)
        assert cores.times(cast(Any, {"one": second}), 1.2)["one"].ran > 0, "all that it did"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    # Python is done with it sooner than the kernel.
    eventually(lambda: not cores.times(cast(Any, {"one": second}), 1.3))
    cores.rest()


def test_a_thread_of_ours_that_ran_on_two_cores_is_not_taken_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{0: 0, 1: 0}, {0: 6 * 10**7, 1: 6 * 10**7}, {0: 16 * 10**7, 1: 16 * 10**7}])
    monkeypatch.setattr(placing, "busy_ns", lambda stat: next(looks))
    load = Load([0, 1])
    load.look(1.0, {})
    load.look(1.1, {0: 0.0, 1: 1e8})
    assert sum(load.others.values()) == pytest.approx(0.2), "20 of the 120 ms in which both cores worked"
    load.look(1.2, {0: 2e8, 1: 0.0})
    assert 0 < sum(load.others.values()) < 0.2


@pytest.mark.skipif(len(CORES) < 2, reason="it takes two cores")
def test_who_shares_a_core_with_others_leaves_it_for_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = dict.fromkeys(CORES, 0)
    monkeypatch.setattr(placing, "busy_ns", lambda stat: dict(busy))
    monkeypatch.setattr(random, "random", lambda: chance)
    cores, chance = GuestCores(), 0.0
    kept = cast(Kept, SimpleNamespace(pair=(), cores=Cores.FREE, places=()))

    def places(*others: int) -> tuple[int, ...]:
        """After ten seconds in which others had these cores."""
        nonlocal now
        now += 10.0
        busy.update({core: busy[core] + 10**10 for core in others})
        cores.times({}, now)
        cores.avoid_others(kept, [kept])
        return kept.places

    now = 1.0
    cores.times({}, now)
    assert places(CORES[0]) == (), "the kernel has placed them"
    cores.place(kept, Cores.ONE, [kept])
    first = kept.places
    assert CORES[0] not in first
    assert places() == first and places(*CORES) == first, "nowhere is it better"
    chance = 0.9
    assert places(*first) == first, "not each time"
    chance = 0.0
    assert places(*first) != first and kept.cores is Cores.ONE


def test_places_of_ways() -> None:
    assert sets(Cores.FREE, [3]) is None
    assert sets(Cores.ONE, [3, 1]) == ({3}, {3}) and sets(Cores.TWO, [3, 1]) == ({3}, {1})


def test_places_that_there_are_not() -> None:
    with pytest.raises(OSError, match="too few cores for two"):
        sets(Cores.TWO, [3])
    with pytest.raises(OSError, match="too few cores for one"):
        sets(Cores.ONE, [])


def test_only_a_thread_that_runs_is_placed() -> None:
    thread = Thread()
    assert not thread.place({CORES[0]}) and thread.number is None
    seen: list[set[int]] = []

    def work() -> None:
        thread.begins()
        thread.place({CORES[0]})
        seen.append(os.sched_getaffinity(0))
        thread.ends()
        seen.append(os.sched_getaffinity(0))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(HANG)
    assert seen == [{CORES[0]}, set(CORES)] and not thread.place({CORES[0]})
