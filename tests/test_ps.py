"""cwasi ps and cwasi inspect: what they show of channels that are named, of hosts, and of processes that lie."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from channels import HANG, Start, control_ended, eventually, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath import census, description, registry, runtime
from cwasi_fastpath.cli.ps import age, short
from cwasi_fastpath.connection import MESSAGE_BYTES
from cwasi_fastpath.endpoint import SENDER


@pytest.fixture(autouse=True)
def directory(runtime_directory: Path) -> Iterator[Path]:
    yield runtime_directory
    control_ended()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cwasi_fastpath.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=HANG,
        env={**os.environ, "COLUMNS": "160"},
    )


def ends(*arguments: str) -> list[dict[str, Any]]:
    done = command("ps", "--json", *arguments)
    assert done.returncode == 0, done
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    return list(found["ends"])


def counted(*messages: int) -> list[dict[str, Any]]:
    """The ends, once they have counted so many each: who sends counts when the message may have come already."""
    found = ends()
    return found if [row["metrics"].get("messages") for row in found] == list(messages) else []


def test_nothing_to_show(runtime_directory: Path) -> None:
    assert ends() == []
    done = command("ps")
    assert (done.returncode, done.stdout) == (0, "") and "no process" in done.stderr
    done = command("inspect", "lab")
    assert done.returncode == 69 and "'lab'; there is no channel at all" in done.stderr
    assert command("inspect", "../lab").returncode == 2
    assert not list(runtime_directory.iterdir()), "looking leaves nothing"


def test_a_pair_in_two_processes(start: Start) -> None:
    def child() -> None:
        signal.alarm(int(HANG))
        tx = cwasi.open_sender("lab", timeout=HANG, transport="pipe", trust="theirs")
        for _ in range(3):
            tx.send(b"1234")
        while True:
            signal.pause()

    pid = in_child(child)
    with cwasi.open_receiver("lab", timeout=HANG) as rx:
        assert rx.recv(timeout=HANG) == b"1234"
        sender, receiver = eventually(lambda: counted(3, 1))
        assert (sender["role"], sender["pid"], sender["peer_pids"], sender["trust"]) == (
            "sender", pid, [os.getpid()], "theirs"
        )
        assert (receiver["role"], receiver["pid"], receiver["peer_pids"]) == ("receiver", os.getpid(), [pid])
        assert {row["transport"] for row in (sender, receiver)} == {"pipe"} and sender["mode"] == "proximal"
        assert sender["state"] == "open" and sender["epoch"] == 0 and not sender["foreign"]
        assert (sender["metrics"]["messages"], sender["metrics"]["bytes"]) == (3, 12)
        assert (receiver["metrics"]["messages"], receiver["metrics"]["bytes"]) == (1, 4)
        assert sender["peer_placement"]["trust"] == "default" and receiver["peer_placement"]["trust"] == "theirs"
        shown = command("ps").stdout
        assert f"process {pid}" in shown and f"process {os.getpid()}" in shown and "12 B" in shown
        told = command("inspect", "lab").stdout
        assert "theirs; the peer's default" in told and "may not share memory" in told
        assert "messages 3, bytes 12" in told
        assert f"process {pid}" in told and f"node {sender['placement']['node']}" in told.replace("\n", " ")
        found = json.loads(command("inspect", "lab", "--json").stdout)
        assert [row["role"] for row in found["ends"]] == ["sender", "receiver"] and found["channel"] == "lab"
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) == -signal.SIGKILL
        (left,) = eventually(lambda: [row for row in ends() if row["state"] == "peer gone"])
        assert left["role"] == "receiver"
        assert "peer gone" in command("ps").stdout
        done = command("inspect", "other", "--json")
        assert done.returncode == 69 and json.loads(done.stdout)["error"] == "NoSuchChannel" and "lab" in done.stderr
    assert ends() == []


def test_a_forked_child_tells_only_of_its_own(start: Start) -> None:
    opening = start(cwasi.open_sender, "lab", timeout=HANG)
    with cwasi.open_receiver("lab", timeout=HANG), opening.result(HANG):   # type: ignore[attr-defined]

        def child() -> None:
            signal.alarm(int(HANG))
            cwasi.open_sender("childs")

        pid = in_child(child)
        rows = eventually(lambda: (found := ends()) and len(found) >= 3 and found)
        assert sorted((row["channel"], row["pid"]) for row in rows) == [
            ("childs", pid), ("lab", os.getpid()), ("lab", os.getpid())
        ]
        os.kill(pid, signal.SIGKILL)
        status_of(pid)


def test_an_end_that_waits(start: Start) -> None:
    waiting = start(cwasi.open_sender, "lab", timeout=HANG)
    (row,) = eventually(ends)
    assert (row["state"], row["transport"], row["peers"], row["metrics"]) == ("waiting", None, [], {})
    assert "not decided yet" in command("inspect", "lab").stdout
    with cwasi.open_receiver("lab", timeout=HANG):
        waiting.result(HANG).close()   # type: ignore[attr-defined]


def test_a_host_in_one_process(guests: Path) -> None:
    with cwasi.Host() as host:
        source = host.load(guests / "source.wasm", "a", arguments=["10", "64"])
        sink = host.load(guests / "sink.wasm", "b", arguments=["10", "64"])
        host.connect("frames", source, sink, ports=("out", "in"))
        sender, receiver = ends()
        assert (sender["function"], sender["peers"]) == ("a", ["b"])
        assert (receiver["function"], receiver["peers"], receiver["peer_pids"]) == ("b", ["a"], [os.getpid()])
        assert sender["mode"] == "local" and sender["transport"] == "ring"
        host.run()
        assert {row["metrics"]["messages"] for row in ends()} == {10}
        assert "a -> b" in command("inspect", "frames").stdout
    assert ends() == []


def test_a_run_in_two_processes(guests: Path, runtime_directory: Path) -> None:
    count = "2000000000"
    line = [sys.executable, "-m", "cwasi_fastpath.cli", "run", "--mode", "proximal", "--connect", "frames:a/out:b/in",
            f"a={guests / 'source.wasm'} {count} 64", f"b={guests / 'sink.wasm'} {count} 64"]   # fmt: skip
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        rows = eventually(lambda: [row for row in ends() if row["metrics"].get("messages")])
        assert {row["function"] for row in rows} <= {"a", "b"}
        eventually(lambda: len(ends()) == 2)
        shown = command("ps").stdout
        pids = {row["function"]: row["pid"] for row in ends()}
        assert len(set(pids.values())) == 2 and f"b (pid {pids['b']})" in shown and f"a (pid {pids['a']})" in shown
        process.send_signal(signal.SIGTERM)
        process.wait(HANG)
    eventually(lambda: ends() == [])


def test_a_run_leaves_nothing(guests: Path, runtime_directory: Path) -> None:
    for mode in ("auto", "proximal"):
        done = command("run", "--mode", mode, "--connect", "frames:a/out:b/in", f"a={guests / 'source.wasm'} 10 64",
                       f"b={guests / 'sink.wasm'} 10 64")   # fmt: skip
        assert done.returncode == 0, done
        assert not list(runtime_directory.iterdir())


def test_a_host_without_a_runtime_directory_says_so_once(
    guests: Path, runtime_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime_directory.chmod(0o755)
    with cwasi.Host() as host:
        names = "abcd"
        loaded = [host.load(guests / f"{'sink' if name in 'bd' else 'source'}.wasm", name) for name in names]
        host.connect("one", loaded[0], loaded[1])
        host.connect("two", loaded[2], loaded[3])
    (record,) = caplog.records
    assert "cwasi ps will not show" in record.getMessage() and "0755" in record.getMessage()
    done = command("ps")
    assert done.returncode == 69 and "0755" in done.stderr
    runtime_directory.chmod(0o700)


def test_more_ends_than_one_answer_holds(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "_PROCESS_SECONDS", HANG)
    pairs = []
    for number in range(60):
        opening = start(cwasi.open_sender, f"lab-{number}", timeout=HANG)
        rx = cwasi.open_receiver(f"lab-{number}", timeout=HANG)
        pairs.append((opening.result(HANG), rx))
    found, failures = census.census()
    assert len(found) == 120 and failures == []
    assert len({(end.channel, end.role) for end in found}) == 120
    for tx, rx in pairs:
        tx.close()   # type: ignore[attr-defined]
        rx.close()


# ---- processes that lie ----


def honest() -> dict[str, Any]:
    end = description.EndDescription(
        "lab", "sender", None, 1, "open", "default", "ring", "local", 0, 1.0, peers=["x"], peer_pids=[1]
    )
    return asdict(end)


@pytest.mark.parametrize(
    "lie",
    [
        {"channel": "\x1b[31m"}, {"channel": 3}, {"role": None}, {"pid": "x"}, {"age_seconds": None}, {"peers": {}},
        {"metrics": []}, {"explanations": 3}, {"unread": "3"}, {"more": 1}, {"mode": 5}, {"foreign": "x"},
        {"placement": 3}, {"peer_pids": "1"}, {"peers": [3]}, {"peer_pids": ["x"]}, {"metrics": {"messages": "many"}},
        {"explanations": {"a": 3}}, {"peer_placement": {"process": "x"}}, {"age_seconds": float("nan")},
    ],
    ids=str,
)   # fmt: skip
def test_a_description_that_lies_is_refused(lie: dict[str, Any]) -> None:
    assert description.parsed(honest()).channel == "lab"
    with pytest.raises(cwasi.Error):
        description.parsed({**honest(), **lie})


def test_texts_are_made_harmless() -> None:
    lie = {"explanations": {"\x1b[2J": "a\x1b]0;x\x07b\nc", "long": "x" * 9999}, "peers": ["\u202e[red]"]}
    end = description.parsed({**honest(), **lie})
    assert end.explanations == {"[2J": "a]0;xb\nc", "long": "x" * 4000} and end.peers == ["[red]"]
    for plain in (None, [], "x", {}):
        with pytest.raises(cwasi.Corrupted):
            description.parsed(plain)


@pytest.mark.parametrize(
    "answer",
    [b"garbage", b"[]", b"", b'{"answer": 1}', b'{"answer": 1, "body": {}}', b'{"answer": 1, "body": {"ends": [7]}}',
     b'{"refused": 1, "error": "GuestExit", "message": "\x1b[31m"}', b"[" * 50_000, None],
    ids=repr,
)   # fmt: skip
def test_a_process_that_lies_or_says_nothing(runtime_directory: Path, answer: bytes | None) -> None:
    """The others are shown, and the status is well; what it says does not reach the terminal raw."""
    address = "+00000000000000cd"
    path = runtime.socket_path(runtime_directory, address)
    (runtime_directory / address).write_text("{}")
    liar = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    liar.bind(str(path))
    liar.listen()

    def serve() -> None:
        while True:
            connection, _ = liar.accept()
            with connection, suppress(OSError):   # who has waited long enough has gone
                data = connection.recv(MESSAGE_BYTES)
                if data == b"end":
                    return
                if data and answer is not None:
                    connection.send(answer)
                elif data:
                    connection.recv(MESSAGE_BYTES)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    done = command("ps")
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr, done
    assert "Traceback" not in done.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(path))
        sock.send(b"end")
    serving.join()
    liar.close()
    path.unlink()


def test_figures_for_people() -> None:
    assert [short(n) for n in (0, 1023, 1024, 1 << 30, 1 << 40)] == ["0 B", "1,023 B", "1.0 KiB", "1.0 GiB", "1.0 TiB"]
    assert [age(n) for n in (0.04, 59, 90, 5400, 129600)] == ["0.0 s", "59.0 s", "1.5 min", "1.5 h", "1.5 d"]


def test_who_holds_a_name_without_an_open_end(runtime_directory: Path) -> None:
    """A stale entry is nobody."""
    (runtime_directory / "lab:sender").write_text('{"pid": 1, "address": "+0123456789abcdef"}')
    assert registry.holder("lab", SENDER) is not None
    assert ends() == []


def test_two_hosts_of_one_process_with_a_channel_of_the_same_name(guests: Path) -> None:
    """Which one is meant cannot be said from outside; of one it can."""

    def connected(host: cwasi.Host) -> cwasi.Channel:
        source = host.load(guests / "source.wasm", "a", arguments=["10", "64"])
        sink = host.load(guests / "sink.wasm", "b", arguments=["10", "64"])
        return host.connect("frames", source, sink, ports=("out", "in"))

    with cwasi.Host() as one:
        first = connected(one)
        with cwasi.Host() as other:
            second = connected(other)
            done = command("switch", "frames", "--to", "pipe")
            assert done.returncode == 2 and "has 2 channels 'frames'" in done.stderr
            other.switch("frames", "pipe")
            assert (first.transport, second.transport) == ("ring", "pipe")
        done = command("switch", "frames", "--to", "tcp")
        assert done.returncode == 0 and first.transport == "tcp", done
        one.run()
