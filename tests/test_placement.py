"""Where functions run: what is read of this process, what a peer may claim, and containers that share the directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from channels import HANG, control_ended

import cwasi_fastpath as cwasi
from cwasi_fastpath import meeting, registry
from cwasi_fastpath.credentials import Credentials
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import Locality
from cwasi_fastpath.placement import (
    boot_id,
    cgroup_of,
    container_of,
    edge_facts,
    here,
    numa_nodes,
    of_peer,
    parsed_list,
)

ROOT = Path(__file__).parent.parent


def test_here() -> None:
    mine = here("lab")
    assert (mine.node, mine.process, mine.uid, mine.trust) == (boot_id(), os.getpid(), os.getuid(), "lab")
    assert mine.network == Path("/proc/self/ns/net").stat().st_ino
    assert mine.pid_namespace == Path("/proc/self/ns/pid").stat().st_ino
    assert set(mine.cpus) == os.sched_getaffinity(0)
    assert abs(psutil.boot_time() + mine.started / os.sysconf("SC_CLK_TCK") - psutil.Process().create_time()) < 2
    with pytest.raises(cwasi.BadName):
        here("Lab")


def test_a_number_that_was_used_again_is_another_process() -> None:
    mine = here()
    assert edge_facts(mine, mine).locality is Locality.PROCESS
    assert edge_facts(mine, replace(mine, started=mine.started + 1)).locality is Locality.NODE


def test_a_forked_child_is_elsewhere() -> None:
    read, write = os.pipe()
    mine = here()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"%d" % here().process)
        os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(read, 20)) == pid != mine.process
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("lines", "group"),
    [
        ("0::/user.slice/x.scope\n", "/user.slice/x.scope"),
        ("9:name=systemd:/\n4:memory:/docker/0123456789ab\n0::/\n", "/docker/0123456789ab"),
        ("4:memory:/a\n0::/system.slice/app.service\n", "/system.slice/app.service"),
        ("0::/\n", "/"),
        ("3:cpu,cpuacct:/kubepods/pod:with:colons\n", "/kubepods/pod:with:colons"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_the_control_group(lines: str, group: str) -> None:
    assert cgroup_of(lines) == group


@pytest.mark.parametrize(
    ("group", "container"),
    [
        ("/docker/0123456789abcdef0123456789abcdef", "0123456789ab"),
        ("/system.slice/docker-0123456789abcdef.scope", "0123456789ab"),
        ("/kubepods/burstable/pod1234/0123456789abcdef", "0123456789ab"),
        ("/machine.slice/libpod-0123456789abcdef.scope", "0123456789ab"),
        ("/user.slice/user-1000.slice", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_the_container(group: str, container: str) -> None:
    assert container_of(group) == container


def test_lists_of_cpus() -> None:
    assert parsed_list("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11} and parsed_list("\n") == set()
    with pytest.raises(ValueError):
        parsed_list("a-b")


def test_memory_nodes(tmp_path: Path) -> None:
    for node, cpus in (("node0", "0-1"), ("node1", "2-3"), ("node10", "nonsense"), ("node2", "")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(cpus)
    (tmp_path / "node3").mkdir()
    assert numa_nodes((1, 2), tmp_path) == (0, 1)
    assert numa_nodes((3,), tmp_path) == (1,)
    assert numa_nodes((9,), tmp_path) == () == numa_nodes((0,), tmp_path / "none")


def test_what_the_kernel_knows_counts_and_not_what_a_peer_claims() -> None:
    claims = {"node": "elsewhere", "process": 1, "uid": 4711, "pid_namespace": 1, "network": 2, "cgroup": "/lies",
              "cpus": [99], "numa": [99], "trust": "lab"}   # fmt: skip
    told = of_peer(Credentials(os.getpid(), os.getuid()), claims)
    assert told == here("lab")
    assert edge_facts(told, here("lab")).locality is Locality.PROCESS


def test_of_a_process_that_is_not_seen_its_claims_are_shown() -> None:
    mine = here()
    told = of_peer(Credentials(0, os.getuid()), {**mine.as_plain(), "cgroup": "/theirs\x1b", "cpus": [1, 2]})
    assert (told.process, told.cgroup, told.cpus, told.network) == (0, "/theirs", (1, 2), mine.network)
    assert edge_facts(told, mine).locality is Locality.NODE, "also if it claims our pid"


@pytest.mark.parametrize("claims", [None, 3, [], {}, {"cpus": "x", "network": "y", "cgroup": 3, "pid_namespace": -1},
                                    {"cpus": [None, "a", 1 << 70] * 5000, "network": 1 << 80}])   # fmt: skip
def test_claims_may_be_anything(claims: Any) -> None:
    told = of_peer(Credentials(0, os.getuid()), claims)
    assert told.trust == "default" and told.network == 0 and len(told.cpus) <= 4096


def test_a_trust_label_that_is_none() -> None:
    for trust in ("", "A", 3, None, "x" * 64):
        with pytest.raises(cwasi.BadName):
            of_peer(Credentials(0, 0), {"trust": trust})


# ---- a container: mount, pid and network namespaces of its own, and the runtime directory bind-mounted ----

INSIDE = """
import json, os, sys
import cwasi_fastpath as cwasi
from cwasi_fastpath import meeting, registry
from cwasi_fastpath.endpoint import RECEIVER, SENDER
role = sys.argv[1]
assert os.getpid() < 10, "a pid namespace of its own"
end = getattr(cwasi, "open_" + role)("lab", timeout=60, **json.loads(sys.argv[2]))
named = meeting.named_end("lab", SENDER if role == "sender" else RECEIVER)
peer = named.meeting.peer
print(json.dumps({"pid": os.getpid(), "peer": peer.as_plain(), "here": named.here.as_plain(),
                  "transport": named.meeting.decision.transport, "mode": str(end.mode),
                  "runtime": sorted(os.listdir(os.environ["CWASI_RUNTIME_DIR"]))}), flush=True)
try:
    if role == "sender":
        for number in range(100):
            end.send(b"%d" % number * 1000)
        sys.stdin.read(1)
        end.close()
    else:
        for number in range(100):
            assert end.recv(timeout=60) == b"%d" % number * 1000
        print(json.dumps("received"), flush=True)
        end.recv(timeout=60)
except cwasi.Error as error:
    print(json.dumps(type(error).__name__), flush=True)
"""


def cannot_make_namespaces() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("unshare"):
        return "no unshare (util-linux)"
    done = subprocess.run(["unshare", "-mpn", "--fork", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


class Container:
    """A program in namespaces of its own, where the runtime directory is mounted at another place."""

    def __init__(self, directory: Path, role: str, **options: object) -> None:
        script = (
            "set -e; mount -t tmpfs none /mnt; mkdir -m 700 /mnt/run; mount --bind \"$0\" /mnt/run; "
            "mount -t proc proc /proc; export CWASI_RUNTIME_DIR=/mnt/run; exec \"$@\""
        )
        self.process = subprocess.Popen(
            ["unshare", "-mpn", "--fork", "--kill-child", "sh", "-c", script, str(directory),
             sys.executable, "-c", INSIDE, role, json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )   # fmt: skip

    def said(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait(HANG)}"
        return json.loads(line)

    def kill(self) -> None:
        """The program inside; unshare waits for that."""
        (inside,) = psutil.Process(self.process.pid).children()
        inside.kill()
        self.process.wait(HANG)
        self.end()

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self.process.wait(HANG)


@pytest.fixture
def directory(runtime_directory: Path) -> Iterator[Path]:
    if reason := cannot_make_namespaces():
        pytest.skip(f"no namespaces: {reason}")
    yield runtime_directory
    control_ended()


def test_a_receiver_in_a_container(directory: Path) -> None:
    container = Container(directory, "receiver")
    with cwasi.open_sender("lab", timeout=HANG) as tx:
        told = container.said()
        named = meeting.named_end("lab", SENDER)
        assert named is not None and named.meeting is not None
        theirs = named.meeting.peer
        assert told["pid"] < 10 < theirs.process, "we see its pid in our namespace"
        assert theirs.pid_namespace == told["here"]["pid_namespace"] != here().pid_namespace
        assert theirs.network == told["here"]["network"] != here().network
        assert (told["peer"]["process"], told["peer"]["node"]) == (0, boot_id()), "it does not see ours"
        assert told["peer"]["network"] == here().network, "as we claim, which it cannot check"
        assert (told["transport"], told["mode"]) == ("ring", "proximal")
        for number in range(100):
            tx.send(b"%d" % number * 1000, timeout=HANG)
        assert container.said() == "received"
    assert container.said() == "ChannelClosed"
    container.end()


def test_a_sender_in_a_container_is_killed(directory: Path) -> None:
    """Its death is noticed by the hang-up: its pid means nothing here."""
    container = Container(directory, "sender", transport="pipe")
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        assert container.said()["transport"] == "pipe"
        for number in range(100):
            assert rx.recv(timeout=HANG) == b"%d" % number * 1000
        named = meeting.named_end("lab", RECEIVER)
        assert named is not None and named.meeting is not None
        container.kill()
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=HANG)


def test_two_containers(directory: Path) -> None:
    sender, receiver = Container(directory, "sender"), Container(directory, "receiver")
    first, second = sender.said(), receiver.said()
    assert first["here"]["pid_namespace"] != second["here"]["pid_namespace"]
    assert (first["peer"]["process"], second["peer"]["process"]) == (0, 0), "neither sees the other"
    assert first["mode"] == "proximal" and receiver.said() == "received"
    sender.kill()
    assert receiver.said() == "PeerDied"
    receiver.end()


def test_ps_from_outside_and_inside(directory: Path) -> None:
    container = Container(directory, "receiver")
    with cwasi.open_sender("lab", timeout=HANG):
        told = container.said()
        ps = [sys.executable, "-m", "cwasi_fastpath.cli", "ps", "--json"]
        done = subprocess.run(ps, capture_output=True, text=True, timeout=HANG, check=True)
        ends = {end["role"]: end for end in json.loads(done.stdout)["ends"]}
        assert ends["receiver"]["pid"] == ends["sender"]["peer_pids"][0] and not ends["receiver"]["foreign"]
        pid = ends["receiver"]["pid"]
        inside = ["nsenter", "-t", str(pid), "-m", "-p", "-n", "env", "CWASI_RUNTIME_DIR=/mnt/run", *ps]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=HANG, check=True, cwd="/")
        ends = {end["role"]: end for end in json.loads(done.stdout)["ends"]}
        assert ends["receiver"]["pid"] == told["pid"] and not ends["receiver"]["foreign"]
        assert ends["sender"]["foreign"] and ends["sender"]["pid"] == os.getpid(), "as it knows itself"
        container.kill()


def test_the_second_of_a_role_in_a_container(directory: Path) -> None:
    container = Container(directory, "sender")
    while registry.holder("lab", SENDER) is None:
        time.sleep(0.001)
    with pytest.raises(cwasi.Busy, match=r"channel 'lab' has a sender already: process \d+"):
        cwasi.open_sender("lab", timeout=0)
    container.kill()
    with pytest.raises(cwasi.Timeout):
        cwasi.open_sender("lab", timeout=0)
