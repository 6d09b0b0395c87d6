"""What threads did, and how busy the cores are, by the kernel's own figures."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from channels import eventually

from cwasi_fastpath import proc_file
from cwasi_fastpath.placing import STAT, busy_ns
from cwasi_fastpath.proc_file import ProcFile
from cwasi_fastpath.thread_watch import Ran, Watch


def opened(path: Path) -> int:
    """How many descriptors this process has of that file."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):   # another thread has closed it
            found += descriptor.readlink() == path
    return found


@contextmanager
def a_thread() -> Iterator[int]:
    """Its number, while it sleeps."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    try:
        yield thread.native_id
    finally:
        over.set()
        thread.join()
        # Python is done with it sooner than the kernel.
        eventually(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists())


def test_a_thread_that_runs_and_one_that_sleeps() -> None:
    mine = Watch(threading.get_native_id())
    first = mine.since()
    again = mine.since()
    assert first is not None and again is not None and 0 < again.ran < first.ran
    assert mine.last_core() in os.sched_getaffinity(0)
    mine.close()
    with a_thread() as number:
        other = Watch(number)
        assert other.since() is not None
        eventually(lambda: other.since() == Ran(0, 0))   # once it sleeps
        other.close()


def test_what_was_not_seen_is_not_taken_for_what_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no more files could be opened."""

    def fails(file: ProcFile) -> bytes:
        raise OSError(errno.EMFILE, "too many open files")

    mine = Watch(threading.get_native_id())
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(ProcFile, "read", fails)
            assert mine.since() is None
        assert mine.since() is None, "since when it is not known"
        again, whole = mine.since(), mine.ran()
        assert again is not None and whole is not None and 0 < again.ran < whole.ran
    mine.close()


def test_a_thread_that_is_gone() -> None:
    with a_thread() as number:
        asked, late = Watch(number), Watch(number)
        assert asked.ran() is not None and asked.last_core() is not None
    for watch in (asked, late):
        assert watch.ran() is watch.since() is watch.last_core() is None
        watch.close()


def test_files_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    file = ProcFile(str(path))
    file.close()
    assert file.read() == file.read() == b"one" and opened(path) == 1
    file.close()
    file.close()
    assert opened(path) == 0 and file.read() == b"one"
    file.close()
    with pytest.raises(FileNotFoundError):
        ProcFile(str(tmp_path / "none")).read()


def test_a_long_file_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc_file, "_CHUNK", 4)
    for length in (0, 3, 4, 8, 9):
        (tmp_path / str(length)).write_bytes(bytes(range(length)))
        file = ProcFile(str(tmp_path / str(length)))
        assert file.read() == bytes(range(length))
        file.close()


def test_busy_cores(tmp_path: Path) -> None:
    real = ProcFile(STAT)
    assert busy_ns(real).keys() >= os.sched_getaffinity(0) and min(busy_ns(real).values()) > 0
    real.close()
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    for text, found in (
        (b"cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 99 99 4 5 6 7 8\ncpu7 1 0 0 0 0 0 0 0\nintr 5\ncpu8 1 1 1 1 1 1 1 1\n",
         {0: 21 * tick, 7: tick}),
        (b"", {}), (b"cpu0 a b c d e f g h\n", {}), (b"cpu0 1 2\n", {}),
    ):  # fmt: skip
        (tmp_path / "stat").write_bytes(text)
        file = ProcFile(str(tmp_path / "stat"))
        assert busy_ns(file) == found
        file.close()
    assert busy_ns(ProcFile(str(tmp_path / "none"))) == {}
