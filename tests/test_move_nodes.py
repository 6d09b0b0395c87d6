"""An end goes to another node, on to a third, and back: network namespaces on one bridge. Every message once, in order;
and when somebody is killed, or cut off.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels import HANG
from nodes import COMMON, NEEDS, Node, Nodes, Process, joined, keys

pytestmark = NEEDS

# Told: from NUMBER (begins), move (hands over), stop, die METHOD (is killed when it comes there, or where + is before it
# has done it).
END = COMMON + """
import importlib, time
class Direct(Eager):
    # The same between nodes only.
    def decide(self, request):
        from cwasi_fastpath.modes import Locality
        from cwasi_fastpath.calibration import costs
        from cwasi_fastpath.policy import CostPolicy
        if request.facts.locality is Locality.ELSEWHERE:
            return Eager.decide(self, request)
        return CostPolicy(costs()).decide(request)
if options.get("role") == "sender":
    options["policy"] = Direct()
role, successor = options.pop("role"), options.pop("successor", False)
def dies_at(where):
    after, (module, kind, name) = where.startswith("+"), where.lstrip("+").split(".")
    owner = getattr(importlib.import_module("cwasi_fastpath." + module), kind)
    method = getattr(owner, name)
    def dies(*given, **named):
        if after:
            method(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, dies)
if (where := options.pop("dies", None)):
    dies_at(where)
try:
    end = getattr(cwasi, "open_" + role)("lab", timeout=60, successor=successor, **options)
except cwasi.Error as error:
    tell(error=type(error).__name__, message=str(error))
    sys.exit(1)
number = SENDER if role == "sender" else RECEIVER
def facts():
    return {"transport": way(number), "mode": str(end.mode), "epoch": end.epoch}
tell(open=True, **facts())
pause, done, count = threading.Event(), threading.Event(), [0]
def works():
    try:
        while not pause.is_set():
            if role == "sender":
                end.send(message(count[0]))
                if count[0] % 50 == 49:
                    done.wait(0.005)
            else:
                try:
                    data = end.recv(0.05)
                except cwasi.Timeout:
                    continue
                assert data == message(count[0]), count[0]
            count[0] += 1
            if count[0] % 100 == 0:
                tell(number=count[0])
    except cwasi.ChannelClosed:
        tell(all=count[0])
    except cwasi.Error as error:
        tell(failed=type(error).__name__, message=str(error), number=count[0])
working = threading.Thread(target=works, daemon=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "from":
        count[0] = int(rest[0])
        working.start()
    elif word == "facts":
        tell(**facts())
    elif word == "die":
        dies_at(rest[0])
    elif word == "switch":
        end.switch(rest[0], 60)
        tell(switched=way(number))
    elif word == "move":
        pause.set()
        working.join()
        tell(left=count[0])
        try:
            end.hand_over(float(rest[0]))
            tell(moved=True)
        except cwasi.Error as error:
            tell(error=type(error).__name__, message=str(error), closed=end.closed)
            if not end.closed:
                pause.clear()
                working = threading.Thread(target=works, daemon=True)
                working.start()
    else:
        break
pause.set()
if working.is_alive():
    working.join()
if not end.closed:
    end.close()
tell(count=count[0])
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with joined(tmp_path / "server", 3) as found:
        yield found


Run = Callable[..., Process]


@pytest.fixture
def run() -> Iterator[Run]:
    """Opens an end on a node."""
    running: list[Process] = []

    def start(node: Node, role: str, **options: Any) -> Process:
        process = node.run(END, role=role, **options)
        running.append(process)
        return process

    yield start
    for one in running:
        one.__exit__(None, None, None)


def opened(one: Process) -> dict[str, Any]:
    told = one.heard("open", "error")
    assert "open" in told, told
    return told


def pair(run: Run, near: Node, far: Node, **options: Any) -> tuple[Process, Process]:
    """A sender and a receiver that work."""
    tx, rx = run(near, "sender", **options), run(far, "receiver")
    for one in (tx, rx):
        opened(one)
        one.say("from", 0)
    rx.heard("number")
    return tx, rx


def moved(before: Process, after: Process) -> dict[str, Any]:
    """It goes on there."""
    before.say("move", HANG)
    left = before.heard("left")["left"]
    told = opened(after)
    after.say("from", left)
    return told


def reaches(one: Process, **facts: object) -> None:
    """Some time."""
    until = time.monotonic() + HANG
    while True:
        one.say("facts")
        told = one.heard("transport")
        if {key: told[key] for key in facts} == facts:
            return
        assert time.monotonic() < until, (told, facts)
        time.sleep(0.01)


def finish(tx: Process, rx: Process) -> None:
    """All that was sent has come, once and in order."""
    tx.say("stop")
    count = tx.heard("count")["count"]
    assert rx.heard("all")["all"] == count
    rx.say("stop")
    assert (tx.ended(), rx.ended()) == (0, 0)


def left(*processes: Process) -> None:
    """Those from which it has moved have nothing more to do."""
    for one in processes:
        told = one.heard("moved", "error")
        assert "moved" in told, told
        one.say("stop")
        assert one.ended() == 0


PLACES = list(itertools.product(range(3), range(3), range(3)))


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("there", [(0, 1, 0), (0, 1, 1), (0, 2, 1), (1, 0, 1), (0, 1, 2, 0, 0)])
def test_an_end_moves(nodes: Nodes, run: Run, role: str, there: tuple[int, ...]) -> None:
    """there: where the other end stays, and where it is one after the other."""
    stays, *places = there
    other = "receiver" if role == "sender" else "sender"
    modes = {True: "proximal", False: "remote"}
    keep = run(nodes.all[stays], other)
    moving = run(nodes.all[places[0]], role)
    for one in (keep, moving):
        opened(one)
        one.say("from", 0)
    before: list[Process] = []
    for epoch, place in enumerate(places[1:], 1):
        keep.heard("number")
        before.append(moving)
        moving = run(nodes.all[place], role, successor=True)
        moved(before[-1], moving)
        for one in (keep, moving):
            reaches(one, mode=modes[place == stays], epoch=epoch)
    moving.heard("number")
    finish(*((moving, keep) if role == "sender" else (keep, moving)))
    left(*before)
    assert not keys(nodes)
