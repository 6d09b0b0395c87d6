"""What is told of network namespaces and processes: real namespaces with a cable between them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from channels import HANG, Fork

from cwasi_fastpath.cli.inspect import connected, ran
from cwasi_fastpath.network import Network, Way, networks
from cwasi_fastpath.placement import here, started
from cwasi_fastpath.process_facts import facts_of

OWN = Path("/proc/self/ns/net")
DEVICE = f"cwasi-{os.getpid()}"
WIRE = f"10.213.{os.getpid() % 256}"
"""Of this process: the tests may run elsewhere, too, and our side of the cable is where all are."""

HOLD = """
import json, sys
import cwasi_fastpath as cwasi
role = sys.argv[1]
with getattr(cwasi, "open_" + role)("lab", timeout=60):
    print("open", flush=True)
    sys.stdin.read()
"""


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def node() -> Iterator[str]:
    """A network namespace at the end of a cable, .2 on the wire; we are .1."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and ip (apt install iproute2)")
    name = f"cwasi-net-{os.getpid()}"
    ip("netns", "add", name)
    try:
        ip("link", "add", DEVICE, "type", "veth", "peer", "name", "theirs", "netns", name)
        ip("address", "add", f"{WIRE}.1/24", "dev", DEVICE)
        ip("link", "set", DEVICE, "up")
        ip("-n", name, "address", "add", f"{WIRE}.2/24", "dev", "theirs")
        ip("-n", name, "link", "set", "theirs", "up")
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)
        subprocess.run(["ip", "link", "delete", DEVICE], check=False, capture_output=True)


@pytest.fixture
def inside(node: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in it."""
    with subprocess.Popen(["ip", "netns", "exec", node, "cat"], stdin=subprocess.PIPE) as process:
        own = OWN.stat().st_ino
        until = time.monotonic() + HANG
        while Path(f"/proc/{process.pid}/ns/net").stat().st_ino == own:
            assert time.monotonic() < until
            time.sleep(0.01)
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_our_own() -> None:
    number = OWN.stat().st_ino
    (found,) = networks({number: os.getpid()})
    assert (found.number, found.seen, found.ways) == (number, True, ())
    assert not {"127.0.0.1", "::1"} & set(found.addresses)
    assert not found.outward or found.outward in found.addresses


def test_two_at_the_ends_of_a_cable(node: str, inside: subprocess.Popen[bytes]) -> None:
    mine, theirs = OWN.stat().st_ino, Path(f"/proc/{inside.pid}/ns/net").stat().st_ino
    first, second = networks({mine: os.getpid(), theirs: inside.pid})
    assert second == Network(
        theirs, node, True, (f"{WIRE}.2",), "", (Way(mine, f"{WIRE}.1", "theirs", f"{WIRE}.2", ""),)
    )
    assert f"{WIRE}.1" in first.addresses
    assert first.ways == (Way(theirs, f"{WIRE}.2", DEVICE, f"{WIRE}.1", ""),)


def test_a_cable_that_is_cut(node: str, inside: subprocess.Popen[bytes]) -> None:
    mine, theirs = OWN.stat().st_ino, Path(f"/proc/{inside.pid}/ns/net").stat().st_ino
    ip("-n", node, "link", "set", "theirs", "down")
    _, second = networks({mine: os.getpid(), theirs: inside.pid})
    assert (second.seen, second.addresses, second.ways) == (True, (), ())


def test_another_than_was_said_is_not_looked_into(inside: subprocess.Popen[bytes]) -> None:
    """The number is what a process claims of itself."""
    (found,) = networks({1: inside.pid})
    assert (found.number, found.seen, found.addresses) == (1, False, ())
    (gone,) = networks({1: 0})
    assert not gone.seen


def test_who_is_not_root_sees_its_own_only(inside: subprocess.Popen[bytes]) -> None:
    program = """
import json, os, pyroute2, sys
from dataclasses import asdict
from cwasi_fastpath.network import networks
os.setuid(65534)
print(json.dumps([asdict(one) for one in networks({int(number): int(pid) for number, pid in json.loads(sys.argv[1])})]))
"""
    own, theirs = OWN.stat().st_ino, Path(f"/proc/{inside.pid}/ns/net").stat().st_ino
    asked = json.dumps([(own, os.getpid()), (theirs, inside.pid)])
    done = subprocess.run([sys.executable, "-c", program, asked], capture_output=True, text=True, timeout=HANG)
    first, second = json.loads(done.stdout)
    assert done.stderr == ""
    assert (first["seen"], second["seen"]) == (True, False) and f"{WIRE}.1" in first["addresses"]


def test_in_words() -> None:
    way = Way(2, "10.0.0.2", "eth0", "10.0.0.1", "10.0.0.9")
    assert connected(Network(1, "lab", True, ("10.0.0.1", "fd00::1"), "10.0.0.1", (way,))) == [
        "network namespace 1 (lab): 10.0.0.1 fd00::1, outward from 10.0.0.1",
        "  to 2: 10.0.0.2 by eth0 through 10.0.0.9, from 10.0.0.1",
    ]
    assert connected(Network(1, "", True)) == ["network namespace 1: no address, no default route"]
    assert connected(Network(1, "", False)) == ["network namespace 1: only root may look into it"]


def test_a_process() -> None:
    found = facts_of(os.getpid(), here().started)
    assert found is not None and found.pid == os.getpid() and abs(found.since - time.time()) < 86400
    assert found.cpu in range(os.cpu_count() or 1)
    assert len(found.command) > 10 and shlex.join(sys.orig_argv).startswith(found.command)
    assert f"process {os.getpid()}: " in ran(found)


def test_a_process_that_is_another_by_now(fork: Fork) -> None:
    pid = fork(lambda: time.sleep(HANG))
    assert started(str(pid)) >= here().started > 0
    assert facts_of(pid, started(str(pid))) is not None
    assert facts_of(pid, started(str(pid)) + 1) is None, "a number that was used again"
    assert facts_of(1 << 22, 0) is None and started(str(1 << 22)) == 0


def test_a_command_line_does_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    with subprocess.Popen(["cat", "-", "--", "\x1b[2J" + "x" * 500], stdin=subprocess.PIPE) as process:
        until = time.monotonic() + HANG
        while (found := facts_of(process.pid, started(str(process.pid)))) is None or "cat" not in found.command:
            assert time.monotonic() < until
        assert process.stdin is not None
        assert "\x1b" not in found.command and len(found.command) <= 200
        process.stdin.close()


def test_inspect_shows_both_sides_of_a_cable(node: str, runtime_directory: Path) -> None:
    """Two programs in two namespaces, which meet in one runtime directory."""
    lines = {"sender": [], "receiver": ["ip", "netns", "exec", node]}
    held = {
        role: subprocess.Popen(
            [*prefix, sys.executable, "-c", HOLD, role], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for role, prefix in lines.items()
    }
    try:
        for process in held.values():
            assert process.stdout is not None and process.stdout.readline() == "open\n"
        told = json.loads(inspected("lab", "--json"))
        words = inspected("lab")
    finally:
        for process in held.values():
            process.communicate()
    pids = {end["role"]: end["pid"] for end in told["ends"]}
    numbers = {end["role"]: end["placement"]["network"] for end in told["ends"]}
    assert {process["pid"] for process in told["processes"]} == {process.pid for process in held.values()}
    found = {network["number"]: network for network in told["networks"]}
    assert found.keys() == set(numbers.values()) and found[numbers["receiver"]]["addresses"] == [f"{WIRE}.2"]
    assert [way["to"] for way in found[numbers["sender"]]["ways"]] == [numbers["receiver"]]
    assert f"network namespace {numbers['receiver']} ({node}): {WIRE}.2" in words
    assert f"process {pids['sender']}: " in words and f"process {pids['receiver']}: " in words
    ticks = {end["role"]: end["placement"]["started"] for end in told["ends"]}
    assert ticks["sender"] > 0 and ticks["receiver"] > 0


def inspected(*words: str) -> str:
    line = [sys.executable, "-P", "-m", "cwasi_fastpath.cli", "inspect", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout
