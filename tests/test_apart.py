"""Who is kept out: another user, and the same user under another label, who really try to get at a channel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from channels import HANG, eventually

OURS, THEIRS = 65533, 65534
"""Two users."""

END = """
import sys
import cwasi_fastpath as cwasi
role, channel, trust, transport, shielded = sys.argv[1:]
if shielded == "shielded":
    cwasi.shield()
options = {"transport": transport} if role == "sender" and transport else {}
with getattr(cwasi, "open_" + role)(channel, timeout=60, trust=trust, **options) as end:
    print("open", flush=True)
    for line in sys.stdin:
        if role == "sender":
            end.send(line.encode())
        else:
            print(end.recv(60).decode().strip(), flush=True)
"""

TRIES = """
import ctypes, errno, fcntl, json, os, signal, socket, sys
told = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result

def take(pid, fd):
    pidfd = os.pidfd_open(pid)
    try:
        called(libc.syscall(438, pidfd, fd, 0))   # pidfd_getfd
    finally:
        os.close(pidfd)

def read_memory(pid, address):
    buffer = ctypes.create_string_buffer(64)
    ours, theirs = Piece(ctypes.addressof(buffer), 64), Piece(address, 64)
    called(libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))

def read_by_file(pid, address):
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        memory.seek(address)
        memory.read(64)

def lock(path):
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)

def connect(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(path)

tries = {}
for pid, found in told["processes"].items():
    pid = int(pid)
    tries[f"{pid} fds"] = lambda pid=pid: os.listdir(f"/proc/{pid}/fd")
    tries[f"{pid} maps"] = lambda pid=pid: open(f"/proc/{pid}/maps").read()
    for fd in found["fds"]:
        tries[f"{pid} open {fd}"] = lambda pid=pid, fd=fd: os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
        tries[f"{pid} take {fd}"] = lambda pid=pid, fd=fd: take(pid, fd)
    for address in found["addresses"]:
        tries[f"{pid} memory"] = lambda pid=pid, at=address: read_memory(pid, at)
        tries[f"{pid} mem"] = lambda pid=pid, at=address: read_by_file(pid, at)
    if told["signal"]:
        tries[f"{pid} stop"] = lambda pid=pid: os.kill(pid, signal.SIGSTOP)
for path in told["claims"]:
    tries["list " + os.path.dirname(path)] = lambda path=path: os.listdir(os.path.dirname(path))
    tries["lock " + path] = lambda path=path: lock(path)
    tries["remove " + path] = lambda path=path: os.unlink(path)
for path in told["sockets"]:
    tries["connect " + path] = lambda path=path: connect(path)
outcomes = {}
for name, attempt in tries.items():
    try:
        attempt()
        outcomes[name] = "done"
    except OSError as error:
        outcomes[name] = errno.errorcode[error.errno]
print(json.dumps(outcomes))
"""

REFUSED = {"EACCES", "EPERM"}


def as_user(user: int, *line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        line, user=user, group=user, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )   # fmt: skip


@pytest.fixture(autouse=True)
def directory(runtime_directory: Path) -> Path:
    """The runtime directory of the one user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    found = as_user(THEIRS, sys.executable, "-c", "import cwasi_fastpath._native")
    _, why = found.communicate()
    if found.returncode:
        pytest.skip(f"this tree is not for other users: {why.strip()[-200:]}")
    os.chown(runtime_directory, OURS, OURS)
    return runtime_directory


class Pair:
    """Two processes of one user, with a channel."""

    def __init__(self, transport: str, *, shielded: bool = False, trust: tuple[str, str] = ("default",) * 2) -> None:
        self.ends = [
            as_user(OURS, sys.executable, "-c", END, role, "lab", label, transport, "shielded" if shielded else "")
            for role, label in zip(("sender", "receiver"), trust, strict=True)
        ]
        for end in self.ends:
            assert end.stdout is not None
            line = end.stdout.readline()
            assert line == "open\n", end.communicate()
        self.numbers = 0

    def works(self) -> None:
        """A message still gets from one to the other."""
        self.numbers += 1
        for end in self.ends:
            assert end.stdin is not None
            end.stdin.write(f"{self.numbers}\n")
            end.stdin.flush()
        stdout = self.ends[1].stdout
        assert stdout is not None and stdout.readline() == f"{self.numbers}\n"

    def close(self) -> None:
        for end in self.ends:
            _, errors = end.communicate(timeout=HANG)
            assert (end.returncode, errors) == (0, "")


def targets(pid: int) -> dict[int, str]:
    """What its descriptors lead to. Meanwhile it may close some."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found


def memory_of(pid: int) -> dict[str, Any]:
    """Which of its descriptors are of channels, and where its rings are."""
    ours = ("pipe:", "socket:")
    fds = [fd for fd, target in targets(pid).items() if "cwasi-ring" in target or target.startswith(ours)]
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {"fds": fds, "addresses": [int(at, 16) for at in re.findall(r"^([0-9a-f]+)-.*cwasi-ring", maps, re.M)]}


def tried(user: int, pids: list[int], directory: Path, *, users: bool) -> dict[str, str]:
    """What became of each attempt of a process of that user. users: of another one."""
    names = sorted(str(path) for path in directory.iterdir())
    told = {
        "processes": {pid: memory_of(pid) for pid in pids},
        "claims": [name for name in names if not name.endswith(".socket")] if users else [],
        "sockets": [name for name in names if name.endswith(".socket")] if users else [],
        "signal": users,
    }
    with as_user(user, sys.executable, "-c", TRIES, json.dumps(told)) as process:
        out, errors = process.communicate(timeout=HANG)
    assert errors == ""
    outcomes: dict[str, str] = json.loads(out)
    assert len(outcomes) > 4 * len(pids), outcomes
    return outcomes


@pytest.mark.parametrize("transport", ["ring", "pipe", "tcp"])
def test_another_user_gets_at_nothing(directory: Path, transport: str) -> None:
    pair = Pair(transport)
    pair.works()
    pids = [end.pid for end in pair.ends]
    assert any(memory_of(pid)["addresses"] for pid in pids) == (transport == "ring")
    outcomes = tried(THEIRS, pids, directory, users=True)
    assert set(outcomes.values()) <= REFUSED, outcomes
    for what in ("lock", "remove", "connect", "list"):
        assert any(name.startswith(what) for name in outcomes)
    pair.works()
    pair.close()


def test_another_user_finds_the_port(directory: Path) -> None:
    """It is in /proc for all to see; who knows no key is dropped, and the channel notices nothing."""
    pair = Pair("tcp")
    pair.works()
    ports = listening(pair.ends[1].pid)
    assert ports
    knocks = (
        "import socket, sys\n"
        "for port in map(int, sys.argv[1:]):\n"
        "    for said in (b'', b'GET / HTTP/1.0\\r\\n\\r\\n', bytes(1000), b'\\xff' * 100_000):\n"
        "        with socket.create_connection(('127.0.0.1', port)) as sock:\n"
        "            try:\n"
        "                sock.sendall(said); sock.shutdown(socket.SHUT_WR)\n"
        "                while sock.recv(4096): pass\n"
        "            except OSError: pass\n"
        "print('dropped')\n"
    )
    process = as_user(THEIRS, sys.executable, "-c", knocks, *map(str, ports))
    out, errors = process.communicate(timeout=HANG)
    assert (out, errors) == ("dropped\n", "")
    pair.works()
    pair.close()


def listening(pid: int) -> list[int]:
    found = []
    inodes = set(targets(pid).values())
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
            found.append(int(words[1].rpartition(":")[2], 16))
    return found


def test_another_label_is_given_no_memory(directory: Path) -> None:
    pair = Pair("", trust=("mine", "theirs"))
    pair.works()
    for end in pair.ends:
        assert memory_of(end.pid)["addresses"] == []
        assert not any("cwasi-ring" in target for target in targets(end.pid).values())
    pair.close()


def test_the_same_user_cannot_get_at_who_is_shielded(directory: Path) -> None:
    """Without that it can, as the documents say."""
    for shielded in (False, True):
        pair = Pair("ring", shielded=shielded)
        pair.works()
        outcomes = tried(OURS, [end.pid for end in pair.ends], directory, users=False)
        taken = {name for name, outcome in outcomes.items() if outcome == "done"}
        if shielded:
            assert set(outcomes.values()) <= REFUSED, outcomes
        else:
            assert {name.split()[1] for name in taken} >= {"fds", "maps", "open", "take", "memory", "mem"}, outcomes
        pair.works()
        pair.close()


@pytest.fixture
def run(guests: Path, directory: Path) -> Iterator[tuple[int, dict[str, int]]]:
    """A run of three functions in two trust domains, by one user: its pid, and those of its host processes."""
    count = "1000000000"
    line = [sys.executable, "-P", "-m", "cwasi_fastpath.cli", "run", "--mode", "proximal", "--trust", "other=theirs",
            "--connect", "one:source/out:echo/in", "--connect", "two:echo/out:other/in",
            f"source={guests / 'source.wasm'} {count} 64", f"echo={guests / 'echo.wasm'}",
            f"other={guests / 'sink.wasm'} {count} 64"]   # fmt: skip
    process = as_user(OURS, *line)
    try:
        yield process.pid, eventually(lambda: flowing(process.pid))
    finally:
        process.terminate()
        process.communicate(timeout=HANG)


def flowing(pid: int) -> dict[str, int]:
    """By function, once messages arrive at the last one. The census is for the user whose processes they are."""
    script = (
        "import json\nfrom cwasi_fastpath.census import census\n"
        "print(json.dumps([(end.function, end.pid, end.metrics.get('messages', 0)) for end in census()[0]]))"
    )
    process = as_user(OURS, sys.executable, "-c", script)
    out, errors = process.communicate(timeout=HANG)
    assert errors == ""
    rows = json.loads(out)
    arrived = [messages for function, _, messages in rows if function == "other"]
    found = {function: at for function, at, _ in rows}
    # One that is slow to answer is in no census.
    return found if any(arrived) and found.keys() >= {"source", "echo", "other"} else {}


@pytest.mark.parametrize("user", [OURS, THEIRS], ids=["another-label", "another-user"])
def test_a_run_in_two_trust_domains(run: tuple[int, dict[str, int]], directory: Path, user: int) -> None:
    parent, pids = run
    assert memory_of(pids["source"])["addresses"] and memory_of(pids["echo"])["addresses"]
    assert not memory_of(pids["other"])["addresses"], "it is given none"
    outcomes = tried(user, [parent, *pids.values()], directory, users=user == THEIRS)
    assert set(outcomes.values()) <= REFUSED, outcomes
    before = flowing_count(parent)
    eventually(lambda: flowing_count(parent) > before)


def flowing_count(pid: int) -> int:
    """Messages that the last function has got."""
    script = (
        "from cwasi_fastpath.census import census\n"
        "print(sum(end.metrics.get('messages', 0) for end in census()[0] if end.function == 'other'))"
    )
    process = as_user(OURS, sys.executable, "-c", script)
    out, errors = process.communicate(timeout=HANG)
    assert errors == ""
    return int(out)
