"""cwasi-trace -p: processes that ran before it and know nothing of it, in intervals, by thread."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from cwasi_fastpath.tracer import requirements

TRACE = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
SECONDS = 240.0
MANY = 1009

# Does one thing for every line that it reads; says when it is done. Ends by itself when nobody asks any more.
WORKER = """
import os, signal, subprocess, sys, threading
signal.alarm(600)
null = os.open("/dev/null", os.O_WRONLY)
def write(times):
    for _ in range(times):
        os.pwrite(null, b"xy", 0)
def fail(times):
    for _ in range(times):
        try:
            os.rmdir("/nowhere/here")
        except OSError:
            pass
def threads(*counts):
    def body(times):
        write(times)
        told.append(f"{threading.get_native_id()}={times}")
    told = []
    running = [threading.Thread(target=body, args=(times,)) for times in counts]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return " ".join(told)
def child(times):
    subprocess.run([sys.executable, "-c",
        f"import os\\nfd = os.open('/dev/null', 1)\\nfor _ in range({times}): os.pwrite(fd, b'xy', 0)"], check=True)
print("ready", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


@pytest.fixture(autouse=True)
def needs_tracing() -> None:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")


class Worker:
    """A process that does as it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def does(self, what: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._line()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


class Trace:
    """A running cwasi-trace."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    @property
    def out(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def line(self) -> Any:
        """The next interval."""
        return json.loads(self.out.readline())

    def until_said(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"it ended and never said {text!r}, but {self.said}")

    def stops(self) -> str:
        """All that is left of its output, after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.rest()

    def rest(self) -> str:
        stdout, stderr = self.process.communicate(timeout=SECONDS)
        self.said.append(stderr)
        assert self.process.returncode == 0, self.said
        return stdout


@contextmanager
def tracing(*args: str) -> Iterator[Trace]:
    with subprocess.Popen(
        [*TRACE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        end = threading.Timer(SECONDS, process.kill)
        end.start()
        try:
            trace = Trace(process)
            trace.until_said("Ctrl-C to quit")
            yield trace
        finally:
            end.cancel()
            process.kill()


def counted(report: dict[str, Any], syscall: str = "pwrite64") -> int:
    return sum(row["count"] for row in report["rows"] if row["syscall"] == syscall)


def test_counts_what_a_process_that_ran_already_does(worker: Worker) -> None:
    worker.does(f"write({MANY})")   # before, so not counted
    with tracing("--json", "-p", str(worker.pid)) as trace:
        worker.does(f"write({MANY})")
        report = json.loads(trace.stops())
    (row,) = [row for row in report["rows"] if row["syscall"] == "pwrite64"]
    assert (row["count"], row["bytes"], row["function"]) == (MANY, 2 * MANY, None)
    assert row["process"]["pid"] == worker.pid and report["pids"] == [worker.pid]
    assert {row["process"]["pid"] for row in report["rows"]} == {worker.pid}, "nobody else is traced"
    assert worker.process.poll() is None, "it goes on"


def test_threads_and_children_that_come_later(worker: Worker) -> None:
    with tracing("--json", "-p", str(worker.pid)) as trace:
        worker.does("threads(23, 29)")
        worker.does("child(31)")
        report = json.loads(trace.stops())
    by_pid = {row["process"]["pid"]: row["count"] for row in report["rows"] if row["syscall"] == "pwrite64"}
    assert by_pid.pop(worker.pid) == 23 + 29
    assert list(by_pid.values()) == [31]


def test_one_function_of_a_host_that_ran_already(worker: Worker) -> None:
    worker.does("exec('import cwasi_fastpath as cwasi')")
    worker.does("exec('with cwasi.function(\"early\"): pass')")   # from now on it listens for tracers
    with tracing("--json", "-g", "resize", "-p", str(worker.pid)) as trace:
        worker.does("write(31)")
        worker.does("exec('with cwasi.function(\"resize\"): write(23)')")
        worker.does("exec('with cwasi.function(\"detect\"): write(29)')")
        report = json.loads(trace.stops())
    assert [(row["function"], row["count"]) for row in report["rows"]] == [("resize", 23)]


def test_by_thread(worker: Worker) -> None:
    with tracing("--json", "--by", "thread", "-p", str(worker.pid)) as trace:
        told = worker.does("threads(23, 29, 31)")
        worker.does("write(37)")
        report = json.loads(trace.stops())
    expected = {int(tid): int(times) for tid, times in (pair.split("=") for pair in told.split())}
    rows = [row for row in report["rows"] if row["syscall"] == "pwrite64"]
    assert {row["process"]["tid"]: row["count"] for row in rows} == {**expected, worker.pid: 37}


def test_two_processes(worker: Worker) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        other = Worker(process)
        with tracing("--json", "-p", str(worker.pid), "-p", str(other.pid)) as trace:
            worker.does("write(23)")
            other.does("write(29)")
            report = json.loads(trace.stops())
        process.kill()
    by_pid = {row["process"]["pid"]: row["count"] for row in report["rows"] if row["syscall"] == "pwrite64"}
    assert by_pid == {worker.pid: 23, other.pid: 29}


def test_intervals_are_what_came_in_each(worker: Worker) -> None:
    with tracing("--json", "-p", str(worker.pid), "0.1") as trace:
        lines = [trace.line()]
        worker.does(f"write({MANY})")
        while sum(map(counted, lines)) < MANY:
            lines.append(trace.line())
        worker.does("write(23)")
        lines += [json.loads(line) for line in trace.stops().splitlines()]
    assert sum(map(counted, lines)) == MANY + 23
    assert [line["interval"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["schema"] for line in lines} == {4}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert all(line["seconds"] > 0 for line in lines)


def test_so_many_intervals_with_the_time(worker: Worker) -> None:
    done = subprocess.run(
        [*TRACE, "-T", "-p", str(worker.pid), "0.1", "3"], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    times = [line for line in done.stdout.splitlines() if re.fullmatch(r"\d\d:\d\d:\d\d", line)]
    assert len(times) == 3 == done.stdout.count("The tracer itself used")


def test_for_some_time(worker: Worker) -> None:
    done = subprocess.run(
        [*TRACE, "--json", "-d", "0.2", "-p", str(worker.pid)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0 and json.loads(done.stdout)["seconds"] >= 0.2, done.stderr


def test_only_what_failed(worker: Worker) -> None:
    with tracing("--json", "-x", "-p", str(worker.pid)) as trace:
        worker.does(f"write({MANY})")
        worker.does("fail(23)")
        report = json.loads(trace.stops())
    assert {row["syscall"]: row["count"] for row in report["rows"]}["rmdir"] == 23
    assert counted(report) == 0


def test_ends_with_its_process(worker: Worker) -> None:
    with tracing("--json", "-p", str(worker.pid)) as trace:
        worker.does("write(23)")
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        worker.process.wait(SECONDS)
        report = json.loads(trace.rest())
    assert counted(report) == 23


def test_an_unmodified_wasmtime_program() -> None:
    program = """
import sys, wasmtime
module = '''(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "run")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 1009))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))'''
engine = wasmtime.Engine()
store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
config = wasmtime.WasiConfig()
config.stdout_file = "/dev/null"
store.set_wasi(config)
linker.define_wasi()
run = linker.instantiate(store, wasmtime.Module(engine, module)).exports(store)["run"]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(23):
    run(store)
print("done", flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with tracing("--json", "--by", "thread", "-p", str(process.pid)) as trace:
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            report = json.loads(trace.stops())
        process.communicate("", timeout=SECONDS)
    written = [row for row in report["rows"] if row["bytes"] and "write" in row["syscall"]]
    assert sum(row["bytes"] for row in written) == 23 * 1009 + len("done\n"), written
    assert sum(row["count"] for row in written) > 23
    assert {row["process"]["pid"] for row in written} == {process.pid}


def test_from_inside_a_pid_namespace() -> None:
    body = "import signal, time\nsignal.alarm(300)\nwhile True: time.sleep(0.01)"
    trace = " ".join([*TRACE, "--json", "-d", "1", "-p", "$!"])
    script = f'{sys.executable} -c "$0" & {trace}; status=$?; echo $!; kill $!; exit $status'
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, body],
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text, _, pid = done.stdout.strip().rpartition("\n")
    rows = json.loads(text)["rows"]
    assert {row["process"]["pid"] for row in rows} == {int(pid)}
    assert "clock_nanosleep" in {row["syscall"] for row in rows}


def test_a_process_of_another_pid_namespace() -> None:
    program = "import os, sys\nfd = os.open('/dev/null', 1)\nprint('ready', flush=True)\nsys.stdin.readline()\n"
    program += "for _ in range(23): os.pwrite(fd, b'x', 0)\nprint('done', flush=True)\nsys.stdin.readline()"
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        with tracing("--json", "-p", child) as trace:
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            report = json.loads(trace.stops())
        process.stdin.close()
    assert counted(report) == 23
    assert {row["process"]["pid"] for row in report["rows"]} == {int(child)}


# ---- what it costs ----


def test_a_budget_that_is_exceeded_leaves_out_system_calls(worker: Worker) -> None:
    with tracing("--json", "--max-overhead", "0.00001%", "-p", str(worker.pid), "0.1") as trace:
        worker.does(f"write({MANY})")
        trace.until_said("system calls are left out from now on")
        while not (line := trace.line())["light"]:
            pass
        worker.does(f"write({MANY})")
        light = [json.loads(text) for text in trace.stops().splitlines()]
    assert light and all(line["light"] and counted(line) == 0 for line in light)
    lacks = {lack["name"]: lack["reason"] for lack in line["missing"]}
    assert "over --max-overhead 1e-05%" in lacks["system calls"]
    assert any(line["scheduling"] for line in light), "switches are counted still"


def test_a_budget_that_is_kept_changes_nothing(worker: Worker) -> None:
    with tracing("--json", "--max-overhead", "10000%", "-p", str(worker.pid)) as trace:
        worker.does(f"write({MANY})")
        report = json.loads(trace.stops())
    assert counted(report) == MANY and not report["light"]


# ---- bad input ----


def refused(*args: str) -> str:
    done = subprocess.run([*TRACE, *args], capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (69, ""), done.stderr
    return done.stderr


def test_a_process_that_is_not_there() -> None:
    assert refused("-p", "2147483647") == "cwasi-trace: there is no process 2147483647\n"


def test_a_process_that_has_ended() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)   # a zombie, which keeps its pid
    assert "has ended" in refused("-p", str(ended.pid))
    ended.wait()


def test_a_thread_is_no_process() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert "is a thread" in refused("-p", str(thread.native_id))
    finally:
        done.set()
        thread.join()


def test_a_function_that_does_nothing(worker: Worker) -> None:
    done = subprocess.run(
        [*TRACE, "-g", "blur", "-d", "0.1", "-p", str(worker.pid)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 69 and "function 'blur' did nothing" in done.stderr


@pytest.mark.parametrize("args", [["1", "x"], ["moon"], ["1", "2", "3"], ["0"], ["1", "0"]])
def test_bad_intervals(args: list[str]) -> None:
    done = subprocess.run([*TRACE, "-p", str(os.getpid()), *args], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 2 and "after -p" in done.stderr
