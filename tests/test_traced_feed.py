"""A tracer and the hosts that it feeds, each a process of its own: other users, deaths, other versions, hostility."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from channels import eventually
from tracing import attached, traced_host

from cwasi_fastpath.figures import MOST, VERSION, Figures, Questions
from cwasi_fastpath.tracer import requirements

TRACE = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
NOBODY = 65534
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

# Answers each line that it reads with what it knows.
HOST = """
import json, sys, threading
from contextlib import suppress
import cwasi_fastpath as cwasi
from cwasi_fastpath import feed

feed.STALE_SECONDS = 1.0
guests, count = sys.argv[1], "2000000000"

def run():
    with suppress(cwasi.GuestExit):
        host.run()

with cwasi.Host() as host:
    source = host.load(guests + "/source.wasm", arguments=(count, "100"), stderr="/dev/null")
    sink = host.load(guests + "/sink.wasm", arguments=(count, "100"), stderr="/dev/null")
    channel = host.connect("lab", source, sink, ports=("out", "in"), transport="pipe")
    running = threading.Thread(target=run)
    running.start()
    for _ in sys.stdin:
        found = host.explain("lab")
        told = found.observation.get("syscalls_ns"), found.observation.get("contention")
        print(json.dumps({"told": told, "lacked": found.lacked, "way": found.way, "text": str(found),
                          "received": channel.metrics().received}), flush=True)
    host.stop()
    running.join()
"""


def asked(host: subprocess.Popen[str]) -> dict[str, Any]:
    """What it says now."""
    assert host.stdin is not None and host.stdout is not None
    host.stdin.write("?\n")
    host.stdin.flush()
    found: dict[str, Any] = json.loads(host.stdout.readline())
    return found


@contextmanager
def running(argv: list[str], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Killed in the end."""
    with subprocess.Popen(argv, **PIPES, **how) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def nobody() -> dict[str, Any]:
    """What makes a process another user's, who must be able to read the code."""
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking or os.geteuid() != 0:
        pytest.skip(f"tracing somebody else's processes takes root here: {lacking}")
    how = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    tried = subprocess.run([sys.executable, "-c", "import cwasi_fastpath"], capture_output=True, text=True, **how)
    if tried.returncode != 0:
        pytest.skip(f"another user cannot read the code: {tried.stderr}")
    return how


def test_a_root_tracer_feeds_another_users_host(guests: Path, nobody: dict[str, Any]) -> None:
    """While it lives and answers; its end changes nothing but what is known. The next one feeds it again."""

    def is_told() -> bool:
        found = asked(host)
        return found["told"][0] is not None and not any("tracer" in lack for lack in found["lacked"])

    def lacks(words: str) -> bool:
        return any(words in lack for lack in asked(host)["lacked"])

    with running([sys.executable, "-c", HOST, str(guests)], **nobody) as host:
        assert lacks("no tracer")
        with running([*TRACE, "-p", str(host.pid)], stderr=subprocess.DEVNULL) as tracer:
            eventually(is_told)
            eventually(lambda: "system calls took" in asked(host)["text"])
            tracer.send_signal(signal.SIGSTOP)
            eventually(lambda: lacks("the tracer has told nothing new for"))
            before = asked(host)["received"]
            eventually(lambda: asked(host)["received"] > before)
            eventually(lambda: asked(host)["told"][0] is None)
            tracer.send_signal(signal.SIGCONT)
            eventually(is_told)
            tracer.kill()
            eventually(lambda: lacks("no tracer"))
        before = asked(host)["received"]
        eventually(lambda: asked(host)["received"] > before)
        eventually(lambda: asked(host)["told"][0] is None)
        assert asked(host)["way"] == "pipe" and asked(host)["told"][1] is not None, "the host sees that itself"
        with running([*TRACE, "-p", str(host.pid)], stderr=subprocess.DEVNULL):
            eventually(is_told)
        assert host.stdin is not None
        host.stdin.close()
        assert host.wait(60) == 0


# ---- hostile hosts ----

OF_OTHERS = """
import time

def figures(numbers):
    reply = ask({"figures": numbers})
    assert reply["at"] >= 0, reply
    return reply["figures"]

def figures_with(number, calls):
    while (found := figures([number]).get(str(number))) is None or found[0] < calls:
        time.sleep(0.01)
    return found

ask({"function": "mine"})
enter(1); write(1009); enter(0)
assert 1009 <= figures_with(1, 1009)[0] < 1100   # enter() makes some, too
child = os.fork()
if child == 0:   # another host
    exec(program)
    for _ in range(3):
        assert figures([1, 2, 0, -1, 1024 + 1, 1 << 40]) == {}
    ask({"function": "mine"})
    enter(1); write(23); enter(0)
    assert 23 <= figures_with(1, 23)[0] < 100
    os._exit(0)
assert os.wait()[1] == 0
assert set(figures([1, 2, 3])) == {"1"}
for bad in (None, 1, "1", {"1": 1}, [True], [1.5], ["1"], [[1]], list(range(%d + 1))):
    assert "error" in ask({"figures": bad}), bad
assert "error" in ask({"figures": [1], "id": 1})
"""

DEAF = """
import time

ask({"function": "deaf"})
control.setblocking(False)
try:
    for _ in range(1 << 20):
        try:
            control.send(b'{"figures": [1]}')
        except BlockingIOError:   # it is faster to ask than to answer
            time.sleep(0.001)
    raise AssertionError("it has taken a million questions without an answer read")
except OSError:   # the tracer has left us
    pass
if os.fork() == 0:
    exec(program)
    enter(ask({"function": "heard"})["id"]); write(23); enter(0)
    os._exit(0)
assert os.wait()[1] == 0
control.setblocking(True)
answers = 0
try:
    while control.recv(65536):
        answers += 1
except OSError:
    pass
assert answers < 10000, answers
"""


def test_a_host_is_told_of_its_own_functions_only() -> None:
    from tracing import HOST as PROGRAM

    with attached() as tracer:
        traced_host(tracer, f"program = {PROGRAM!r}\n" + OF_OTHERS % MOST)


def test_a_host_that_does_not_read_holds_up_nobody() -> None:
    from tracing import HOST as PROGRAM

    with attached() as tracer:
        report = traced_host(tracer, f"program = {PROGRAM!r}\n" + DEAF)
    assert {str(row.owner): row.count for row in report.rows if row.syscall == "write"}["heard"] == 23


# ---- other tracers ----

LISTENS = """
import json, sys, time
import cwasi_fastpath as cwasi
from cwasi_fastpath import feed

feed.STALE_SECONDS = 600.0   # what is told once stays
told = feed.Feed(feed.Here())
with cwasi.function("f"):
    for _ in sys.stdin:
        found = told.latest(["f"], time.monotonic())
        print(json.dumps({"told": sorted(found), "lacked": told.lack(time.monotonic(), ["f"])}), flush=True)
"""


class OtherTracer:
    """Speaks the protocol, but for what the test says of figures. answer: what to say to a question; None: nothing."""

    def __init__(
        self, figures: int | None, answer: Callable[[], bytes | None], hello: Any = ..., sealed: bool = True
    ) -> None:
        self.address = f"@cwasi-test-{secrets.token_hex(8)}"
        self.answer = answer
        self.sealed = sealed
        """Nobody can truncate the map that it gives; else it does."""
        self.asked = 0
        self.stalled, self.goes_on = threading.Event(), threading.Event()
        """It is asked about the function "late", and does not answer before it goes on."""
        hello_of_ours = {"version": 3, "slots": 8192, "probes": 4} | ({} if figures is None else {"figures": figures})
        self._hello = hello_of_ours if hello is ... else hello
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind("\0" + self.address[1:])
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, suppress(OSError):   # the host is killed in the end
            while message := connection.recv(4096):
                request = json.loads(message)
                if "hello" in request:
                    slots = os.memfd_create("slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                    os.truncate(slots, 8 * 8192)
                    if self.sealed:
                        fcntl.fcntl(slots, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
                    socket.send_fds(connection, [json.dumps(self._hello).encode()], [slots])
                    if not self.sealed:
                        os.truncate(slots, 0)
                    os.close(slots)
                elif "figures" not in request:
                    if request.get("function") == "late":
                        self.stalled.set()
                        self.goes_on.wait(60)
                    connection.send(json.dumps({"taken": True}).encode())
                else:
                    self.asked += 1
                    if (answer := self.answer()) is not None:
                        connection.send(answer)

    def close(self) -> None:
        self._thread.join(60)
        self._listener.close()
        assert not self._thread.is_alive()


@contextmanager
def fed_by(figures: int | None, answer: Callable[[], bytes | None]) -> Iterator[tuple[OtherTracer, Any]]:
    tracer = OtherTracer(figures, answer)
    environment = {**os.environ, "CWASI_TRACER": tracer.address}
    try:
        with running([sys.executable, "-c", LISTENS], env=environment) as host:
            yield tracer, host
            assert host.poll() is None
    finally:
        tracer.close()


@pytest.mark.parametrize("figures", [None, VERSION + 1])
def test_a_tracer_of_another_version_is_not_asked(figures: int | None) -> None:
    with fed_by(figures, lambda: None) as (tracer, host):
        for _ in range(3):
            found = asked(host)
            assert found == {"told": [], "lacked": ["the tracer is of another version, and tells this one no figures"]}
        assert tracer.asked == 0


PROGRAM = """
import cwasi_fastpath as cwasi

with cwasi.function("f"):
    print("it runs")
"""


CHANGES = """
import sys, threading
import cwasi_fastpath as cwasi

def run():
    with cwasi.function("late"):
        pass

thread = threading.Thread(target=run)
thread.start()
input()   # the tracer does not answer
tx, rx = cwasi.open_channel("lab")
with tx, rx:
    tx.switch("pipe")
    print("waits" if thread.is_alive() else "was left", flush=True)
    input()   # it does
    thread.join()
    tx.send(b"x")
"""


def test_channels_change_while_a_tracer_does_not_answer() -> None:
    """A steward, who changes them, has others to look after."""
    tracer = OtherTracer(VERSION, lambda: None)
    try:
        with running([sys.executable, "-c", CHANGES], env={**os.environ, "CWASI_TRACER": tracer.address}) as host:
            assert host.stdin is not None and host.stdout is not None and tracer.stalled.wait(60)
            print(file=host.stdin, flush=True)
            assert host.stdout.readline() == "waits\n"
            tracer.goes_on.set()
            assert host.communicate("\n", timeout=60)[0] == "" and host.returncode == 0
    finally:
        tracer.goes_on.set()
        tracer.close()


@pytest.mark.parametrize("hello", [
    1, [], None, "x", {}, {"slots": "x", "probes": 4}, {"slots": 8192}, {"slots": 1.5, "probes": 4},
    {"slots": -1, "probes": 4}, {"slots": 2**70, "probes": 4}, {"slots": 8192, "probes": []}, {"error": {"no": []}},
], ids=str)  # fmt: skip
def test_a_hello_that_is_none_stops_nobodys_work(hello: Any) -> None:
    tracer = OtherTracer(VERSION, lambda: None, hello)
    try:
        environment = {**os.environ, "CWASI_TRACER": tracer.address}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True,
                              timeout=60)  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "it runs\n") and "not traced: " in done.stderr
    finally:
        tracer.close()


def test_a_map_that_is_truncated_stops_nobodys_work() -> None:
    """It is not taken."""
    tracer = OtherTracer(VERSION, lambda: None, sealed=False)
    try:
        environment = {**os.environ, "CWASI_TRACER": tracer.address}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True,
                              timeout=60)  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "it runs\n") and "the tracer's map: " in done.stderr
    finally:
        tracer.close()


@pytest.mark.parametrize("count", [1, MOST, MOST + 1, MOST + 2, 5 * MOST])
def test_all_functions_are_asked_for_in_turn(count: int) -> None:
    """None waits longer than it must."""
    questions = Questions()
    numbers, asked = list(range(1, count + 1)), []
    turns = -(-count // MOST)
    for _ in range(3 * turns):
        asked.append(questions.next(numbers))
    for first in range(len(asked) - turns + 1):
        assert set().union(*asked[first : first + turns]) == set(numbers)


def told(at: object, figures: object, function: object = "1") -> bytes:
    return json.dumps({"at": at, "figures": {function: figures}}).encode()


@pytest.mark.parametrize(
    "answer",
    [b"\xff[", b"[]", b"1", b"{}", b'{"error": "no"}', b'{"at": 1}', b'{"at": 1, "figures": []}', b"[" * 60000,
     b'{"at": 1, "figures": {"x": []}}', b'{"at": 1, "figures": {"1": [1' + b"0" * 60000 + b"]}}"],
    ids=lambda answer: repr(answer[:30]),
)  # fmt: skip
def test_what_is_no_answer_is_the_last(answer: bytes) -> None:
    with fed_by(VERSION, lambda: answer) as (tracer, host):
        eventually(lambda: "is no answer, and is not asked any more" in str(asked(host)["lacked"]))
        assert asked(host)["told"] == [] and tracer.asked == 1


@pytest.mark.parametrize(
    ("answer", "lack"),
    [
        (told(1, [float("nan")] * 12), "calls is nan"),
        (told(1, [-5] * 12), "calls is -5"),
        (told("noon", Figures().plain()), "its time is 'noon'"),
        (told(1, None), "figures were expected"),
        (told(1, Figures().plain(), "77"), "nothing of these functions yet"),
        (None, "nothing of these functions yet"),
    ],
    ids=str,
)
def test_figures_that_cannot_be(answer: bytes | None, lack: str) -> None:
    """Of functions that we have not, too; and where the answer never comes."""
    with fed_by(VERSION, lambda: answer) as (tracer, host):
        eventually(lambda: asked(host) and tracer.asked)
        eventually(lambda: lack in str(asked(host)["lacked"]))
        assert asked(host)["told"] == []


def test_a_good_answer_is_used() -> None:
    """The other tests fail for what they say, then."""
    looks = iter(range(1 << 30))

    def answer() -> bytes:
        look = next(looks)
        return told(10**9 + look * 10**8, Figures(*[look] * 12).plain())

    with fed_by(VERSION, answer) as (_, host):
        eventually(lambda: asked(host) == {"told": ["f"], "lacked": []})
