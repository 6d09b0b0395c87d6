"""Channels between two nodes: ends and servers are killed and stopped, and cables pulled, at bad moments."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from channels import HANG
from nodes import Ends, Nodes, finish, switch, switched, switched_in_the_end, unable

pytestmark = unable

LEASE = 3.0
LONG = 60.0
"""Where none has to run out."""


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
    ends = open_ends(lease=LONG)
    nodes.server.kill()
    told = switch(ends, "redis")
    assert (told.get("error"), told.get("transport")) == ("RedisUnavailable", "tcp"), told
    assert "does not answer" in told["message"] and "redis-server (apt install" in told["message"]
    assert told["message"].endswith("; the channel stays on tcp")
    nodes.server.start()
    switched_in_the_end(ends, "redis")
    finish(ends)


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
    ends = open_ends(lease=LONG)
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
    ends = open_ends(transport=before, lease=LONG)
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
    tx, rx = open_ends(transport="redis" if target == "tcp" else "tcp", answer_within=5.0)
    tx.say("switch", target, 1.0)
    nodes.far.cable("down")
    told, theirs = tx.heard("failed"), rx.heard("failed", "all")
    assert told["failed"] == "PeerDied" and theirs.get("failed") == "PeerDied", (told, theirs)
    assert theirs["number"] <= told["sent"]
