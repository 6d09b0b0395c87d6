"""Channels between two nodes, by name: network namespaces on one bridge, with a Redis server on a third. They go by tcp
or by the server, switch under load, and are killed, and cut off, at bad moments.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis_servers
from channels import HANG
from nodes import COMMON, NEEDS, PORT, Nodes, Process, ip, joined, keys
from test_transport_tls import Authority

import cwasi_fastpath as cwasi
from cwasi_fastpath import reach

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]

SENDER = COMMON + """
try:
    tx = cwasi.open_sender("lab", timeout=60, **options)
except cwasi.Error as error:
    tell(error=type(error).__name__, message=str(error))
    sys.exit(1)
named = meeting.named_end("lab", SENDER)
tell(transport=way(SENDER), why=named.meeting.decision.explain())
done, sent = threading.Event(), [0]
def send():
    try:
        while not done.is_set():
            tx.send(message(sent[0]))
            sent[0] += 1
            if sent[0] % 50 == 0:
                done.wait(0.01)
    except cwasi.Error as error:
        tell(failed=type(error).__name__, message=str(error), sent=sent[0], unread=tx.unread)
sending = threading.Thread(target=send, daemon=True)
sending.start()
for line in sys.stdin:
    word, *rest = line.split()
    if word == "switch":
        try:
            tx.switch(rest[0], timeout=float(rest[1]))
            tell(switched=way(SENDER), epoch=tx.epoch, mode=str(tx.mode))
        except cwasi.Error as error:
            tell(error=type(error).__name__, message=str(error), transport=way(SENDER))
    elif word == "sent":
        tell(sent=sent[0])
    else:
        break
done.set()
sending.join()
tx.close()
tell(sent=sent[0])
"""

RECEIVER = COMMON + """
try:
    rx = cwasi.open_receiver("lab", timeout=60)
except cwasi.Error as error:
    tell(error=type(error).__name__, message=str(error))
    sys.exit(1)
tell(transport=way(RECEIVER))
number = 0
try:
    for data in rx:
        assert data == message(number), number
        number += 1
        if number % 100 == 0:
            tell(number=number)
    tell(all=number)
except cwasi.Error as error:
    tell(failed=type(error).__name__, message=str(error), number=number)
rx.close()
"""

pytestmark = NEEDS


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with joined(tmp_path / "server", 2) as found:
        yield found


Ends = tuple[Process, Process]


@pytest.fixture
def open_ends(nodes: Nodes) -> Iterator[Callable[..., Ends]]:
    """A sender near and a receiver far, that have exchanged some messages."""
    running: list[Process] = []

    def start(more: dict[str, str] | None = None, transport: str | None = "tcp") -> Ends:
        options = {} if transport is None else {"transport": transport}
        tx, rx = nodes.near.run(SENDER, **options), nodes.far.run(RECEIVER, more)
        running.extend((tx, rx))
        told = tx.heard("transport", "error")
        assert rx.heard("transport", "error")["transport"] == told["transport"]
        rx.heard("number")
        return tx, rx

    yield start
    for one in running:
        one.__exit__(None, None, None)


def finish(ends: Ends) -> None:
    """All that was sent has come, once and in order."""
    tx, rx = ends
    tx.say("stop")
    sent = tx.heard("sent")["sent"]
    assert rx.heard("all", "failed") == {"all": sent}
    assert (tx.ended(), rx.ended()) == (0, 0)


def switch(ends: Ends, target: str, timeout: float = HANG) -> dict[str, Any]:
    ends[0].say("switch", target, timeout)
    return ends[0].heard("switched", "error")


def switched(ends: Ends, target: str) -> None:
    """Succeeds, and messages come that way."""
    told = switch(ends, target)
    assert told.get("switched") == ("tcp" if target.startswith("tcp") else "redis"), told
    assert told["mode"] == "remote"
    ends[0].say("sent")
    sent = ends[0].heard("sent")["sent"]
    while ends[1].heard("number", "failed")["number"] <= sent:
        pass


# ---- meeting ----


def test_the_policy_may_choose_tcp(nodes: Nodes) -> None:
    """Which is cheaper depends on the machine."""
    with nodes.near.run(SENDER) as tx, nodes.far.run(RECEIVER) as rx:
        told = tx.heard("transport", "error")
        found = {"tcp", "redis"} - {told["transport"]}
        assert f"not {found.pop()} (about" in told["why"], "the other one was possible, too"
        assert rx.heard("transport", "error")["transport"] == told["transport"]
        finish((tx, rx))


@pytest.mark.parametrize("transport", ["tcp", "redis"])
def test_as_the_user_says(nodes: Nodes, open_ends: Callable[..., Ends], transport: str) -> None:
    finish(open_ends(transport=transport))
    assert not keys(nodes)


def test_the_address_that_the_user_gives(nodes: Nodes, open_ends: Callable[..., Ends]) -> None:
    ip("-n", nodes.far.name, "addr", "add", "10.84.8.2/32", "dev", nodes.far.device)
    ip("-n", nodes.near.name, "route", "add", "10.84.8.2/32", "via", nodes.far.address)
    ends = open_ends({"CWASI_ADDRESS": "10.84.8.2"})
    where = subprocess.run(
        [*nodes.near.inside, "ss", "-tn", "dst", "10.84.8.2"], capture_output=True, text=True, check=True
    )
    assert "10.84.8.2" in where.stdout
    finish(ends)


def test_an_address_that_is_not_ours(nodes: Nodes) -> None:
    with nodes.near.run(SENDER), nodes.far.run(RECEIVER, {"CWASI_ADDRESS": "10.84.7.77"}) as rx:
        told = rx.heard("transport", "error")
        assert told["error"] == "TcpUnavailable"
        assert "CWASI_ADDRESS: tcp: cannot listen at 10.84.7.77" in told["message"]


def test_the_receiver_dies_before_it_is_found(nodes: Nodes) -> None:
    """The name is free again when its lease has run out."""
    with nodes.near.run(SENDER, transport="tcp") as tx:
        killed = COMMON + """
from cwasi_fastpath.cluster import ClusterName
ClusterName.confirm = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
cwasi.open_receiver("lab", timeout=60)
"""
        with nodes.far.run(killed) as rx:
            assert rx.ended() == -signal.SIGKILL
        until = time.monotonic() + HANG
        while "cwasi:registry:lab:receiver" in keys(nodes):
            assert time.monotonic() < until
            time.sleep(0.05)
        with nodes.far.run(RECEIVER) as rx:
            assert tx.heard("transport", "error")["transport"] == "tcp"
            rx.heard("number")
            finish((tx, rx))


def test_the_sender_dies_before_it_comes(nodes: Nodes) -> None:
    """Nobody has ever connected: so it is the lease that tells."""
    killed = COMMON + """
from cwasi_fastpath.transport.tcp import TcpLink
TcpLink.open = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
cwasi.open_sender("lab", timeout=60, transport="tcp")
"""
    with nodes.near.run(killed) as tx, nodes.far.run(RECEIVER) as rx:
        assert tx.ended() == -signal.SIGKILL
        told = rx.heard("all", "failed")
        assert (told.get("failed"), told.get("number")) == ("PeerDied", 0)


@pytest.mark.parametrize("listens", [
    3, [], {}, {"host": "10.84.7.2"}, {"host": "10.84.7.2", "port": 0, "key": "00" * 32},
    {"host": "example.org", "port": 80, "key": "00" * 32}, {"host": "0.0.0.0", "port": 80, "key": "00" * 32},
    {"host": "127.0.0.1", "port": 80, "key": "xx"}, {"host": "127.0.0.1", "port": 80, "key": "00"},
    {"host": "127.0.0.1", "port": 1 << 70, "key": "00" * 32},
])  # fmt: skip
def test_a_receiver_that_lies_about_where_it_listens(listens: object) -> None:
    with pytest.raises(cwasi.Corrupted, match="did not say where it listens"):
        reach.reached(listens)


def test_an_address_that_nobody_reaches(nodes: Nodes) -> None:
    """The server carries what cannot go directly; and where only tcp was asked for, both are told why not."""
    ip("-n", nodes.far.name, "addr", "add", "10.99.1.1/32", "dev", "lo")
    hidden = {"CWASI_ADDRESS": "10.99.1.1"}
    with nodes.near.run(SENDER, eager=True) as tx, nodes.far.run(RECEIVER, hidden) as rx:
        told = tx.heard("transport", "error")
        assert told["transport"] == "redis"
        assert "not tcp: tcp: cannot connect to 10.99.1.1 port" in told["why"]
        assert rx.heard("transport")["transport"] == "redis"
        rx.heard("number")
        finish((tx, rx))
    with nodes.near.run(SENDER, transport="tcp"), nodes.far.run(RECEIVER, hidden) as rx:
        told = rx.heard("transport", "error")
        assert told["error"] == "NoTransport" and "tcp: tcp: cannot connect to 10.99.1.1" in told["message"]


# ---- switches ----


def test_switches_under_load(nodes: Nodes, open_ends: Callable[..., Ends]) -> None:
    ends = open_ends()
    for target in ("redis", "tcp", nodes.registry, "tcp", "tcp", f"tcp://{nodes.far.address}:0", "redis", "redis"):
        switched(ends, target)
    finish(ends)
    assert not keys(nodes)


def test_by_command(nodes: Nodes, open_ends: Callable[..., Ends]) -> None:
    ends = open_ends()
    line = [*nodes.near.inside, *CWASI, "switch", "lab", "--to", "redis", "--timeout", "60"]
    done = subprocess.run(line, capture_output=True, text=True, env=nodes.near.environment(), timeout=HANG)
    assert done.returncode == 0, done.stderr
    assert "lab goes by redis (remote) now" in done.stdout
    finish(ends)


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("ring", "NoTransport", "the peer is on another node"),
        ("pipe", "NoTransport", "the peer is on another node"),
        ("tcp://10.84.7.77:0", "TcpUnavailable", "cannot listen at 10.84.7.77"),
        ("tcp://0.0.0.0:0", "BadSpec", "not all addresses"),
        ("redis://10.84.7.100:1", "RedisUnavailable", "does not answer"),
        ("nowhere", "BadSpec", "is unknown"),
    ],
)
def test_what_cannot_be(nodes: Nodes, open_ends: Callable[..., Ends], target: str, error: str, words: str) -> None:
    """It says why, and the channel goes on as before."""
    ends = open_ends()
    told = switch(ends, target)
    assert (told.get("error"), told.get("transport")) == (error, "tcp"), told
    assert words in told["message"]
    switched(ends, "redis")
    switched(ends, "tcp")
    finish(ends)


def test_a_url_that_means_another_server_there(nodes: Nodes, open_ends: Callable[..., Ends], tmp_path: Path) -> None:
    """Each node has one on its own loopback."""
    ends = open_ends()
    options = redis_servers.on_loopback(PORT)
    with (
        redis_servers.Server(tmp_path / "near", *options, inside=nodes.near.inside),
        redis_servers.Server(tmp_path / "far", *options, inside=nodes.far.inside),
    ):
        told = switch(ends, f"redis://127.0.0.1:{PORT}")
        assert (told.get("error"), told.get("transport")) == ("NoTransport", "tcp"), told
        assert "is another server for the receiver than for the sender" in told["message"]
        switched(ends, "redis")
        finish(ends)


def test_a_receiver_that_is_stopped_is_asked_in_vain(open_ends: Callable[..., Ends]) -> None:
    """For so short a time that it keeps its name."""
    ends = open_ends()
    ends[1].signal(signal.SIGSTOP)
    try:
        told = switch(ends, "redis", 0.3)
    finally:
        ends[1].signal(signal.SIGCONT)
    assert (told.get("error"), told.get("transport")) == ("Timeout", "tcp"), told
    switched(ends, "redis")
    finish(ends)


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, dict[str, str]]:
    """The environment of each node; strange is one that nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl (apt install openssl)")
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    found = {"near": ours.files("near", "10.84.7.1"), "far": ours.files("far", "10.84.7.2"),
             "strange": others.files("far", "10.84.7.2")}  # fmt: skip
    return {name: {"CWASI_TLS": f"{one.authority}:{one.certificate}:{one.key}"} for name, one in found.items()}


def test_tls(nodes: Nodes, tls: dict[str, dict[str, str]]) -> None:
    with nodes.near.run(SENDER, tls["near"], transport="tcp") as tx, nodes.far.run(RECEIVER, tls["far"]) as rx:
        ends = tx, rx
        assert tx.heard("transport", "error")["transport"] == "tcp"
        rx.heard("number")
        switched(ends, "redis")
        switched(ends, "tcp")
        finish(ends)


@pytest.mark.parametrize("who", ["strange", None])
def test_tls_with_whom_it_cannot_be(nodes: Nodes, tls: dict[str, dict[str, str]], who: str | None) -> None:
    """Nothing goes there, and the channel stays where it is."""
    theirs = tls[who] if who else None
    with nodes.near.run(SENDER, tls["near"], transport="redis") as tx, nodes.far.run(RECEIVER, theirs) as rx:
        ends = tx, rx
        assert tx.heard("transport", "error")["transport"] == "redis"
        rx.heard("number")
        told = switch(ends, "tcp")
        assert (told.get("error"), told.get("transport")) == ("TcpUnavailable", "redis"), told
        words = "is not the receiver, or does not trust us" if who else "only one of the two nodes wants TLS"
        assert words in told["message"]
        switched(ends, "redis")
        finish(ends)


# ---- deaths ----


@pytest.mark.parametrize("transport", ["tcp", "redis"])
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_an_end_is_killed_between_switches(open_ends: Callable[..., Ends], transport: str, victim: str) -> None:
    """The other one is told, after all that had come; nothing is missing in between."""
    tx, rx = ends = open_ends()
    switched(ends, "redis")
    if transport == "tcp":
        switched(ends, "tcp")
    if victim == "sender":
        tx.signal(signal.SIGKILL)
        told = rx.heard("all", "failed")
        assert told["failed"] == "PeerDied" and told["number"] > 0
    else:
        rx.signal(signal.SIGKILL)
        told = tx.heard("failed")
        assert told["failed"] in ("PeerDied", "ChannelClosed")
        told = switch(ends, "redis")
        assert told["error"] in ("PeerDied", "ChannelClosed"), told


@pytest.mark.parametrize("target", ["tcp", "redis"])
@pytest.mark.parametrize("pause", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_an_end_is_killed_in_a_switch(open_ends: Callable[..., Ends], target: str, pause: float, victim: str) -> None:
    tx, rx = open_ends(transport="redis" if target == "tcp" else "tcp")
    tx.say("switch", target, HANG)
    time.sleep(pause)   # any moment will do
    (tx if victim == "sender" else rx).signal(signal.SIGKILL)
    if victim == "sender":
        assert rx.heard("all", "failed").get("failed") == "PeerDied"
    else:
        assert tx.heard("failed")["failed"] in ("PeerDied", "ChannelClosed")


def test_the_server_is_killed_and_comes_back(nodes: Nodes, open_ends: Callable[..., Ends]) -> None:
    """What goes by tcp goes on; meanwhile nobody can be asked for a switch, and then again."""
    ends = open_ends()
    nodes.server.kill()
    told = switch(ends, "redis")
    assert (told.get("error"), told.get("transport")) == ("RedisUnavailable", "tcp"), told
    assert "does not answer" in told["message"] and "redis-server (apt install" in told["message"]
    assert told["message"].endswith("; the channel stays on tcp")
    nodes.server.start()
    switched_in_the_end(ends, "redis")
    finish(ends)


def switched_in_the_end(ends: Ends, target: str) -> None:
    until = time.monotonic() + HANG
    while "error" in (told := switch(ends, target)):
        assert time.monotonic() < until, told
        time.sleep(0.1)
    assert told["switched"] == target


def test_the_server_stays_away(nodes: Nodes, open_ends: Callable[..., Ends]) -> None:
    """For longer than the names last: tcp goes on, to its end."""
    ends = open_ends()
    nodes.server.kill()
    until = time.monotonic() + HANG
    while (told := switch(ends, "tcp", 1))["error"] != "PeerDied":
        assert told["error"] == "RedisUnavailable" and time.monotonic() < until, told
    assert "or it or we have lost the registry's server; the channel stays on tcp" in told["message"], told
    rx = ends[1]
    rx.heard("number")
    finish(ends)


@pytest.mark.parametrize("pause", [0.0, 0.005, 0.02])
def test_the_server_is_killed_in_a_switch(nodes: Nodes, open_ends: Callable[..., Ends], pause: float) -> None:
    """From tcp to tcp nothing depends on it but the agreement."""
    ends = open_ends()
    ends[0].say("switch", "tcp", HANG)
    time.sleep(pause)   # any moment will do
    nodes.server.kill()
    told = ends[0].heard("switched", "error")
    assert told.get("switched") == "tcp" or told["error"] == "RedisUnavailable", told
    finish(ends)


def test_a_receiver_that_was_stopped_for_too_long(open_ends: Callable[..., Ends]) -> None:
    """It has lost its name, but not the messages."""
    ends = open_ends()
    ends[1].signal(signal.SIGSTOP)
    try:
        until = time.monotonic() + HANG
        while (told := switch(ends, "redis", 0.1))["error"] != "PeerDied":
            assert told["error"] == "Timeout" and time.monotonic() < until, told
    finally:
        ends[1].signal(signal.SIGCONT)
    assert told["message"].endswith("; the channel stays on tcp")
    finish(ends)


# ---- the cable ----


@pytest.mark.parametrize("target", ["tcp", "redis"])
@pytest.mark.parametrize("cut", ["near", "far"])
def test_the_cable_is_pulled_in_a_switch_and_put_back(
    nodes: Nodes, open_ends: Callable[..., Ends], target: str, cut: str
) -> None:
    """Whatever becomes of the switch: nothing is lost or doubled, and a later one succeeds."""
    before = "redis" if target == "tcp" else "tcp"
    ends = open_ends(transport=before)
    node = nodes.near if cut == "near" else nodes.far
    node.cable("down")
    ends[0].say("switch", target, 1.0)
    time.sleep(1.0)
    node.cable("up")
    told = ends[0].heard("switched", "error")
    if "error" in told:
        assert told["error"] in ("Timeout", "RedisUnavailable", "TcpUnavailable"), told
        assert told["transport"] == before
        switched_in_the_end(ends, target)
    finish(ends)


@pytest.mark.parametrize("target", ["tcp", "redis"])
def test_the_cable_is_pulled_in_a_switch_for_good(nodes: Nodes, open_ends: Callable[..., Ends], target: str) -> None:
    """Both are told; what had come is the beginning of what was sent."""
    tx, rx = open_ends(transport="redis" if target == "tcp" else "tcp")
    tx.say("switch", target, 1.0)
    nodes.far.cable("down")
    told, theirs = tx.heard("failed"), rx.heard("failed", "all")
    assert told["failed"] == "PeerDied" and theirs.get("failed") == "PeerDied", (told, theirs)
    assert theirs["number"] <= told["sent"]
