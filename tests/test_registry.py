"""Names on a node: the runtime directory, claims in it, and what deaths leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Barrier, Process, Queue
from pathlib import Path

import pytest
from channels import HANG, control_ended, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import claim as claims
from cwasi_fastpath import control, registry, runtime
from cwasi_fastpath.claim import Claim, contents
from cwasi_fastpath.endpoint import RECEIVER, SENDER


@pytest.fixture
def presence(runtime_directory: Path) -> Iterator[control.Presence]:
    """This process can be found."""
    found = control.Presence()
    yield found
    found.leave()
    control_ended()


# ---- the directory ----


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CWASI_RUNTIME_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime.path() == tmp_path / "here"
    monkeypatch.delenv("CWASI_RUNTIME_DIR")
    assert runtime.path() == tmp_path / "cwasi"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime.path() == Path("/run/cwasi")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert runtime.path() == Path("/tmp/cwasi-1234")


def test_it_is_made_for_us_alone(runtime_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runtime_directory / "made"
    monkeypatch.setenv("CWASI_RUNTIME_DIR", str(made))
    assert runtime.directory() == made
    assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701, 0o777])
def test_one_that_others_may_enter_is_refused(runtime_directory: Path, mode: int) -> None:
    runtime_directory.chmod(mode)
    with pytest.raises(cwasi.RegistryUnavailable, match=f"mode 0{mode:o}.*CWASI_RUNTIME_DIR"):
        cwasi.open_sender("lab", timeout=0)


def test_what_is_no_directory_is_refused(runtime_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runtime_directory / "file").touch()
    (runtime_directory / "real").mkdir(mode=0o700)
    (runtime_directory / "link").symlink_to("real")
    for name, reason in (("file", "File exists"), ("link", "symbolic link"), ("no/where", "No such file"),
                         ("long" * 30, "longer than")):
        monkeypatch.setenv("CWASI_RUNTIME_DIR", str(runtime_directory / name))
        with pytest.raises(cwasi.RegistryUnavailable, match=reason):
            cwasi.open_receiver("lab", timeout=0)


def test_that_of_another_user_is_refused(runtime_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a directory away")
    os.chown(runtime_directory, 65534, 65534)
    with pytest.raises(cwasi.RegistryUnavailable, match="belongs to user 65534"):
        cwasi.open_receiver("lab", timeout=0)


def as_nobody(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program as another user; the tree need not be readable for it, so it is imported before."""
    prologue = (
        "import sys, os, cwasi_fastpath as cwasi\n"
        "from cwasi_fastpath import rendezvous, control, registry, runtime\n"
        "import cwasi_fastpath.transport.ring, cwasi_fastpath.transport.pipe, psutil\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prologue + script, *arguments], capture_output=True, text=True, timeout=HANG
    )


def test_another_user_cannot_come_in(runtime_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    done = as_nobody(
        "try: cwasi.open_receiver('lab', timeout=0)\n"
        "except cwasi.RegistryUnavailable as error: print(error)\n"
    )
    assert "belongs to user 0, not to us (65534)" in done.stdout or "Permission denied" in done.stdout, done
    assert not list(runtime_directory.iterdir())


def test_another_user_who_gets_to_the_socket_is_refused(presence: control.Presence, runtime_directory: Path) -> None:
    """As if somebody had opened the directory meanwhile."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    path = runtime.socket_path(runtime_directory, presence.address)
    runtime_directory.chmod(0o755)
    path.chmod(0o777)
    done = as_nobody(
        "import socket\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:\n"
        "    sock.connect(sys.argv[1])\n"
        "    sock.settimeout(20)\n"
        "    print(sock.recv(4096).decode(), sock.recv(4096))\n",
        str(path),
    )
    runtime_directory.chmod(0o700)
    assert "user 65534 is not served here" in done.stdout and "bye" in done.stdout, done


def test_a_read_only_directory(runtime_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "none", str(runtime_directory)], check=True)
    try:
        with pytest.raises(cwasi.RegistryUnavailable, match="Read-only file system; set CWASI_RUNTIME_DIR"):
            cwasi.open_sender("lab", timeout=0)
    finally:
        subprocess.run(["umount", str(runtime_directory)], check=True)


@pytest.mark.parametrize("inodes", [1, 2, 3, 4])
def test_a_full_disk(runtime_directory: Path, inodes: int) -> None:
    """The directory, the process, its socket and its end take one each: nothing stays where one has no room."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    options = f"mode=0700,nr_inodes={inodes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(runtime_directory)], check=True)
    try:
        error = cwasi.RegistryUnavailable if inodes < 4 else cwasi.Timeout
        with pytest.raises(error, match="No space left on device" if inodes < 4 else "no receiver"):
            cwasi.open_sender("lab", timeout=0.01)
        control_ended()
        assert not list(runtime_directory.iterdir())
    finally:
        subprocess.run(["umount", str(runtime_directory)], check=True)


def test_a_disk_without_room_for_a_byte(runtime_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700,size=4k", "none", str(runtime_directory)], check=True)
    try:
        (runtime_directory / "filler").write_bytes(bytes(4096))
        with pytest.raises(cwasi.RegistryUnavailable, match="No space left on device"):
            cwasi.open_sender("lab", timeout=0)
        assert [path.name for path in runtime_directory.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(runtime_directory)], check=True)


# ---- claims ----


def test_a_claim_is_held_released_and_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "lab:sender"
    claim = Claim.take(path, {"pid": 1})
    assert claim is not None and contents(path) == {"pid": 1}
    assert Claim.take(path, {"pid": 2}) is None and Claim.of_the_dead(path) is None
    claim.release()
    claim.release()
    assert not path.exists() and contents(path) is None
    again = Claim.take(path, {"pid": 3})
    assert again is not None and contents(path) == {"pid": 3}
    again.release()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"pid": 1, "address": "+0123456789abcdef"}', b"\xff" * 9000])
def test_what_the_dead_have_left_is_free(presence: control.Presence, runtime_directory: Path, content: bytes) -> None:
    path = runtime_directory / "lab:sender"
    path.write_bytes(content)
    claim = registry.claim("lab", SENDER, presence.address)
    found = registry.holder("lab", SENDER)
    assert found is not None and found.address == presence.address and found.pid == os.getpid()
    claim.release()


@pytest.mark.parametrize("make", ["mkfifo", "mkdir", "symlink", "socket"])
def test_what_is_no_entry_is_an_error_and_no_trap(
    presence: control.Presence, runtime_directory: Path, make: str
) -> None:
    path = runtime_directory / "lab:sender"
    if make == "symlink":
        path.symlink_to("/etc/hostname")
    elif make == "socket":
        os.mknod(path, 0o140600)
    else:
        getattr(os, make)(path)
    with pytest.raises((cwasi.RegistryUnavailable, cwasi.Timeout)):
        cwasi.open_receiver("lab", timeout=0.1)
    if make != "mkfifo":
        with pytest.raises(cwasi.RegistryUnavailable):
            registry.claim("lab", SENDER, presence.address)
    runtime.sweep(runtime_directory)
    assert Path("/etc/hostname").exists() or make != "symlink"


def test_a_fork_does_not_keep_the_name(presence: control.Presence) -> None:
    """The child has a copy of the descriptor, which would keep the lock beyond the parent's death."""

    read, write = os.pipe()

    def holder() -> None:
        mine = control.Presence()
        registry.claim("lab", SENDER, mine.address)
        if os.fork() == 0:
            os.write(write, b"%d" % os.getpid())
            signal.alarm(int(HANG))
            while True:
                signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(in_child(holder)) == -signal.SIGKILL
    grandchild = int(os.read(read, 20))
    registry.claim("lab", SENDER, presence.address).release()
    os.kill(grandchild, signal.SIGKILL)
    os.close(read)
    os.close(write)


def test_a_fork_has_no_part_in_what_another_thread_is_taking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before: it would keep the lock."""
    taken: list[Claim | None] = []
    lock, opened = claims._lock, threading.Event()

    def late(descriptor: int) -> bool:
        opened.set()
        time.sleep(0.2)
        return lock(descriptor)

    def child() -> None:
        links = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()}
        assert str(tmp_path / "lab:sender") not in links

    monkeypatch.setattr(claims, "_lock", late)
    taking = threading.Thread(target=lambda: taken.append(Claim.take(tmp_path / "lab:sender", {})))
    taking.start()
    opened.wait(HANG)
    assert status_of(in_child(child)) == 0
    taking.join()
    assert taken[0] is not None
    taken[0].release()


def test_the_second_claimer_is_told_who_holds_it(presence: control.Presence) -> None:
    claim = registry.claim("lab", RECEIVER, presence.address)
    with pytest.raises(cwasi.Busy, match=rf"channel 'lab' has a receiver already: process {os.getpid()};"):
        registry.claim("lab", RECEIVER, presence.address)
    other = registry.claim("lab", SENDER, presence.address)
    other.release()
    claim.release()


ROUNDS = 200


def racer(barrier: object, results: Queue[tuple[int, str]]) -> None:
    presence = control.Presence()
    for number in range(ROUNDS):
        barrier.wait(HANG)   # type: ignore[attr-defined]
        try:
            claim = registry.claim("lab", SENDER, presence.address)
            results.put((number, "won"))
        except cwasi.Busy as error:
            claim = None
            results.put((number, str(error)))
        barrier.wait(HANG)   # type: ignore[attr-defined]
        if claim is not None and number % 2 == 0:
            claim.release()
        elif claim is not None:
            # As a kill would: the name stays, nobody holds it, and its process does not listen any more.
            claim.path.write_text('{"pid": 1, "address": "+0123456789abcdef"}')
            claim.forget()
    presence.leave()


def test_two_claimers_race(runtime_directory: Path) -> None:
    """Exactly one wins each time, also where a dead one's entry is in the way, and while others sweep."""
    barrier, results = Barrier(2), Queue()   # type: ignore[var-annotated]
    racers = [Process(target=racer, args=(barrier, results)) for _ in range(2)]
    for process in racers:
        process.start()
    said: dict[int, list[str]] = {}
    for _ in range(2 * ROUNDS):
        number, what = results.get(timeout=HANG)
        said.setdefault(number, []).append(what)
        runtime.sweep(runtime_directory)
    for process in racers:
        process.join(HANG)
    pids = {str(process.pid) for process in racers}
    for number, outcomes in said.items():
        assert sorted(outcome == "won" for outcome in outcomes) == [False, True], (number, outcomes)
        assert any(f"process {pid};" in outcome for outcome in outcomes for pid in pids), outcomes
    results.close()
    results.join_thread()


def test_a_process_that_is_killed_leaves_nothing_that_harms(runtime_directory: Path) -> None:
    def child() -> None:
        presence = control.Presence()
        registry.claim("lab", SENDER, presence.address)
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(in_child(child)) == -signal.SIGKILL
    assert len(list(runtime_directory.iterdir())) == 3, "the process, its socket, its end"
    (runtime_directory / "mine").write_text("not an entry")
    presence = control.Presence()   # sweeps
    assert {path.name for path in runtime_directory.iterdir()} == {
        "mine", presence.address, f"{presence.address}.socket"
    }
    presence.leave()


def test_nothing_is_left_when_the_interpreter_ends(runtime_directory: Path) -> None:
    """Nor by a thread that was just taking a name."""
    script = (
        "import cwasi_fastpath as cwasi, threading\n"
        "threading.Thread(target=cwasi.open_sender, args=('lab',), daemon=True).start()\n"
        "rx = cwasi.open_receiver('lab')\n"
        "from cwasi_fastpath import claim\n"
        "import os, time\n"
        "lock = claim._lock\n"
        "claim._lock = lambda descriptor: (time.sleep(0.2), lock(descriptor))[1]\n"
        "threading.Thread(target=cwasi.open_sender, args=('waits',), daemon=True).start()\n"
        "while not os.path.exists(os.environ['CWASI_RUNTIME_DIR'] + '/waits:sender'): time.sleep(0.001)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(runtime_directory.iterdir()) == []
