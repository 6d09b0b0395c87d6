"""A host may have ever so many functions one after the other: none is charged what another did, and none is lost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from tracing import attached, calls, owner_name, traced, traced_host

from cwasi_fastpath.trace_report import TraceReport
from cwasi_fastpath.tracer import Tracer

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
BODY = f"""
import os, socket, sys, threading
from contextlib import ExitStack
import cwasi_fastpath as cwasi

PRIMES = {PRIMES}
null = os.open("/dev/null", os.O_WRONLY)

def write(times):
    for _ in range(times):
        os.write(null, b"x")
"""


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    with attached() as tracer:
        yield tracer


def writes(report: TraceReport) -> Counter[str]:
    """By function, in all."""
    counted: Counter[str] = Counter()
    for row in report.rows:
        if row.syscall == "write" and row.function:
            counted[owner_name(row.owner)] += row.count
    return counted


ONE_AFTER_THE_OTHER = BODY + """
def run(thread):
    for i in range(3337):
        with cwasi.function(f"f{thread}-{i}"):
            write(PRIMES[(i + thread) % len(PRIMES)])

threads = [threading.Thread(target=run, args=[thread]) for thread in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_ten_thousand_functions_one_after_the_other(tracer: Tracer) -> None:
    """Three at a time, each on a thread."""
    counted = writes(traced(tracer, [sys.executable, "-c", ONE_AFTER_THE_OTHER]))
    assert counted == {f"f{t}-{i}": PRIMES[(i + t) % len(PRIMES)] for t in range(3) for i in range(3337)}


COME_BACK = BODY + """
server = socket.create_server(("127.0.0.1", 0), backlog=64)

def serve():
    while True:
        connection, _ = server.accept()
        while connection.recv(4096):
            pass
        connection.close()

threading.Thread(target=serve, daemon=True).start()
tx, rx = cwasi.open_channel("lab")
for turn in range(2):
    for i in range(1307):
        with cwasi.function(f"f{i}"):
            write(PRIMES[i % len(PRIMES)])
            tx.send(b"x"); rx.recv()
            if i % 31 == 0:
                with socket.create_connection(server.getsockname()) as connection:
                    connection.sendall(b"x" * PRIMES[i % len(PRIMES)])
tx.close(); rx.close()
"""


def test_functions_that_come_back_go_on_where_they_stopped(tracer: Tracer) -> None:
    """By another number: more of them take turns than have room. In all tables, and in the tax bill."""
    report = traced(tracer, [sys.executable, "-c", COME_BACK])
    assert writes(report) == {f"f{i}": 2 * PRIMES[i % len(PRIMES)] for i in range(1307)}
    sent = {str(row.owner): (row.sent_bytes, row.connects) for row in report.network if row.connects}
    assert sent == {f"f{i}": (2 * PRIMES[i % len(PRIMES)], 2) for i in range(0, 1307, 31)}
    assert {str(use.owner): use.calls for use in report.uses} == {f"f{i}": 4 for i in range(1307)}
    assert {str(end.owner) for end in report.ends} == {"f1306"}, "who used them last"
    assert {end.messages for end in report.ends} == {2 * 1307}


AT_ONCE = BODY + """
with ExitStack() as stack:
    for i in range(1100):
        stack.enter_context(cwasi.function(f"f{i}"))
        write(3)
    with cwasi.function("f7"):   # has a number
        write(23)
with cwasi.function("late"):   # finds one again
    write(1009)
"""


def test_what_is_too_many_at_a_time_is_other(tracer: Tracer) -> None:
    counted = writes(traced(tracer, [sys.executable, "-c", AT_ONCE]))
    assert counted == {
        **{f"f{i}": 3 for i in range(1021)},
        "f7": 26,
        "other": 3 * (1100 - 1021),
        "late": 1009,
    }


def test_a_slot_that_still_says_an_old_number_is_nobodys(tracer: Tracer) -> None:
    """Only a host that breaks the rules has one; and it may not take a number for two functions."""
    report = traced_host(
        tracer,
        """
assert ask({"function": "old", "id": 5}) == {"id": 5}
assert ask({"function": "old", "id": 5}) == {"id": 5}
enter(5); write(23)
for bad in (("new", 5), ("old", 6), ("new", 0), ("new", 1022), ("new", 1023), ("new", 1024), ("new", 2046),
            ("new", -1), ("new", 1 << 32), ("new", True), ("new", None), ("new", "5"), ("new", 1.0)):
    assert "error" in ask({"function": bad[0], "id": bad[1]}), bad
assert ask({"function": "new", "id": 5 + 1024}) == {"id": 5 + 1024}
write(101)
enter(5 + 1024); write(1009)
assert "error" in ask({"function": "old", "id": 5})   # was its own
assert ask({"function": "old", "id": 5 + 2048}) == {"id": 5 + 2048}
write(7)
enter(5 + 2048); write(11); enter(0)
""",
    )
    assert calls(report, "old")[0] == 23 + 11
    assert calls(report, "new")[0] == 1009
    assert calls(report, "other")[0] == 101 + 7


def test_a_slot_that_says_an_old_number_is_nobodys_even_if_nobody_has_the_next(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
ask({"function": "gone", "id": 5})
enter(5); write(23)
ask({"function": "other", "id": 5 + 1024})
write(101)
enter(5 + 1024); write(7)
enter(0)
""",
    )
    assert calls(report, "gone")[0] == 23
    assert calls(report, "other")[0] == 101 + 7


LEAVES = BODY + """
import ctypes

def work():
    ctypes.CDLL(None).prctl(15, b"tokio-rt-worker", 0, 0, 0)   # PR_SET_NAME
    write(5)

for number in range(int(sys.argv[1])):
    if os.fork() == 0:
        with cwasi.function("has-room"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_the_wasi_threads_of_hosts_that_have_left_leave_the_kernels_maps(tracer: Tracer) -> None:
    """As their functions do, and are in the report all the same."""
    report = traced(tracer, [sys.executable, "-c", LEAVES, "401"])
    assert calls(report, "wasi-pool")[0] == 401 * 5
    names = tracer._open_control().names()
    charged = {key.owner for key, _ in tracer._probe.map("counts").items()}
    stay = {owner for owner in charged if names.get(owner, "").startswith("wasi-pool")}
    assert len(stay) < 401


FOLLOWS = BODY + """
for number in range(5):
    if os.fork() == 0:
        for i in range(301):
            with cwasi.function(f"f{i}"):
                write(number + 1)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_those_of_hosts_that_have_left_are_kept(tracer: Tracer) -> None:
    """Their counts leave the kernel's maps as well."""
    counted = writes(traced(tracer, [sys.executable, "-c", FOLLOWS]))
    assert counted == {f"f{i}": 1 + 2 + 3 + 4 + 5 for i in range(301)}
