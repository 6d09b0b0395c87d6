"""The tracer counts exactly, and charges each call to who made it. Needs root and python3-bpfcc, else it skips."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from channels import eventually
from tracing import HOST, attached, calls, owner_name, traced, traced_host

from cwasi_fastpath.trace_report import Process, TraceReport
from cwasi_fastpath.tracer import Tracer


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    with attached() as tracer:
        yield tracer


def processes(report: TraceReport) -> set[Process]:
    return {row.owner for row in report.rows if isinstance(row.owner, Process)}


# ---- who is charged ----


def test_functions_on_two_threads_are_told_apart(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
ids = {name: ask({"function": name})["id"] for name in ("resize", "detect")}

def run(name, times):
    enter(ids[name])
    write(times)
    enter(0)

threads = [threading.Thread(target=run, args=work) for work in (("resize", 23), ("detect", 1009))]
for thread in threads: thread.start()
for thread in threads: thread.join()
write(7)
""",
    )
    assert calls(report, "resize") == (23, 23)
    assert calls(report, "detect") == (1009, 1009)
    (process,) = processes(report)
    assert calls(report, str(process)) == (7, 7)


def test_functions_alternate_on_one_thread(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
a, b = (ask({"function": name})["id"] for name in ("a", "b"))
for _ in range(101):
    enter(a); write(2)
    enter(b); write(3)
    enter(0); write(5)
""",
    )
    assert [calls(report, owner)[0] for owner in ("a", "b")] == [202, 303]
    assert sum(row.count for row in report.rows if row.syscall == "write") == 1010


def test_eight_functions_in_four_threads_are_never_mixed_up(tracer: Tracer) -> None:
    """Two on each thread, thousands of changes in all; each makes a number of calls of its own."""
    report = traced_host(
        tracer,
        """
ids = [ask({"function": f"f{i}"})["id"] for i in range(8)]

def run(first):
    for _ in range(503):
        for i in (first, first + 1):
            enter(ids[i])
            write(i + 1)
            os.write(null, b"x" * (i + 1))
        enter(0)

threads = [threading.Thread(target=run, args=[first]) for first in (0, 2, 4, 6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    )
    for i in range(8):
        assert calls(report, f"f{i}") == (503 * (i + 2), 503 * 2 * (i + 1))
    assert sum(row.count for row in report.rows if row.syscall == "write") == 503 * sum(range(2, 10))


def test_a_call_is_charged_to_who_entered_it(tracer: Tracer) -> None:
    """The slot changes while the thread is inside the call."""
    report = traced_host(
        tracer,
        """
import time
READ = {"x86_64": "0"}.get(os.uname().machine, "63")
a, b = (ask({"function": name})["id"] for name in ("entered", "left"))
out, into = os.pipe()

def change(tid):
    slots[slot(tid) + 1] = b
    os.write(into, b"0123456789")

enter(a)
def change_when_inside(tid):
    while open(f"/proc/self/task/{tid}/syscall").read().split()[0] != READ:
        time.sleep(0.001)
    change(tid)

other = threading.Thread(target=change_when_inside, args=[threading.get_native_id()])
enter(0)
other.start()
enter(a)
os.read(out, 10)
enter(0)
other.join()
""",
    )
    assert calls(report, "entered", "read") == (1, 10)
    assert calls(report, "left", "read") == (0, 0)


def test_children_are_followed_and_are_not_the_functions(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
import subprocess
enter(ask({"function": "forks"})["id"])
write(23)
if os.fork() == 0:
    write(7)
    os._exit(0)
os.wait()
subprocess.run(["sh", "-c", "true; dd if=/dev/zero of=/dev/null bs=1 count=1009 status=none; true"])
enter(0)
""",
    )
    assert calls(report, "forks") == (23, 23)
    assert calls(report, "[dd]") == (1009, 1009)
    assert sum(row.count for row in report.rows if row.syscall == "write") == 23 + 7 + 1009


def test_threads_and_processes_that_come_and_go_are_all_counted(tracer: Tracer) -> None:
    """Thousands of records, where many had an address that another one had before, traced or not."""
    report = traced_host(
        tracer,
        """
for _ in range(53):
    threads = [threading.Thread(target=write, args=[7]) for _ in range(19)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    if os.fork() == 0:
        write(11)
        os._exit(0)
    os.wait()
""",
    )
    assert sum(row.count for row in report.rows if row.syscall == "write") == 53 * (19 * 7 + 11)


def test_many_calls_are_counted_exactly(tracer: Tracer) -> None:
    argv = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=200003", "status=none"]
    report = traced(tracer, argv)
    assert calls(report, "[dd]") == (200003, 200003)
    assert {str(row.owner) for row in report.rows} == {"[dd]"}


@pytest.mark.parametrize("start", ["run()", "threading.Thread(target=run).start(); threading.Event().wait()"])
def test_an_exec_ends_the_function(tracer: Tracer, start: str) -> None:
    """Nobody is left who could: the mapping is gone. Once the leader execs, once another thread."""
    report = traced_host(
        tracer,
        f"""
def run():
    enter(ask({{"function": "execs"}})["id"])
    write(23)
    os.execvp("dd", ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=1009", "status=none"])

{start}
""",
    )
    assert calls(report, "execs") == (23, 23)
    assert calls(report, "[dd]") == (1009, 1009)
    assert len(processes(report)) == 1


def test_a_dead_threads_slot_is_cleared(tracer: Tracer) -> None:
    """Its tid is used again by a thread that runs no function."""
    traced_host(
        tracer,
        """
import time
def run():
    enter(ask({"function": "dies"})["id"])

thread = threading.Thread(target=run)
thread.start()
tid = thread.native_id
thread.join()
deadline = time.monotonic() + 60
while any(slots[slot(tid) : slot(tid) + 2]):
    assert time.monotonic() < deadline, "the slot of a dead thread is still set"
""",
    )


def test_an_id_that_nobody_was_given_is_other(tracer: Tracer) -> None:
    report = traced_host(tracer, "enter(0xffffffff); write(23); enter(999); write(7); enter(0)")
    assert calls(report, "other") == (30, 30)


def sleeps(pid: int) -> bool:
    """Whether it is in clock_nanosleep."""
    number = {"x86_64": "230"}.get(os.uname().machine, "115")
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == number


def test_a_call_that_has_not_returned_is_not_counted_yet(tracer: Tracer) -> None:
    before = tracer.snapshot()
    with tracer.spawn(["sleep", "100"]) as process:
        deadline = time.monotonic() + 60
        while not sleeps(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        asleep = tracer.snapshot().since(before)
        process.kill()
    assert calls(asleep, "[sleep]", "clock_nanosleep") == (0, 0)
    assert asleep.calls > 10
    again = traced(tracer, ["true"])
    assert {str(row.owner) for row in again.rows} == {"[true]"}


def test_a_call_that_seccomp_refused_is_not_the_one_before_it(tracer: Tracer) -> None:
    """The kernel reports the end of such a call, but not its start."""
    report = traced_host(
        tracer,
        """
import ctypes, struct
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER, EPERM = 38, 22, 2, 1
getppid = {"x86_64": 110}.get(os.uname().machine, 173)
program = b"".join(struct.pack("HBBI", *op) for op in (
    (0x20, 0, 0, 0),            # load the number
    (0x15, 0, 1, getppid),      # if it is getppid
    (0x06, 0, 0, 0x50000 | EPERM),
    (0x06, 0, 0, 0x7fff0000),   # else allow
))
code = ctypes.create_string_buffer(program)
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert prctl(PR_SET_SECCOMP, FILTER, struct.pack("HxxxxxxP", 4, ctypes.addressof(code)), 0, 0) == 0
enter(ask({"function": "refused"})["id"])
write(23)
for _ in range(101):
    os.getppid()
enter(0)
""",
    )
    assert calls(report, "refused") == (23, 23)
    assert calls(report, "refused", "getppid") == (0, 0)


def test_the_environment_is_the_one_given_and_the_tracers(tracer: Tracer) -> None:
    with tracer.spawn(["/usr/bin/env"], env={}, stdout=subprocess.PIPE, text=True) as command:
        stdout, _ = command.communicate()
    assert dict(line.split("=", 1) for line in stdout.splitlines()) == tracer.environment()


def test_a_command_that_cannot_start_leaves_no_order_behind(tracer: Tracer) -> None:
    before = tracer.snapshot()
    with pytest.raises(FileNotFoundError):
        tracer.spawn(["/nonexistent"])
    with pytest.raises(ValueError, match="null byte"):  # before any fork
        tracer.spawn(["a\0b"])
    subprocess.run(["true"], check=True)
    assert tracer.snapshot().since(before).rows == ()


def test_classes_are_the_sums_of_their_calls(tracer: Tracer) -> None:
    """And every call is in the histogram of its class, in the bucket that its time belongs to."""
    report = traced_host(
        tracer,
        """
import time
enter(ask({"function": "classes"})["id"])
write(1009)
for _ in range(23):
    time.sleep(0.003)
for _ in range(101):
    socket.socket().close()
for _ in range(11):
    mmap.mmap(-1, 4096).close()
enter(0)
""",
    )
    rows = {row.kind: row for row in report.classes if owner_name(row.owner) == "classes"}
    assert (rows["io"].count, rows["io"].bytes) == (1009, 1009)
    assert rows["wait"].count >= 23  # and futexes
    assert rows["network"].count == 101
    assert rows["memory"].count >= 22
    assert sum(rows["wait"].histogram[21:]) >= 23  # 3 ms are 2^21.5 ns
    assert rows["wait"].ns >= 23 * 3_000_000
    for row in report.classes:
        assert sum(row.histogram) == row.count
        assert sum(count << n for n, count in enumerate(row.histogram) if n) <= row.ns
        assert row.ns <= sum(count << n + 1 for n, count in enumerate(row.histogram)) or row.histogram[-1]
    assert sum(row.count for row in report.classes) == report.calls


def test_bytes_are_those_of_calls_that_move_some(tracer: Tracer) -> None:
    report = traced(tracer, ["true"])
    assert all(row.bytes == 0 for row in report.rows if row.syscall in ("mmap", "brk", "openat"))
    assert calls(report, "[true]", "mmap")[0] > 0


# ---- life and death ----


def test_close_leaves_nothing(tracer: Tracer) -> None:
    before = _descriptors()
    other = Tracer()
    other.close()
    other.close()
    eventually(lambda: _descriptors() <= before)   # those of hosts that have left may go meanwhile
    with pytest.raises(ValueError, match="closed"):
        other.spawn(["true"])
    with pytest.raises(ValueError, match="closed"):
        other.snapshot()


def test_kill_9_leaves_no_programs_and_no_maps(tracer: Tracer) -> None:
    script = """
import os, re, signal
from pathlib import Path
from cwasi_fastpath.tracer import Tracer
tracer = Tracer()
tracer.spawn(["sleep", "0.01"]).wait()
for fd in os.listdir("/proc/self/fd"):
    try:
        print(*re.findall(r"(prog|map)_id:\\t(\\d+)", Path("/proc/self/fdinfo", fd).read_text())[:1])
    except OSError:
        pass
print("end", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL and "end" in done.stdout, done.stderr
    left = {(kind, int(number)) for kind, number in _pairs(done.stdout)}
    assert {kind for kind, _ in left} == {"prog", "map"}
    assert len(left) >= 5 + 6
    _wait_until_gone(left)


def test_kill_9_of_the_command_leaves_nothing_but_what_it_traced(tracer: Tracer, tmp_path: Path) -> None:
    """Killed in the middle of all that it does, with a host that has a map; nothing is pinned, either."""
    trace = [sys.executable, "-m", "cwasi_fastpath.cli.trace", "--record", str(tmp_path / "it"), "--openmetrics=:0"]
    body = HOST + '''
enter(ask({"function": "goes-on"})["id"])
print("in", flush=True)
for line in sys.stdin:
    write(23)
    print(line, end="", flush=True)
'''
    argv = [*trace, "--", sys.executable, "-c", body]
    pinned = _pinned()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stderr is not None
        try:
            assert "in\n" in iter(process.stderr.readline, "")
            held = _held(process.pid)
            assert {kind for kind, _ in held} == {"prog", "map", "link"}
            assert all(_bpf_object_exists(*item) for item in held)
        finally:
            process.kill()
        process.stdin.write("goes on\n")   # to the command, which has its map until it ends
        process.stdin.flush()
        assert process.stderr.readline() == "goes on\n"
    _wait_until_gone(held)
    assert _pinned() == pinned


def _descriptors() -> set[tuple[str, str]]:
    """Of this process: the number of each, and what it is of."""
    gc.collect()
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):   # that by which we look, and what others close
            found.add((descriptor.name, str(descriptor.readlink())))
    return found


def _held(pid: int) -> set[tuple[str, int]]:
    """The programs, maps and links that a process has descriptors of."""
    held = set()
    for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):   # closed meanwhile
            held |= set(re.findall(r"^(prog|map|link)_id:\t(\d+)", descriptor.read_text(), re.M))
    return {(kind, int(number)) for kind, number in held}


def _pinned() -> set[Path]:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - bpf " in line]
    return {path for mount in mounts for path in Path(mount).rglob("*")}


def _wait_until_gone(left: set[tuple[str, int]]) -> None:
    """The kernel frees them a grace period later, and a host that knows its map when it has ended."""
    deadline = time.monotonic() + 240
    while left:
        assert time.monotonic() < deadline, left
        left = {item for item in left if _bpf_object_exists(*item)}
        time.sleep(0.05)


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(kind, number) for line in text.splitlines() if line.startswith("(") for kind, number in [eval(line)]]


def _bpf_object_exists(kind: str, number: int) -> bool:
    command = {"prog": 11, "map": 12, "link": 31}[kind]  # BPF_PROG_GET_NEXT_ID, BPF_MAP_..., BPF_LINK_...
    attributes = ctypes.create_string_buffer(struct.pack("III", number - 1, 0, 0), 12)
    bpf = {"x86_64": 321}.get(os.uname().machine, 280)
    if ctypes.CDLL(None).syscall(bpf, command, attributes, 12) != 0:
        return False
    return bool(struct.unpack("III", attributes.raw)[1] == number)
