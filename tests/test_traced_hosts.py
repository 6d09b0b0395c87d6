"""Each host has a map of its own: whatever it does there, it charges nobody's calls but its own, and only its own to
names of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing import HOST, attached, calls, owner_name, traced, traced_host

from cwasi_fastpath.trace_report import TraceReport
from cwasi_fastpath.tracer import Tracer


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    with attached() as tracer:
        yield tracer


def writes(report: TraceReport) -> dict[str, int]:
    """By owner, as it is called in full."""
    return {str(row.owner): row.count for row in report.rows if row.syscall == "write"}


VICTIM = HOST + """
print(os.getpid(), flush=True)
enter(ask({"function": "victim"})["id"])
for _ in range(101):
    sys.stdin.readline()
    write(10)
    os.write(1, b"wrote\\n")
enter(0)
"""

# Whatever the victim's threads are called, by it or by us, all slots say so, with any id.
HOSTILE = HOST + """
import subprocess
victim = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
tid = int(victim.stdout.readline())
mine = ask({"function": "victim"})["id"]
ids = (mine, 1024 + mine, 2048 + mine, 0xffffffff)
for turn in range(101):
    for number in range(count):
        slots[2 * number], slots[2 * number + 1] = tid, ids[(number + turn) % 4]
    victim.stdin.write("go\\n")
    victim.stdin.flush()
    assert victim.stdout.readline() == "wrote\\n"
assert victim.wait() == 0
enter(mine); write(23); enter(0)
"""


def test_a_host_cannot_charge_anothers_calls(tracer: Tracer) -> None:
    """Not to itself, and its own not to the other's function, though it has one of that name."""
    report = traced(tracer, [sys.executable, "-c", HOSTILE, VICTIM])
    functions = {owner: count for owner, count in writes(report).items() if owner_name(owner) == "victim"}
    assert sorted(functions.values()) == [23, 101 * (10 + 1)]
    assert len(functions) == 2
    assert all(row.owner != "other" for row in report.rows)


def test_a_host_may_write_what_it_likes_into_its_own_map(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
mine = ask({"function": "scribbles"})["id"]
for value in (0xffffffff, 0x80000000, 1, 0):
    for at in range(len(slots)):
        slots[at] = value
    write(1)
slots[:] = memoryview(bytes(4 * len(slots))).cast("I")
enter(mine); write(1009); enter(0)
""",
    )
    assert calls(report, "scribbles") == (1009, 1009)
    assert sum(writes(report).values()) == 1013


def test_a_map_that_was_passed_on_is_worth_nothing(tracer: Tracer) -> None:
    """The process that has the connection after an exec is not the one that has joined."""
    body = """
import fcntl, subprocess
enter(ask({"function": "joined"})["id"])
write(23)
for descriptor in (control.fileno(), fds[0]):
    fcntl.fcntl(descriptor, fcntl.F_SETFD, 0)
heir = '''
import json, mmap, os, socket, sys, threading
control = socket.socket(fileno=int(sys.argv[1]))
namespace = os.stat("/proc/self/ns/pid")
control.send(json.dumps({"hello": 3, "namespace": [namespace.st_dev, namespace.st_ino]}).encode())
data, fds, _, _ = socket.recv_fds(control, 4096, 1)
count = json.loads(data)["slots"]
slots = memoryview(mmap.mmap(fds[0], 8 * count)).cast("I")
tid = threading.get_native_id()
for number in range(count):
    slots[2 * number], slots[2 * number + 1] = tid, 1
null = os.open("/dev/null", os.O_WRONLY)
for _ in range(1009):
    os.write(null, b"x")
'''
subprocess.run([sys.executable, "-c", heir, str(control.fileno())], check=True, close_fds=False)
enter(0)
"""
    report = traced_host(tracer, body)
    assert calls(report, "joined") == (23, 23)
    assert sum(writes(report).values()) == 23 + 1009


def test_a_host_without_a_connection_is_charged_to_its_process(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
import time
enter(ask({"function": "leaves"})["id"]); write(23)
witness = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.close()
witness.connect("\\0" + os.environ["CWASI_TRACER"][1:])
witness.send(HELLO)
witness.recv(4096)   # the tracer takes one after the other
write(7)
""",
    )
    assert calls(report, "leaves") == (23, 23)
    assert sum(writes(report).values()) == 30


MANY = """
import struct
hosts = int(sys.argv[1])
for number in range(hosts):
    out, into = os.pipe()
    if os.fork() == 0:
        exec(open(sys.argv[2]).read())
        enter(ask({"function": "one-of-many"})["id"])
        write(number % 7 + 1)
        enter(0)
        os._exit(0)
    assert os.wait()[1] == 0
    os.close(out); os.close(into)
"""


def test_hosts_may_follow_each_other(tracer: Tracer, tmp_path: Path) -> None:
    """More of them than have room at once; each has its row."""
    (tmp_path / "host.py").write_text(HOST)
    program = "import os, sys\n" + MANY
    report = traced(tracer, [sys.executable, "-c", program, "401", str(tmp_path / "host.py")])
    counted = [count for owner, count in writes(report).items() if owner_name(owner) == "one-of-many"]
    assert sorted(counted) == sorted(number % 7 + 1 for number in range(401))


def test_who_finds_no_room_is_counted_all_the_same(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
others = []
while True:
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.connect(control.getpeername())
    others.append(other)
    try:
        other.send(HELLO)
        reply, passed, _, _ = socket.recv_fds(other, 4096, 1)
    except OSError:
        break
    if b"error" in reply:   # if it was read before the connection was closed
        break
    for descriptor in passed:
        os.close(descriptor)
assert len(others) == 384, len(others)
write(1009)
""",
    )
    assert sum(writes(report).values()) == 1009


FORKS = """
import os, sys
import cwasi_fastpath as cwasi

null = os.open("/dev/null", os.O_WRONLY)

def write(times):
    for _ in range(times):
        os.write(null, b"x")

with cwasi.function("parent"):
    write(11)
    if os.fork() == 0:
        write(23)
        with cwasi.function("child"):
            write(101)
        os._exit(0)
    assert os.wait()[1] == 0
    with cwasi.function("late"):
        write(1009)
"""


def test_a_forked_child_is_a_host_of_its_own(tracer: Tracer) -> None:
    """It goes on with what its parent ran, under a name of its own; neither disturbs the other's numbers."""
    counted = writes(traced(tracer, [sys.executable, "-c", FORKS]))
    parents = {owner: count for owner, count in counted.items() if owner_name(owner) == "parent"}
    assert sorted(parents.values()) == [11, 23]
    assert {owner: count for owner, count in counted.items() if owner_name(owner) in ("child", "late")} == {
        "child": 101,
        "late": 1009,
    }


FORKS_AGAIN = """
import os, sys, socket
import cwasi_fastpath as cwasi

null = os.open("/dev/null", os.O_WRONLY)

def write(times):
    for _ in range(times):
        os.write(null, b"x")

others = []

def fill():
    while True:
        other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        other.settimeout(60)
        other.connect("\\0" + os.environ["CWASI_TRACER"][1:])
        others.append(other)
        try:
            other.send(b"{}")
            if b"first" not in other.recv(4096):
                return
        except OSError:
            return

with cwasi.function("older"):
    write(11)
    fill()
    r, w = os.pipe()
    if os.fork() == 0:
        os.read(r, 1)
        write(23)
        with cwasi.function("younger"):
            write(101)
        os._exit(0)
    with cwasi.function("elder"):
        write(7)
        os.write(w, b"x")
        assert os.wait()[1] == 0
"""


def test_a_forked_child_that_finds_no_room_is_charged_to_its_process() -> None:
    """And to no function of its parent's."""
    with attached() as tracer:
        counted = writes(traced(tracer, [sys.executable, "-c", FORKS_AGAIN]))
    assert (counted.pop("older"), counted.pop("elder")) == (11, 7 + 1)
    assert all(owner_name(owner).startswith("[") for owner in counted)
    assert sum(counted.values()) >= 23 + 101, "and what it says of that"


NO_THREADS = """
import os, resource
import cwasi_fastpath as cwasi

null = os.open("/dev/null", os.O_WRONLY)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
os.setresuid(65534, 65534, 65534)
with cwasi.function("no-threads"):
    for _ in range(1009):
        os.write(null, b"x")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_a_host_that_may_have_no_more_threads_is_charged_to_its_process(tracer: Tracer) -> None:
    """It would not hear of the tracer's end."""
    report = traced(tracer, [sys.executable, "-c", NO_THREADS])
    assert calls(report, "no-threads") == (0, 0)
    assert sum(writes(report).values()) >= 1009, "and what it says of that"


def test_hosts_outlive_the_tracer_and_the_next_starts_afresh() -> None:
    with attached() as first:
        command = first.spawn([sys.executable, "-c", HOST + """
enter(ask({"function": "outlives"})["id"]); print("in", flush=True)
sys.stdin.readline(); write(23)
"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert command.stdout is not None and command.stdout.readline() == "in\n"
    with attached() as second:
        command.communicate("go\n", timeout=60)
        assert command.returncode == 0
        assert writes(second.snapshot()) == {}
        report = traced_host(second, 'enter(ask({"function": "outlives"})["id"]); write(7)')
    assert writes(report)["outlives"] == 7


def test_a_process_that_is_not_traced_gets_no_place(tracer: Tracer) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):   # nor does it take one
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(60)
            client.connect("\0" + tracer.environment()["CWASI_TRACER"][1:])
            assert "error" in json.loads(client.recv(4096))
    deadline = time.monotonic() + 60
    while len(list(Path("/proc/self/fd").iterdir())) >= before + 10:
        assert time.monotonic() < deadline
    report = traced_host(tracer, 'enter(ask({"function": "finds-room"})["id"]); write(23)')
    assert calls(report, "finds-room") == (23, 23)


LINGERS = """
import struct

def connect():
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.settimeout(60)
    other.connect(control.getpeername())
    return other

server = socket.create_server(("127.0.0.1", 0))
lingers = socket.create_connection(server.getsockname())
reader, _ = server.accept()   # never reads
lingers.setblocking(False)
try:
    while True:
        lingers.send(b"x" * 65536)
except BlockingIOError:
    pass
lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
left, unread, asks, second = connect(), connect(), connect(), connect()
sends_two = [null, lingers.fileno()]
socket.send_fds(left, [b"{}"], sends_two)
socket.send_fds(unread, [b"{}"], sends_two)
threading.Thread(target=lingers.close, daemon=True).start()   # ours takes as long, where the tracer was faster
left.close(); unread.close()
for other in (asks, second):
    other.send(b"{}")
    assert b"error" in other.recv(4096)
"""


def test_a_host_may_give_the_tracer_what_takes_long_to_close() -> None:
    """A socket that lingers until we give up: the others are served, and the trace ends."""
    with attached() as tracer:
        report = traced_host(tracer, LINGERS + 'enter(ask({"function": "goes-on"})["id"]); write(23)')
        assert calls(report, "goes-on") == (23, 23)


# ---- the threads that wasmtime starts for WASI ----


def test_workers_of_wasi_are_the_hosts(tracer: Tracer) -> None:
    """By the name that they give themselves; what comes before it is the process's."""
    report = traced_host(
        tracer,
        """
import ctypes
libc = ctypes.CDLL(None)

def work(called, times):
    libc.prctl(15, called, 0, 0, 0)   # PR_SET_NAME
    write(times)

enter(ask({"function": "asks"})["id"])
for called, times in ((b"tokio-rt-worker", 1009), (b"tokio-rx-worker", 23), (b"tokio", 7)):
    thread = threading.Thread(target=work, args=[called, times])
    thread.start()
    thread.join()
write(101)
""",
    )
    assert calls(report, "wasi-pool") == (1009, 1009)
    assert calls(report, "asks") == (101, 101)
    assert sum(writes(report).values()) == 1009 + 23 + 7 + 101


def test_in_other_processes_such_a_name_means_nothing(tracer: Tracer) -> None:
    body = """
import ctypes, os
ctypes.CDLL(None).prctl(15, b"tokio-rt-worker", 0, 0, 0)
null = os.open("/dev/null", os.O_WRONLY)
for _ in range(23):
    os.write(null, b"x")
"""
    report = traced(tracer, [sys.executable, "-c", body])
    assert calls(report, "wasi-pool") == (0, 0)
    assert sum(writes(report).values()) == 23


GUEST = """
import sys
import cwasi_fastpath as cwasi

with cwasi.Host() as host:
    host.load(sys.argv[1] + "/writer.wasm", "writes", arguments=["23"])
    host.run()
"""


def test_those_of_a_real_guest(tracer: Tracer, guests: Path) -> None:
    report = traced(tracer, [sys.executable, "-c", GUEST, str(guests)])
    workers = [row for row in report.rows if owner_name(row.owner) == "wasi-pool"]
    assert {"futex", "epoll_wait"} & {row.syscall for row in workers}
    assert calls(report, "writes")[0] == 23


# ---- a tracer that comes when the host runs ----

LATE = """
import os, sys, threading
import cwasi_fastpath as cwasi

null = os.open("/dev/null", os.O_WRONLY)
tx, rx = cwasi.open_channel("lab")
back, forth = threading.Barrier(2), threading.Barrier(2)

def turn(times):
    for _ in range(times):
        tx.send(b"x"); rx.recv()   # it learns of the tracer here, if not before
        os.write(null, b"x")

def run():
    with cwasi.function("second"):
        turn(7)
        back.wait(); forth.wait()
        turn(1009)

with cwasi.function("first"):
    pass
thread = threading.Thread(target=run)
thread.start()
back.wait()
for _ in range(2):
    print("ready", flush=True)
    sys.stdin.readline()
    with cwasi.function("third"):
        os.write(null, b"x")
forth.wait()
thread.join()
tx.close(); rx.close()
"""


def test_a_host_that_runs_already_tells_its_functions() -> None:
    """Also to the next tracer; what was before each is not in its report."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with attached() as first, subprocess.Popen([sys.executable, "-c", LATE], text=True, **pipes) as host:
        assert host.stdin is not None and host.stdout is not None
        try:
            assert host.stdout.readline() == "ready\n"
            os.close(first.attach(host.pid))
            host.stdin.write("go\n")
            host.stdin.flush()
            assert host.stdout.readline() == "ready\n"
            assert writes(first.snapshot())["third"] == 1
            first.close()
            with attached() as second:
                os.close(second.attach(host.pid))
                _, stderr = host.communicate("go\n", timeout=300)
                assert host.returncode == 0, stderr
                report = second.snapshot()
        finally:
            host.kill()
    counted = writes(report)
    assert counted["second"] == 1009 and counted["third"] == 1
    assert [(end.direction, end.messages) for end in report.ends] == [("sends", 1009), ("receives", 1009)]
