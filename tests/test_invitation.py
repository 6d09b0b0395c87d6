"""A tracer finds a host that runs already; nobody but root is listened to, and nobody else is taken for the host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cwasi_fastpath.invitation import address_of, invite

LISTENS = """
import sys
from cwasi_fastpath.invitation import listen

def join(address):
    print(address, flush=True)
    return True

listen(join)
listen(join)   # once
print("listens", flush=True)
sys.stdin.read()
"""


@contextmanager
def listening() -> Iterator[subprocess.Popen[str]]:
    """A host that prints the addresses that it is told."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LISTENS], text=True, **pipes) as host:
        try:
            assert host.stdout is not None and host.stdout.readline() == "listens\n"
            yield host
        finally:
            host.kill()


def address(pid: int) -> str:
    return address_of(Path("/proc/self/ns/pid").stat().st_ino, pid)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root is listened to")


@needs_root
def test_a_host_joins() -> None:
    with listening() as host:
        assert host.stdout is not None
        for tracer in ("@one", "@two"):
            invite(host.pid, tracer)
            assert host.stdout.readline() == f"{tracer}\n"


@needs_root
def test_nonsense_is_not_followed() -> None:
    with listening() as host:
        for said in (b"", b"[" * 4000, b"{}", b'{"tracer": 7}', b"[]", b"\xff"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as tracer:
                tracer.connect(address(host.pid))
                tracer.send(said)
        invite(host.pid, "@after")
        assert host.stdout is not None and host.stdout.readline() == "@after\n"


ANYBODY = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as tracer:
    tracer.connect("\\0" + sys.argv[1])
    try:
        tracer.send(b'{"tracer": "@evil"}')
        answer = tracer.recv(4096)
    except OSError:
        answer = b""
    assert answer == b"", answer
"""


@needs_root
def test_only_root_is_listened_to() -> None:
    with listening() as host:
        argv = ["/usr/bin/python3", "-c", ANYBODY, address(host.pid)[1:]]
        subprocess.run(argv, user=65534, group=65534, cwd="/", check=True, timeout=300)
        invite(host.pid, "@root")
        assert host.stdout is not None and host.stdout.readline() == "@root\n"


def test_who_has_the_address_of_another_is_not_the_host() -> None:
    squatter = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with squatter, subprocess.Popen(["sleep", "1000"]) as victim:
        try:
            squatter.bind(address(victim.pid))
            squatter.listen()
            with pytest.raises(PermissionError, match="another process"):
                invite(victim.pid, "@tracer")
        finally:
            victim.kill()


def test_what_is_no_host_is_told_so() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            with pytest.raises(ConnectionRefusedError):
                invite(process.pid, "@tracer")
        finally:
            process.kill()
    with pytest.raises(OSError):
        invite(process.pid, "@tracer")


def test_a_forked_child_has_an_address_of_its_own() -> None:
    """It is not found at that of its parent, which is free when the parent has ended."""
    body = LISTENS + """
import json, os
from cwasi_fastpath import invitation
assert os.fork() or os._exit(invitation._listener is not None) is None
assert os.wait()[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", body], input="", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.dumps(done.stdout) == json.dumps("listens\n")
