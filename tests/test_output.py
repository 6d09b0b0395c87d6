"""What guests print: whole lines, whatever pieces they print them in."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from channels import descriptors, eventually
from conftest import WriteModule

from cwasi_fastpath import errors
from cwasi_fastpath.output import Output

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]
HANG = 60.0
LINES = 300
PRINTS_IN_PIECES = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 32) "all of this is one line\\n")
  (func $piece (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") (local $left i32)
    (local.set $left (i32.const 300))
    (loop $again
      (call $piece (i32.const 32) (i32.const 12))
      (call $piece (i32.const 44) (i32.const 11))
      (call $piece (i32.const 55) (i32.const 1))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"""


def threads() -> int:
    return psutil.Process().num_threads()


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    argv = [*CWASI, "run", *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=HANG, **options)   # type: ignore[call-overload,no-any-return]


def read_all(read: int) -> Callable[[], bytes]:
    """Reads on a thread of its own until the end; call the result to get it."""
    found: list[bytes] = []

    def drain() -> None:
        while data := os.read(read, 1 << 20):
            found.append(data)

    thread = threading.Thread(target=drain)
    thread.start()

    def result() -> bytes:
        thread.join(HANG)
        assert not thread.is_alive()
        return b"".join(found)

    return result


@pytest.mark.parametrize("mode", ["local", "proximal"])
def test_the_lines_of_several_guests_stay_whole(module: WriteModule, mode: str) -> None:
    path = module(PRINTS_IN_PIECES, "printer")
    done = run(*(f"p{i}={path}" for i in range(4)), "--mode", mode, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    assert Counter(done.stdout.splitlines()) == {b"all of this is one line": 4 * LINES}


def test_beside_a_report_they_stay_whole_too(module: WriteModule, tmp_path: Path) -> None:
    path = module(PRINTS_IN_PIECES, "printer")
    log = tmp_path / "log"
    log.write_text("kept\n")
    with log.open("ab") as err:
        done = run(*(f"p{i}={path}" for i in range(4)), "--json", stdout=subprocess.PIPE, stderr=err)
    assert done.returncode == 0 and json.loads(done.stdout)["edges"] == []
    assert Counter(log.read_text().splitlines()) == {"kept": 1, "all of this is one line": 4 * LINES}


def test_lines_without_an_end_and_long_ones_come_too() -> None:
    read, write = os.pipe()
    result = read_all(read)
    output = Output(write)
    long = b"x" * 300_000
    with output.source() as one, output.source() as other:
        one.write_bytes(b"begin " + long)
        other.write_bytes(b"whole\nrest")
        with one.open("ab") as file:
            file.write(b" end")
    os.close(write)
    found = result()
    os.close(read)
    assert found.count(b"x") == len(long) and b"begin " in found and found.index(b" end") > found.index(b"begin ")
    assert b"whole\n" in found and found.endswith(b" end")


def test_each_guest_s_bytes_come_once_and_in_order() -> None:
    read, write = os.pipe()
    result = read_all(read)
    output = Output(write)

    def talk(name: bytes) -> None:
        with output.source() as path, path.open("wb", buffering=0) as file:
            for number in range(2000):
                for piece in (name, b" %d" % number, b"\n"):
                    file.write(piece)

    talkers = [threading.Thread(target=talk, args=(name,)) for name in (b"a", b"b", b"c")]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join(HANG)
    os.close(write)
    lines = result().splitlines()
    os.close(read)
    for name in (b"a", b"b", b"c"):
        assert [line for line in lines if line.startswith(name)] == [name + b" %d" % number for number in range(2000)]
    assert len(lines) == 6000


def test_an_output_that_others_made_non_blocking() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    data = b"y" * 99 + b"\n"
    with Output(write).source() as path, path.open("wb") as file:
        printing = threading.Thread(target=file.write, args=(data * 20_000,))
        printing.start()
        while not select.select([read], [], [], HANG)[0]:
            pass
        result = read_all(read)   # only now: the pipe had time to be full
        printing.join(HANG)
    os.close(write)
    assert result() == data * 20_000
    os.close(read)


def test_nothing_is_left_behind() -> None:
    with Path(os.devnull).open("wb") as null:
        output = Output(null.fileno())
        with output.source():
            pass
        before = threads(), descriptors()
        for _ in range(50):
            with output.source() as path:
                path.write_bytes(b"line\n")
        for thread in threading.enumerate():
            if thread.name == "cwasi output":
                thread.join(HANG)
        assert descriptors() <= before[1]
        eventually(lambda: threads() <= before[0])   # Python is done with a thread sooner than the kernel


@pytest.mark.parametrize("what", ["os.eventfd", "select.epoll"])
def test_without_descriptors_nothing_is_left_either(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    with Path(os.devnull).open("wb") as null:
        output = Output(null.fileno())
        before = descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(what, Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
            with pytest.raises(OSError, match="Too many"), output.source():
                pass
        assert descriptors() == before
        with output.source() as path:
            path.write_bytes(b"line\n")


def test_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        output = Output(full.fileno())
        with pytest.raises(errors.OutputFailed, match="No space left on device"), output.source() as path:
            path.write_bytes(b"line\n")


def test_a_full_disk_ends_the_command_with_74(module: WriteModule) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(str(module(PRINTS_IN_PIECES)), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 74 and b"standard output took no more: No space left on device" in done.stderr


def test_a_reader_that_leaves_ends_the_guest_s_output(module: WriteModule) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(str(module(PRINTS_IN_PIECES)), stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert b"Traceback" not in done.stderr and b"OutputFailed" not in done.stderr


def test_a_closed_output(module: WriteModule) -> None:
    command = [*CWASI, "run", str(module(PRINTS_IN_PIECES))]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, timeout=HANG)
    assert b"Traceback" not in done.stderr
