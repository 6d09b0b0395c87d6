"""Which function a thread works for: told by one store, nested, and forgotten at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import cwasi_fastpath as cwasi
from cwasi_fastpath._native import lib
from cwasi_fastpath.attribution import _ids
from cwasi_fastpath.function_ids import INDEXES


def current() -> int:
    """The id that this thread is charged to."""
    charged: int = lib.cwasi_attribution_enter(0)
    lib.cwasi_attribution_enter(charged)
    return charged


def function_id(name: str) -> int:
    """Its number, while it has one."""
    with cwasi.function(name):
        return current()


def test_blocks_nest() -> None:
    assert current() == 0
    with cwasi.function("outer"):
        assert current() == function_id("outer")
        with cwasi.function("inner"):
            assert current() == function_id("inner")
            with cwasi.function("outer"):
                assert current() == function_id("outer")
            assert current() == function_id("inner")
        assert current() == function_id("outer")
    assert current() == 0


def test_an_exception_ends_the_block() -> None:
    with pytest.raises(RuntimeError), cwasi.function("fails"):
        raise RuntimeError
    assert current() == 0


def test_names_have_one_number_each() -> None:
    numbers = {name: function_id(name) for name in ("one", "two", "three")}
    assert len(set(numbers.values())) == 3 and all(number > 0 for number in numbers.values())
    assert function_id("two") == numbers["two"]


def test_threads_are_charged_apart() -> None:
    seen: dict[str, tuple[int, int]] = {}
    barrier = threading.Barrier(4)

    def work(name: str) -> None:
        before = current()
        with cwasi.function(name):
            barrier.wait(60)
            seen[name] = before, current()

    threads = [threading.Thread(target=work, args=(f"thread-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {f"thread-{i}": (0, function_id(f"thread-{i}")) for i in range(4)}
    assert current() == 0


def test_a_block_that_ends_on_another_thread_stays_with_its_own() -> None:
    """And its number is nobody else's, whatever comes."""

    def begin() -> Iterator[None]:
        with cwasi.function("begun"):
            yield

    def run() -> None:
        generator = begin()
        next(generator)
        begun.append((generator, current()))
        both.wait(60)   # begun
        both.wait(60)   # and ended
        still.append(current())

    begun: list[tuple[Iterator[None], int]] = []
    still: list[int] = []
    both = threading.Barrier(2)
    thread = threading.Thread(target=run)
    thread.start()
    both.wait(60)
    generator, number = begun[0]
    with cwasi.function("mine"):
        mine = current()
        next(generator, None)
        assert current() == mine
    assert current() == 0
    numbers = {function_id(f"after-{i}") for i in range(2000)}
    assert number not in numbers and number % INDEXES not in {after % INDEXES for after in numbers}
    both.wait(60)
    thread.join(60)
    assert still == [number]


def test_functions_come_and_go_without_end() -> None:
    """With no tracer, too: a process remembers those that are in use, and some more."""
    with cwasi.function("stays"):
        stays = current()
        numbers = [function_id(f"passes-{i}") for i in range(5000)]
        assert current() == stays and len({*numbers, stays}) == 5001
    assert sum(1 for _ in _ids.items()) < INDEXES


def test_a_child_goes_on_with_the_numbers_of_its_parent() -> None:
    """Whatever other threads do with them at the moment of the fork."""
    over = threading.Event()

    def busy() -> None:
        number = 0
        while not over.is_set():
            function_id(f"busy-{number}")
            number += 1

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        with cwasi.function("forks"):
            forks = current()
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    ok = current() == forks and len({function_id(f"child-{i}") for i in range(2000)} - {forks}) == 2000
                    os._exit(0 if ok else 1)
                assert os.waitpid(child, 0)[1] == 0
    finally:
        over.set()
        thread.join()


DIES = """
import gc
from cwasi_fastpath import function

class Collects(str):
    def __hash__(self):
        gc.collect()
        return str.__hash__(self)

def begin(cycle):
    with function("begun"):
        yield

gc.disable()
cycle = []
cycle.append(begin(cycle))
next(cycle[0])
del cycle
with function(Collects("collects")):
    print("worked")
"""


def test_a_generator_may_die_while_its_thread_begins_a_block() -> None:
    """The collector ends its block then, wherever the thread is."""
    done = subprocess.run([sys.executable, "-c", DIES], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("worked\n", 0), done.stderr


NO_THREADS = """
import os, resource, threading
import cwasi_fastpath as cwasi

resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.getuid() == 0:   # root is not limited
    os.setuid(65534)
try:
    threading.Thread(target=print).start()
except RuntimeError:
    print("no threads")
with cwasi.function("f"):
    print("worked")
"""


def test_a_process_that_may_have_no_more_threads_runs_its_functions() -> None:
    """Nobody hears of a tracer then."""
    done = subprocess.run([sys.executable, "-c", NO_THREADS], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("no threads\nworked\n", 0), done.stderr


@pytest.mark.parametrize("name", ["", "Resize", "a b", "../x"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(cwasi.BadName), cwasi.function(name):
        pytest.fail("entered")
    assert current() == 0


def test_a_tracer_that_is_not_there_stops_nothing() -> None:
    program = "import cwasi_fastpath as c\nwith c.function('f'): print('worked')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CWASI_TRACER": "@cwasi-nobody-listens"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "worked\n" and done.returncode == 0
    assert "not traced" in done.stderr
