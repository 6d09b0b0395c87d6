"""Channels between two nodes, by name: they go by tcp or by the server, and switch under load."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis_servers
from channels import HANG
from nodes import COMMON, PORT, RECEIVER, SENDER, Ends, Nodes, finish, ip, keys, switch, switched, unable

import cwasi_fastpath as cwasi
from cwasi_fastpath import reach

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]

pytestmark = unable


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
    with nodes.near.run(SENDER, transport="tcp", lease=3.0) as tx:
        killed = COMMON + """
from cwasi_fastpath.cluster import ClusterName
ClusterName.confirm = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
cwasi.open_receiver("lab", timeout=60)
"""
        with nodes.far.run(killed, lease=3.0) as rx:
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
    with nodes.near.run(killed, lease=3.0) as tx, nodes.far.run(RECEIVER, lease=3.0) as rx:
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
