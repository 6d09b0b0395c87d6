"""Which function a thread works for: told by one store, nested, and forgotten at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import cwasi_fastpath as cwasi
from cwasi_fastpath._native import lib
from cwasi_fastpath.attribution import function_id


def current() -> int:
    """The id that this thread is charged to."""
    charged: int = lib.cwasi_attribution_enter(0)
    lib.cwasi_attribution_enter(charged)
    return charged


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
