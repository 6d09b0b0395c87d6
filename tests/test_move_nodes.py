"""An end goes to another node, on to a third, and back: network namespaces on one bridge. Every message once, in order;
and when somebody is killed, or cut off.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from channels import HANG
from nodes import COMMON, Node, Nodes, Process, joined, keys, unable

pytestmark = unable

# Told: from NUMBER (begins), move SECONDS (hands over), switch TARGET, facts, stop, die METHOD (is killed when it comes
# there, or, where + is before it, when it has done it).
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
tell(ready=True)
try:
    end = getattr(cwasi, "open_" + role)("lab", successor=successor, **{"timeout": 60, **options})
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


def opening(**common: Any) -> Iterator[Run]:
    """Opens an end on a node."""
    running: list[Process] = []

    def start(node: Node, role: str, **options: Any) -> Process:
        process = node.run(END, role=role, **common, **options)
        running.append(process)
        return process

    yield start
    for one in running:
        one.__exit__(None, None, None)


@pytest.fixture
def run() -> Iterator[Run]:
    yield from opening()


@pytest.fixture
def mortal() -> Iterator[Run]:
    """With leases that run out soon."""
    yield from opening(lease=3.0)


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


def nothing_left(nodes: Nodes) -> None:
    """A mailbox expires in some seconds where nobody was left to remove it."""
    until = time.monotonic() + HANG
    while found := keys(nodes):
        assert time.monotonic() < until, found
        time.sleep(0.05)


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
    nothing_left(nodes)


def test_it_is_switched_afterwards(nodes: Nodes, run: Run) -> None:
    """Both ends have moved: the sender to the third node, the receiver to the first; and both are home again."""
    tx, rx = pair(run, nodes.near, nodes.far)
    for node, target in ((nodes.all[2], "redis"), (nodes.near, "tcp")):
        sends = run(node, "sender", successor=True)
        moved(tx, sends)
        receives = run(nodes.near if node is nodes.all[2] else nodes.far, "receiver", successor=True)
        moved(rx, receives)
        left(tx, rx)
        tx, rx = sends, receives
        reaches(tx, epoch=2 if target == "redis" else 5)
        reaches(rx, epoch=2 if target == "redis" else 5)
        tx.say("switch", target)
        assert tx.heard("switched", "error")["switched"] == target
        reaches(rx, transport=target)
    rx.heard("number")
    finish(tx, rx)
    nothing_left(nodes)


def test_the_example(tmp_path: Path) -> None:
    """It checks each message itself."""
    picture = tmp_path / "moving.svg"
    if shutil.which("tc") is None:
        pytest.skip("no tc (apt install iproute2)")
    program = Path(__file__).parent.parent / "examples" / "three_nodes.py"
    done = subprocess.run(
        [sys.executable, "-P", program, "0.2", "--svg", picture], capture_output=True, text=True, timeout=4 * HANG
    )
    assert done.returncode == 0, done.stderr
    *places, last = done.stdout.splitlines()
    modes = [line.split()[2] for line in places]
    assert modes == ["local", "proximal", "remote", "remote", "proximal", "local"], done.stdout
    assert last.startswith("all ") and last.endswith("messages came, once and in order")
    drawn = ElementTree.fromstring(picture.read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == len(places)


# ---- guests ----

GUEST = COMMON + """
import time
guest, later = options["guest"], options["later"]
into = cwasi.open_receiver("to-echo", timeout=60, successor=later)
out = cwasi.open_sender("from-echo", timeout=60, successor=later)
tell(open=True)
with cwasi.Host() as host:
    echo = host.load(guest, stderr=os.devnull)
    host.attach(echo, into, port="in")
    host.attach(echo, out, port="out")
    running = threading.Thread(target=host.run)
    running.start()
    if sys.stdin.readline().strip() == "move":
        host.move_out(echo, 60)
        tell(closed=into.closed and out.closed)
    running.join()
tell(done=True)
"""

ASKS = COMMON + """
opening = []
asking = threading.Thread(target=lambda: opening.append(cwasi.open_sender("to-echo", timeout=60)))
asking.start()
rx = cwasi.open_receiver("from-echo", timeout=60)
asking.join()
tx, done, sent = opening[0], threading.Event(), [0]
def send():
    while not done.is_set():
        tx.send(message(sent[0]))
        sent[0] += 1
        if sent[0] % 50 == 0:
            done.wait(0.01)
    tx.close()
sending = threading.Thread(target=send)
sending.start()
home = threading.Event()
threading.Thread(target=lambda: sys.stdin.readline() and home.set(), daemon=True).start()
count, moves = 0, int(options["moves"])
# There may be more epochs than moves: the guest's host may choose another transport meanwhile.
def arrived():
    return home.is_set() and min(tx.epoch, rx.epoch) >= moves and {str(tx.mode), str(rx.mode)} == {"proximal"}
while count < 1000 or not arrived():
    assert rx.recv(60) == message(count), count
    count += 1
    if count % 100 == 0:
        tell(number=count)
tell(arrived=str(rx.mode))
done.set()
for data in rx:
    assert data == message(count), count
    count += 1
sending.join()
tell(sent=sent[0], count=count)
"""


def test_a_guest_moves(nodes: Nodes, guests: Path) -> None:
    """From host to host, node to node, and back, in the middle of a pipeline."""
    path = str(guests / "echo.wasm")
    places = [nodes.near, nodes.far, nodes.all[2], nodes.near]
    with ExitStack() as stack:
        asks = stack.enter_context(nodes.near.run(ASKS, moves=len(places) - 1, lease=10.0))
        before: Process | None = None
        for place in places:
            host = stack.enter_context(place.run(GUEST, guest=path, later=before is not None, lease=10.0))
            if before is not None:
                asks.heard("number")
                before.say("move")
            host.heard("open")
            if before is not None:
                assert before.heard("closed")["closed"]
                before.heard("done")
                assert before.ended() == 0
            before = host
        assert before is not None
        before.say("stay")
        asks.say("home")
        assert asks.heard("arrived")["arrived"] == "proximal"
        told = asks.heard("sent")
        assert told["sent"] == told["count"]
        before.heard("done")
        assert (asks.ended(), before.ended()) == (0, 0)
    nothing_left(nodes)


# ---- where nobody goes on ----


def refused(one: Process, error: str, words: str) -> None:
    """It goes on as before."""
    told = one.heard("moved", "error")
    assert (told.get("error"), told.get("closed")) == (error, False), told
    assert words in told["message"]


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_another_trust_domain(nodes: Nodes, run: Run, role: str) -> None:
    tx, rx = pair(run, nodes.near, nodes.far)
    one = tx if role == "sender" else rx
    other = run(nodes.all[2], role, successor=True, trust="other")
    other.heard("ready")
    one.say("move", 10)
    told = other.heard("open", "error")
    assert told.get("error") == "BadSpec" and "so must be its successor, not 'other'" in told["message"], told
    refused(one, "Timeout", "no other process has gone on with it in time")
    rx.heard("number")
    finish(tx, rx)


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_the_other_end_is_in_no_registry(nodes: Nodes, run: Run, role: str) -> None:
    """On this node the two find each other all the same."""
    hidden = {"CWASI_REGISTRY": ""}
    other = "receiver" if role == "sender" else "sender"
    keep = nodes.near.run(END, hidden, role=other)
    with keep:
        one = run(nodes.near, role)
        for process in (keep, one):
            opened(process)
            process.say("from", 0)
        heir = run(nodes.far, role, successor=True)
        heir.heard("ready")
        one.say("move", 10)
        told = heir.heard("open", "error")
        assert told.get("error") == "BadSpec" and "does not reach the successor" in told["message"], told
        refused(one, "Timeout", "no other process has gone on with it in time")
        finish(*((one, keep) if role == "sender" else (keep, one)))


# ---- kills ----

HEIR = ["successor.Successor._greeted", "+successor.Successor._peer", "successor.Successor._take_name"]
"""Where a successor has not taken over yet."""


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("step", [*HEIR, "successor.Successor._sender_on", "successor.Successor._receiver_on"])
def test_a_successor_that_is_killed_before_it_takes_over(nodes: Nodes, mortal: Run, role: str, step: str) -> None:
    """It has never been, and the next one does it."""
    if step.rpartition("_")[0].endswith("_sender" if role == "receiver" else "_receiver"):
        pytest.skip("no step of this role")
    tx, rx = pair(mortal, nodes.near, nodes.far)
    one = tx if role == "sender" else rx
    killed = mortal(nodes.all[2], role, successor=True, dies=step)
    one.say("move", HANG)
    count = one.heard("left")["left"]
    assert killed.ended() == -signal.SIGKILL
    heir = mortal(nodes.all[2], role, successor=True)
    opened(heir)
    heir.say("from", count)
    left(one)
    finish(*((heir, rx) if role == "sender" else (tx, heir)))


@pytest.mark.parametrize("step", [
    "handover._SenderMove._offer", "+handover._SenderMove._offer", "+sender.Sender.depart",
    "+cluster.ClusterName.pass_on", "+handover._SenderMove._give_name",
])  # fmt: skip
def test_a_sender_that_is_killed_while_it_hands_over(nodes: Nodes, mortal: Run, step: str) -> None:
    """Then that is the end, or what its successor sends follows if that has the name; nothing is missing before."""
    tx, rx = pair(mortal, nodes.near, nodes.far)
    has_name = step.endswith(("pass_on", "_give_name"))
    heir = mortal(nodes.all[2], "sender", successor=True, **({} if has_name else {"timeout": 15}))
    tx.say("die", step)
    tx.say("move", HANG)
    count = tx.heard("left")["left"]
    assert tx.ended() == -signal.SIGKILL
    told = heir.heard("open", "error")
    if has_name:
        assert "open" in told, told
        heir.say("from", count)
        theirs = rx.heard("failed", "number")
        while "failed" not in theirs and theirs["number"] < count + 1000:
            theirs = rx.heard("failed", "number")
        if "failed" not in theirs:   # all that the first one had sent was out
            finish(heir, rx)
        return
    assert told["error"] in ("PeerDied", "Timeout"), told
    theirs = rx.heard("failed", "all")
    assert theirs.get("failed") == "PeerDied" and theirs["number"] <= count, theirs


@pytest.mark.parametrize("step", [
    "handover._ReceiverMove._way", "+handover._ReceiverMove._way", "+cluster.ClusterName.pass_on",
    "+handover._ReceiverMove._give_name",
])  # fmt: skip
def test_a_receiver_that_is_killed_while_it_hands_over(nodes: Nodes, mortal: Run, step: str) -> None:
    """Both sides learn of it; what its successor gets has no gap at its beginning."""
    tx, rx = pair(mortal, nodes.near, nodes.far)
    heir = mortal(nodes.all[2], "receiver", successor=True, **({"timeout": 15} if step.endswith("_way") else {}))
    rx.say("die", step)
    rx.say("move", HANG)
    count = rx.heard("left")["left"]
    assert rx.ended() == -signal.SIGKILL
    told = heir.heard("open", "error")
    if "open" in told:
        heir.say("from", count)
        theirs = heir.heard("failed", "all")
        assert theirs.get("failed") == "PeerDied" and theirs["number"] >= count, theirs
        heir.say("stop")
    else:
        assert told["error"] in ("PeerDied", "Timeout"), told
    told = tx.heard("failed")
    assert told["failed"] in ("PeerDied", "ChannelClosed"), told


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_the_other_end_is_killed_meanwhile(nodes: Nodes, mortal: Run, role: str) -> None:
    tx, rx = pair(mortal, nodes.near, nodes.far)
    one, keep = (tx, rx) if role == "sender" else (rx, tx)
    keep.say("die", "announced.Announced._reached")
    heir = mortal(nodes.all[2], role, successor=True)
    one.say("move", HANG)
    count = one.heard("left")["left"]
    assert keep.ended() == -signal.SIGKILL
    if role == "sender":
        told = one.heard("moved", "error")
        assert told["error"] == "PeerDied", told
        return
    opened(heir)   # what there was is there all the same
    heir.say("from", count)
    told = heir.heard("failed", "all")
    assert told.get("failed") == "PeerDied" and told["number"] >= count, told


# ---- the server, the cable ----


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.2])
def test_the_server_is_killed_meanwhile(nodes: Nodes, mortal: Run, role: str, pause: float) -> None:
    """It moves, now or when the server is back, or is where it was, or the error says that it is over."""
    tx, rx = pair(mortal, nodes.near, nodes.far)
    one = tx if role == "sender" else rx
    heir = mortal(nodes.all[2], role, successor=True)
    one.say("move", HANG)
    count = one.heard("left")["left"]
    time.sleep(pause)   # any moment will do
    nodes.server.kill()
    nodes.server.start()
    told = heir.heard("open", "error")
    if "error" in told:
        assert told["error"] in ("RedisUnavailable", "PeerDied", "Timeout"), told
        heir = mortal(nodes.all[2], role, successor=True)
        told = heir.heard("open", "error")
    if "open" in told:
        heir.say("from", count)
        left(one)
        finish(*((heir, rx) if role == "sender" else (tx, heir)))
        return
    theirs = (rx if role == "sender" else tx).heard("failed", "all")
    assert theirs.get("failed") in ("PeerDied", "ChannelClosed"), (told, theirs)


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.2])
def test_the_cable_of_the_successor_is_pulled_meanwhile(nodes: Nodes, mortal: Run, role: str, pause: float) -> None:
    """For good: the end goes on where it was, or with the successor it is lost."""
    tx, rx = pair(mortal, nodes.near, nodes.far)
    one, keep = (tx, rx) if role == "sender" else (rx, tx)
    mortal(nodes.all[2], role, successor=True)
    one.say("move", 8)
    one.heard("left")
    time.sleep(pause)   # any moment will do
    nodes.all[2].cable("down")
    told = one.heard("moved", "error")
    if told.get("closed") is False:
        assert told["error"] == "Timeout", told
        finish(tx, rx)
        return
    theirs = keep.heard("failed", "all")
    assert theirs.get("failed") in ("PeerDied", "ChannelClosed"), (told, theirs)
