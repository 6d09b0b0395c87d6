"""Maps and programs in the kernel, without a compiler."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cwasi_fastpath.cache import ENVIRONMENT
from cwasi_fastpath.probes import kernel
from cwasi_fastpath.probes.compiled import Compiled, MapDefinition
from cwasi_fastpath.probes.kernel import Loaded, bpf, possible_cpus
from cwasi_fastpath.probes.loader import ProbeError, Rejected, import_bcc
from cwasi_fastpath.tracer import Tracer, requirements

HASH, ARRAY, PER_CPU_ARRAY = 1, 2, 6
MAPS = (
    MapDefinition("by_number", HASH, 8, 8, 3, 0, "unsigned long long", ["pair", [["a", "int"], ["b", "char", [4]]]]),
    MapDefinition("by_place", ARRAY, 4, 4, 5, 0, "unsigned int", "unsigned int"),
    MapDefinition("by_cpu", PER_CPU_ARRAY, 4, 8, 1, 0, "unsigned int", "unsigned long long"),
)
EXIT = bytes.fromhex("9500000000000000")
RETURN_0 = bytes.fromhex("b700000000000000") + EXIT


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")
    loaded = Loaded(Compiled(MAPS, {"good": RETURN_0, "bad": EXIT}))
    yield loaded
    loaded.close()


def test_a_map_is_a_mapping(loaded: Loaded) -> None:
    pairs = loaded.map("by_number")
    for number in (2, 3, 1 << 40):
        pairs[ctypes.c_uint64(number)] = pairs.Leaf(a=-number % 97, b=b"xyz")
    assert {key.value: (pair.a, pair.b) for key, pair in pairs.items()} == {
        number: (-number % 97, b"xyz") for number in (2, 3, 1 << 40)
    }
    with pytest.raises(OSError, match="Argument list too long"):
        pairs[ctypes.c_uint64(4)] = pairs.Leaf()
    del pairs[ctypes.c_uint64(3)]
    for act in (pairs.__getitem__, pairs.__delitem__):
        with pytest.raises(KeyError):
            act(ctypes.c_uint64(3))
    assert len(pairs) == 2
    pairs.clear()
    assert list(pairs.keys()) == []


def test_an_array_has_all_its_places(loaded: Loaded) -> None:
    numbers = loaded.map("by_place")
    numbers[ctypes.c_uint32(3)] = ctypes.c_uint32(23)
    assert list(numbers.values()) == [0, 0, 0, 23, 0]
    (cpus,) = loaded.map("by_cpu").values()
    assert list(cpus) == [0] * possible_cpus()


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 1024])
def test_many_entries_come_with_each_call(loaded: Loaded, batch: int) -> None:
    """Or one by one, where the kernel can no better; and however many the map has."""
    names = loaded.map("by_number"), loaded.map("by_place"), loaded.map("by_cpu")
    for one in names:
        one._batch = batch
    pairs, numbers, cpus = names
    assert list(pairs.items()) == []
    for number in (2, 3, 1 << 40):
        pairs[ctypes.c_uint64(number)] = pairs.Leaf(a=number % 97, b=b"xyz")
        found = {key.value: pair.a for key, pair in pairs.items()}
        assert found[number] == number % 97
    assert found == {number: number % 97 for number in (2, 3, 1 << 40)}
    numbers[ctypes.c_uint32(4)] = ctypes.c_uint32(23)
    assert [(key.value, number) for key, number in numbers.items()] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 23)]
    assert [len(one) for one in cpus.values()] == [possible_cpus()]


@pytest.mark.parametrize(("told", "count"), [("0\n", 1), ("0-1\n", 2), ("0-3,8,12-13\n", 7)])
def test_cpus_are_counted_with_gaps(told: str, count: int) -> None:
    assert possible_cpus(told) == count


def test_the_kernels_reason_is_told(loaded: Loaded) -> None:
    with pytest.raises(Rejected, match=r"(?s)bad: .*R0 !read_ok"):
        loaded.program("bad")
    with pytest.raises(ProbeError, match="no_such_tracepoint: No such file"):
        loaded.attach("no_such_tracepoint", "good")


def test_a_signal_is_no_reason_to_reject_a_program(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier ends with EAGAIN then: here the first times."""
    attempts = []

    def interrupted(command: int, attributes: bytes) -> int:
        attempts.append(command)
        if len(attempts) < 4:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return bpf(command, attributes)

    monkeypatch.setattr(kernel, "bpf", interrupted)
    assert loaded.program("good") >= 0
    assert len(attempts) == 4


def test_close_leaves_nothing(loaded: Loaded) -> None:
    gc.collect()   # what other tests have left
    before = set(Path("/proc/self/fd").iterdir())
    other = Loaded(Compiled(MAPS, {"good": RETURN_0}))
    other.attach("sys_enter", "good")
    other.detach("sys_enter")
    other.detach("sys_enter")
    other.attach("sys_exit", "good")
    other.close()
    other.close()
    with pytest.raises(ProbeError, match="the map too_many: "):
        Loaded(Compiled((*MAPS, MapDefinition("too_many", HASH, 8, 8, 0xFFFFFFFF, 0, "int", "long long")), {}))
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_what_was_compiled_is_not_compiled_again(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what was compiled from another text, or for another kernel, taken for it."""
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "cache"))
    import_bcc()   # which opens what it keeps
    gc.collect()
    before = set(Path("/proc/self/fd").iterdir())
    Tracer(light=True).close()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert set(Path("/proc/self/fd").iterdir()) == before

    def compile_again(*_: object, **__: object) -> None:
        raise AssertionError("it was compiled again")

    monkeypatch.setattr(import_bcc(), "BPF", compile_again)
    Tracer(light=True).close()   # which tests itself
    with pytest.raises(Exception, match="compiled again"):
        Tracer(light=True, by_thread=True)
    another = SimpleNamespace(release=platform.release(), version="#2", machine=platform.machine())
    monkeypatch.setattr(os, "uname", lambda: another)
    with pytest.raises(Exception, match="compiled again"):
        Tracer(light=True)


COMPILE_IN_A_THREAD = """
import threading
from cwasi_fastpath.tracer import Tracer
made = []
thread = threading.Thread(target=lambda: made.append(Tracer(light=True)))
thread.start()
thread.join()
made[0].close()
"""


def test_they_are_compiled_wherever_in_memory_the_compiler_is(loaded: Loaded, tmp_path: Path) -> None:
    """What a thread allocates has an address beyond 32 bits."""
    environment = {**os.environ, ENVIRONMENT: str(tmp_path / "cache")}
    command = [sys.executable, "-c", COMPILE_IN_A_THREAD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert len(list((tmp_path / "cache").iterdir())) == 1
