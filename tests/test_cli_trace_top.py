"""cwasi-trace --top, in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from channels import eventually
from test_cli_trace_running import SECONDS, TRACE, Worker, needs_tracing, worker

__all__ = ["needs_tracing", "worker"]

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """What a person sees and types."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.seen = ""
        self._master = master

    def until(self, pattern: str) -> re.Match[str]:
        """Waits until it has been shown since the last time; what was shown before it is forgotten."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(pattern, plain(self.seen))):
            assert time.monotonic() < deadline, f"{pattern} was never in {plain(self.seen)!r}"
            self._more()
        self.seen = ""
        return found

    def _more(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 0.1)
        if ready:
            self.seen += os.read(self._master, 65536).decode(errors="replace")
        return bool(ready)

    def types(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def ends(self) -> str:
        """All that comes until the program ends."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None or self._more():
            assert time.monotonic() < deadline, "it does not end"
            self._more()
        return self.seen


def plain(text: str) -> str:
    """Without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[\d;]*[A-Za-ln-z]|\x1b\[[\d;]*m", "", text)


@contextmanager
def terminal(*args: str, rows: int = 40, columns: int = 120) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *TRACE, *args],
        stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": ""},
    )  # fmt: skip
    try:
        yield Terminal(process, master)
        assert termios.tcgetattr(slave) == before, "the terminal is as it was"
    finally:
        os.close(slave)
        os.close(master)
        process.kill()
        process.wait()


def test_shows_what_happens_and_ends_by_q(worker: Worker) -> None:
    with terminal("--top", "-p", str(worker.pid), "0.1") as screen:
        screen.until(r"sorted by time in calls")
        worker.does("write(1009)")
        screen.until(r"\[python\S*\] +[1-9][\d,]* ")
        assert screen.process.poll() is None
        screen.types(b"q")
        rest = screen.ends()
        assert screen.process.returncode == 0
        assert LEAVE in rest
        assert "The tracer itself used" in rest.split(LEAVE)[1], "the whole is printed at the end"
    assert worker.process.poll() is None


def test_can_be_sorted(worker: Worker) -> None:
    with terminal("--top", "--by", "thread", "-p", str(worker.pid), "0.1") as screen:
        screen.until("sorted by time in calls")
        for key, words in ((b"c", "calls"), (b"n", "name"), (b"o", "time off the CPU"), (b"w", "switches")):
            screen.types(key)
            screen.until(f"sorted by {words}")
        screen.types(b"r")
        screen.until("sorted by switches, reversed")
        screen.types(b"xyz\x1b[A\xff")   # not keys of ours
        screen.types(b"q")
        screen.ends()
        assert screen.process.returncode == 0


def test_ends_by_ctrl_c(worker: Worker) -> None:
    with terminal("--top", "-p", str(worker.pid)) as screen:
        screen.until("sorted by")
        screen.types(b"\x03")
        assert LEAVE in screen.ends()
        assert screen.process.returncode == 0
    assert worker.process.poll() is None


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_of_a_command_ends_the_command(key: bytes, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    body = (
        "import pathlib, signal, sys, time\nsignal.alarm(300)\nprint('no' + 'ise')\n"
        "pathlib.Path(sys.argv[1]).touch()\nwhile True: time.sleep(0.01)"
    )
    with terminal("--top", "-i", "0.1", "--", sys.executable, "-c", body, str(begun)) as screen:
        screen.until(r"\[python\S*\] +[1-9][\d,]* ")
        eventually(begun.exists)   # before that, Python may end in another way
        screen.types(key)
        rest = screen.ends()
        assert screen.process.returncode == 128 + signal.SIGINT
        assert "noise" not in rest, "what it prints would spoil the screen"


def test_ends_with_its_process(worker: Worker) -> None:
    with terminal("--top", "-p", str(worker.pid), "0.1") as screen:
        screen.until("sorted by")
        worker.process.kill()
        screen.ends()
        assert screen.process.returncode == 0


def test_fits_a_small_terminal(worker: Worker) -> None:
    with terminal("--top", "-p", str(worker.pid), "0.1", rows=10, columns=40) as screen:
        screen.until("sorted by")
        worker.does("write(1009)")
        screen.until(r"\[python\S*\] +[1-9]")
        screen.types(b"q")
        screen.ends()
        assert screen.process.returncode == 0


def test_wants_a_terminal(worker: Worker) -> None:
    for args, said in ((["--top"], "wants a terminal"), (["--top", "--json"], "one of them only")):
        done = subprocess.run(
            [*TRACE, *args, "-p", str(worker.pid)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 2 and said in done.stderr
