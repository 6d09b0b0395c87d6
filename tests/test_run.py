"""cwasi run, as people and scripts call it: results, reports, bad input, and death in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from channels import HANG, by_age, eventually

from cwasi_fastpath import census

REPOSITORY = Path(__file__).parent.parent
WAIT = REPOSITORY / "tests/guests/wait.wat"
CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]
Edges = tuple[str, ...]


def cwasi_run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    argv = [*CWASI, "run", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=HANG, stdin=subprocess.DEVNULL, **options)


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command, running; afterwards nothing of it may be left."""
    argv = [*CWASI, "run", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(argv, text=True, start_new_session=True, **pipes) as command:
        try:
            yield command
            command.wait(HANG)
            until = time.monotonic() + HANG
            while (left := in_session(command.pid)) and time.monotonic() < until:
                time.sleep(0.02)
            assert left == []
        finally:
            for process in in_session(command.pid):
                process.kill()


def in_session(session: int) -> list[psutil.Process]:
    """Who still lives of those that a command has started. redis-server has a group of its own, but not a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers(command: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """The host processes of a command, once there are so many and they have run for a while."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found.clear()
        for process in in_session(command.pid):
            with suppress(psutil.Error):   # it has just ended
                found.extend([process] if "cwasi_fastpath.worker" in " ".join(process.cmdline()) else [])
        return len(found) == count

    eventually(there)
    eventually(lambda: all(len(process.threads()) > 1 for process in found))
    time.sleep(0.5)
    return by_age(found)


def flows() -> bool:
    """Messages arrive at some receiver of the node."""
    ends, _ = census.census()
    return any(end.role == "receiver" and end.metrics.get("messages") for end in ends)


@pytest.fixture(autouse=True)
def place_for_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where redis-servers have their directories, which SIGKILL leaves. Short, because a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="cwasi-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


@pytest.fixture
def stream(guests: Path) -> Callable[[int, int], tuple[str, ...]]:
    """Source and sink with an edge between them."""

    def arguments(count: int, size: int) -> tuple[str, ...]:
        functions = [f"{name}={guests}/{name}.wasm {count} {size}" for name in ("source", "sink")]
        return (*functions, "--connect", "frames:source/out:sink/in")

    return arguments


ENDLESS = 1 << 31
CIRCLE = (f"a={WAIT}", f"b={WAIT}", "--connect", "there:a/out:b/in", "--connect", "back:b/out:a/in")


# ---- results ----


def pipeline(functions: Path, picture: Path, output: Path, *options: object) -> subprocess.CompletedProcess[str]:
    stages = [functions / f"{stage}.wasm" for stage in ("decode", "grey", "encode")]
    edges = ["--connect", "rgb:decode:grey", "--connect", "grey:grey:encode/edges"]
    return cwasi_run(*stages, *edges, "--input", picture, "--output", output, *options)


def test_every_mode_gives_the_same_bytes(functions: Path, picture: Path, tmp_path: Path) -> None:
    pictures = {}
    near = ("auto", "local", "proximal", "local --transport ring", "proximal --transport pipe")
    for options in (*near, "remote", "remote --transport redis"):
        output = tmp_path / f"{options}.jpg"
        done = pipeline(functions, picture, output, "--mode", *options.split())
        assert done.returncode == 0, done.stderr
        pictures[options] = output.read_bytes()
    assert len(set(pictures.values())) == 1
    assert pictures["auto"].startswith(b"\xff\xd8\xff"), "a JPEG"


@pytest.mark.parametrize(
    ("mode", "transport", "processes"),
    [("local", "ring", 1), ("proximal", "ring", 2), ("remote", "tcp", 2), ("remote", "redis", 2)],
)
def test_the_report(stream: Callable[[int, int], Edges], mode: str, transport: str, processes: int) -> None:
    asked = ("--transport", "redis") if transport == "redis" else ()
    done = cwasi_run(*stream(50, 3000), "--mode", mode, *asked, "--json", "--sample", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "sink: 50 messages ok\n", "what functions print does not get between"
    report = json.loads(done.stdout)
    assert report.keys() == {"schema", "edges", "seconds", "cpu_seconds", "processes"}
    assert (report["schema"], report["processes"]) == (1, processes)
    assert report["cpu_seconds"].keys() == {"source", "sink"} and report["seconds"] > 0
    (edge,) = report["edges"]
    assert edge.keys() == {"channel", "sender", "receiver", "decision", "metrics", "changes"}
    assert (edge["channel"], edge["sender"], edge["receiver"]) == ("frames", "source", "sink")
    assert edge["decision"].keys() == {"mode", "transport", "reason", "alternatives"}
    assert (edge["decision"]["mode"], edge["decision"]["transport"]) == (mode, transport)
    assert edge["decision"]["reason"]
    metrics = edge["metrics"]
    assert (metrics["sent"], metrics["received"], metrics["bytes"]) == (50, 50, 150_000)
    assert 0 < metrics["p50_ns"] <= metrics["p99_ns"]
    assert metrics["copied_bytes"] >= 300_000


def test_the_table(stream: Callable[[int, int], Edges]) -> None:
    done = cwasi_run(*stream(50, 3000), env={**os.environ, "COLUMNS": "160"})
    assert done.returncode == 0 and done.stdout == "sink: 50 messages ok\n"
    for word in ("frames", "source -> sink", "local", "ring", "in this process", "1 host process"):
        assert word in done.stderr


def test_a_function_alone(guests: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = cwasi_run(f"{guests}/writer.wasm 7", "--output", output)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert output.read_text() == "xxxxxxx"


def test_paths_with_blanks(guests: Path, tmp_path: Path) -> None:
    place = tmp_path / "my functions"
    place.mkdir()
    (place / "a writer.wasm").write_bytes((guests / "writer.wasm").read_bytes())
    done = cwasi_run(f"writer='{place}/a writer.wasm' 3")
    assert (done.returncode, done.stdout) == (0, "xxx")


def test_trust_puts_functions_apart(stream: Callable[[int, int], Edges]) -> None:
    done = cwasi_run(*stream(50, 3000), "--trust", "sink=others", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    decision = report["edges"][0]["decision"]
    assert (report["processes"], decision["mode"], decision["transport"]) == (2, "proximal", "pipe")
    assert "ring: the functions are in different trust domains and may not share memory" in decision["alternatives"]


def test_what_was_observed_is_used(stream: Callable[[int, int], Edges], tmp_path: Path) -> None:
    observed = tmp_path / "report.json"
    observed.write_text(cwasi_run(*stream(64, 2048), "--json").stdout)
    done = cwasi_run(*stream(5, 5), "--observed", observed, "--json")
    assert "64 messages of 2.0 KiB seen" in json.loads(done.stdout)["edges"][0]["decision"]["reason"]


def test_a_server_of_ones_own(stream: Callable[[int, int], Edges], redis_server: Any) -> None:
    import redis

    done = cwasi_run(*stream(50, 3000), "--transport", "redis", "--redis", redis_server.url, "--json")
    assert done.returncode == 0, done.stderr
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.keys() == [], "it is left as it was"


# ---- several ends, and calls ----

MERGED = ("60", "3000")


@pytest.fixture
def several(guests: Path) -> Callable[[int, int], list[str]]:
    """So many sources, called a, b, and so many that merge what they send, called x, y."""

    def arguments(senders: int, receivers: int) -> list[str]:
        sources = [f"{name}={guests}/source.wasm {' '.join(MERGED)}" for name in "abc"[:senders]]
        mergers = [f"{name}={guests}/merge.wasm {' '.join(MERGED)} {senders} in" for name in "xyz"[:receivers]]
        ends = "+".join(f"{name}/out" for name in "abc"[:senders]), "+".join(f"{name}/in" for name in "xyz"[:receivers])
        return [*sources, *mergers, "--connect", f"frames:{ends[0]}:{ends[1]}"]

    return arguments


@pytest.mark.parametrize(
    ("senders", "receivers", "mode"),
    [
        *((*ends, mode) for ends in ((3, 1), (1, 3), (2, 2)) for mode in ("auto", "proximal", "trust")),
        *((*ends, "remote") for ends in ((2, 1), (1, 3), (2, 2))),
    ],
)
def test_several_senders_and_receivers(
    several: Callable[[int, int], list[str]], senders: int, receivers: int, mode: str
) -> None:
    """trust: one receiver is in another trust domain; then the others have pipes as well."""
    how = ("--trust", "x=lab") if mode == "trust" else ("--mode", mode)
    done = cwasi_run(*several(senders, receivers), *how, "--json", "--sample", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"merge: {60 * senders} messages ok"] * receivers
    report = json.loads(done.stdout)
    assert report["processes"] == {"auto": 1, "trust": 2}.get(mode, senders + receivers)
    assert [(edge["channel"], edge["sender"], edge["receiver"]) for edge in report["edges"]] == [
        ("frames", sender, receiver) for sender in "abc"[:senders] for receiver in "xyz"[:receivers]
    ]
    for edge in report["edges"]:
        assert edge["decision"]["transport"] == {"remote": "tcp", "trust": "pipe"}.get(mode, "ring")
        metrics = edge["metrics"]
        assert (metrics["sent"], metrics["received"], metrics["bytes"]) == (60, 60, 180_000)
        assert metrics["lost_peers"] == 0 and metrics["p50_ns"] > 0


@pytest.mark.parametrize("mode", ["auto", "proximal", "remote"])
def test_calls(guests: Path, mode: str) -> None:
    askers = [f"{name}={guests}/ask.wasm 60 {name}" for name in "ab"]
    edge = ("--call", "asked:a/questions+b/questions:answer/questions")
    done = cwasi_run(*askers, guests / "answer.wasm", *edge, "--mode", mode, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "ask: 60 answers ok\n" * 2
    report = json.loads(done.stdout)
    found = {(edge["channel"], edge["sender"], edge["receiver"]): edge["metrics"] for edge in report["edges"]}
    assert found.keys() == {
        ("asked", "a", "answer"),
        ("asked", "b", "answer"),
        ("asked.answers.a", "answer", "a"),
        ("asked.answers.b", "answer", "b"),
    }
    assert all(metrics["sent"] == metrics["received"] == 60 for metrics in found.values())


def test_calls_across_trust_domains(guests: Path) -> None:
    asker = f"{guests}/ask.wasm 60 question"
    done = cwasi_run(asker, guests / "answer.wasm", "--call", "questions:ask:answer", "--trust", "ask=lab", "--json")
    assert done.returncode == 0, done.stderr
    assert {edge["decision"]["transport"] for edge in json.loads(done.stdout)["edges"]} == {"pipe"}


# ---- bad input: the code, and what the message must say ----

FILES = {
    "text.wasm": b"hello",
    "empty.wasm": b"",
    "cut.wasm": b"\0asm\x01\0\0\0\x01\x99",
    "wants.wat": b'(module (import "env" "printf" (func)) (memory (export "memory") 1) (func (export "_start")))',
    "library.wat": b'(module (memory (export "memory") 1))',
    "report.json": b'{"edges": [1]}',
}
PAIR = ("{source} 1 1", "{sink} 1 1")
EDGE = (*PAIR, "--connect", "c:source/out:sink/in")
FAN = ("{source} 1 1", "a={sink} 1 1", "b={sink} 1 1", "--connect", "c:source/out:a/in+b/in")
BAD = {
    "missing file": (("{tmp}/none.wasm",), 65, "none.wasm: No such file or directory"),
    "directory": (("d={tmp}",), 65, "Is a directory"),
    "text": (("{tmp}/text.wasm",), 65, "text.wasm: not a WebAssembly module"),
    "empty": (("{tmp}/empty.wasm",), 65, "empty.wasm: not a WebAssembly module"),
    "truncated": (("{tmp}/cut.wasm",), 65, "cut.wasm: not a WebAssembly module"),
    "missing import": (("{tmp}/wants.wat",), 65, "imports env.printf, which this host does not provide"),
    "no command": (("{tmp}/library.wat",), 65, "_start"),
    "no function": ((), 2, "Missing argument"),
    "empty function": ((" ",), 2, "this one is empty"),
    "open quote": (("'",), 2, "No closing quotation"),
    "bad name": (("a/b={writer}",), 2, "function name 'a/b' is refused"),
    "name with an escape": (("\x1b[31m={writer}",), 2, "function name '\\x1b[31m' is refused"),
    "same name": (("{writer}", "{writer}"), 2, "function 'writer' is named twice"),
    "edge without parts": ((*PAIR, "--connect", "c:source"), 2, "write CHANNEL:FROM:TO"),
    "edge with an empty part": ((*PAIR, "--connect", "c::sink"), 2, "write CHANNEL:FROM:TO"),
    "edge to nobody": ((*PAIR, "--connect", "c:source:nobody"), 2, "there is no function 'nobody'"),
    "edge to itself": ((*PAIR, "--connect", "c:sink:sink"), 2, "leads from sink to itself"),
    "bad channel": ((*PAIR, "--connect", "C:source:sink"), 2, "channel name 'C' is refused"),
    "bad channel apart": ((*PAIR, "--connect", "C:source:sink", "--mode", "proximal"), 2, "'C' is refused"),
    "bad port": ((*PAIR, "--connect", "c:source/OUT:sink"), 2, "channel name 'OUT' is refused"),
    "channel twice": ((*EDGE, "--connect", "c:source:sink"), 2, "channel 'c' is connected twice"),
    "port twice": ((*EDGE, "--connect", "d:source/out:sink/in"), 2, "another port"),
    "no channels": (("{writer}", "{sink}", "--connect", "c:writer:sink"), 2, "imports nothing from cwasi_v1"),
    "bad mode": ((*PAIR, "--mode", "near"), 2, "'near' is not one of"),
    "bad transport": ((*PAIR, "--transport", "udp"), 2, "'udp' is not one of"),
    "bad sample": ((*PAIR, "--sample", "3"), 2, "--sample 3: use a power of two"),
    "no sample": ((*PAIR, "--sample", "0"), 2, "use a power of two"),
    "huge sample": ((*EDGE, "--sample", str(1 << 40)), 2, "use a power of two"),
    "no time": ((*PAIR, "--timeout", "0"), 2, "--timeout"),
    "bad trust": ((*PAIR, "--trust", "sink"), 2, "write FUNCTION=LABEL"),
    "trust of nobody": ((*PAIR, "--trust", "nobody=x"), 2, "names a function that is not run: nobody"),
    "bad label": ((*EDGE, "--trust", "sink=A B"), 2, "trust domain name 'A B' is refused"),
    "input of several": ((*PAIR, "--input", "{source}"), 2, "the input belongs to the one function"),
    "missing input": (("{writer} 1", "--input", "{tmp}/none"), 65, "none: cannot be the stdin of function writer"),
    "missing directory": (("{writer} 1", "--output", "{tmp}/no/out"), 65, "cannot be the stdout of function writer"),
    "disk full": (("{writer} 1", "--output", "/dev/full"), 1, "No space left on device"),
    "several, ring and trust": ((*FAN, "--transport", "ring", "--trust", "b=x"), 69, "different trust domains"),
    "end twice": ((*FAN[:3], "--connect", "c:source/out:a/in+a/in"), 2, "connected twice between the same functions"),
    "no name between": ((*FAN[:3], "--connect", "c:source/out:a/in++b/in"), 2, "there is no function ''"),
    "two that answer": ((*FAN[:3], "--call", "c:source/out:a/in+b/in"), 2, "calls have one function that answers them"),
    "call to nobody": ((*PAIR, "--call", "c:source:nobody"), 2, "there is no function 'nobody'"),
    "call without parts": ((*PAIR, "--call", "c:source"), 2, "--call 'c:source': write CHANNEL:FROM:TO"),
    "calls and messages": ((*EDGE, "--call", "c:source/out:sink/in"), 2, "channel 'c' is connected twice"),
    "missing report": ((*PAIR, "--observed", "{tmp}/none"), 2, "none: No such file"),
    "bad report": ((*PAIR, "--observed", "{tmp}/report.json"), 2, "not a report that cwasi run --json wrote"),
    "impossible": ((*EDGE, "--mode", "local", "--transport", "pipe"), 69, "local was asked for"),
    "trust and local": ((*EDGE, "--mode", "local", "--trust", "sink=x"), 69, "different trust domains"),
    "refusing server": ((*EDGE, "--mode", "remote", "--redis", "redis://127.0.0.1:1"), 69, "does not answer"),
    "no socket": ((*EDGE, "--mode", "remote", "--redis", "unix:///none"), 69, "apt install redis-server"),
    "bad URL": ((*EDGE, "--mode", "remote", "--redis", "gopher://x"), 69, "redis://"),
    "trap": (("{guests}/trap.wasm",), 134, "function trap trapped: wasm `unreachable` instruction executed"),
    "status": (("{sink}",), 1, "function sink ended with status 1"),
    "loop": (("{guests}/spin.wasm", "--timeout", "0.3"), 124, "after 0.3 s still running: spin"),
    "wait": ((*CIRCLE, "--timeout", "0.3"), 124, "still running: a, b"),
    "loop apart": (
        ("s={guests}/spin.wasm", "t={guests}/spin.wasm", "--mode", "proximal", "--timeout", "0.3"),
        124,
        "still running: ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, guests: Path, tmp_path: Path) -> None:
    words, code, message = BAD[case]
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    paths = {name: guests / f"{name}.wasm" for name in ("source", "sink", "writer")}
    done = cwasi_run(*(word.format(tmp=tmp_path, guests=guests, **paths) for word in words))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr, "nothing that was given acts on the terminal"


@pytest.mark.parametrize("case", ["missing file", "trap", "impossible", "same name"])
def test_errors_for_scripts(case: str, guests: Path, tmp_path: Path) -> None:
    words, code, message = BAD[case]
    paths = {name: guests / f"{name}.wasm" for name in ("source", "sink", "writer")}
    done = cwasi_run(*(word.format(tmp=tmp_path, guests=guests, **paths) for word in words), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == code and report.keys() == {"schema", "error", "message"}
    assert message in report["message"] and f"cwasi: {report['message']}\n" in done.stderr


@pytest.mark.parametrize("status", [1, 3, 42, 125])
def test_the_exit_status_is_passed_on(status: int, tmp_path: Path) -> None:
    path = tmp_path / "quits.wat"
    path.write_text(
        '(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)'
        f' (func (export "_start") (call $exit (i32.const {status}))))'
    )
    assert cwasi_run(path).returncode == status
    assert cwasi_run(path, f"second={path}", "--mode", "proximal").returncode == status


def test_a_file_without_permission(guests: Path, tmp_path: Path) -> None:
    path = tmp_path / "secret.wasm"
    path.write_bytes((guests / "sink.wasm").read_bytes())
    path.chmod(0)
    # Root may read everything, until it gives up its rights.
    before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    argv = [*before, *CWASI, "run", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 65 and "secret.wasm: Permission denied" in done.stderr


def test_no_redis_server_is_installed(stream: Callable[[int, int], Edges], tmp_path: Path) -> None:
    done = cwasi_run(*stream(1, 1), "--transport", "redis", env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 69
    assert "redis-server is not installed. Remedy: apt install redis-server" in done.stderr


def test_nobody_reads_the_report(guests: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [*CWASI, "run", f"{guests}/writer.wasm 1", "--json"]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, timeout=HANG)
    os.close(write)
    assert done.returncode != 0 and "Traceback" not in done.stderr


def test_the_disk_is_full_for_the_report(guests: Path) -> None:
    argv = [*CWASI, "run", f"{guests}/writer.wasm 1", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, timeout=HANG)
    assert done.returncode == 74 and "Traceback" not in done.stderr


# ---- death in the middle ----


@pytest.mark.parametrize("mode", ["local", "proximal", "remote"])
@pytest.mark.parametrize("what", ["waiting", "working", "looping"])
def test_ctrl_c(stream: Callable[[int, int], Edges], guests: Path, mode: str, what: str) -> None:
    loops = (f"{guests}/spin.wasm", f"b={guests}/spin.wasm")
    calls = {"waiting": CIRCLE, "working": stream(ENDLESS, 1000), "looping": loops}
    with started(*calls[what], "--mode", mode) as command:
        if mode == "local":
            process = psutil.Process(command.pid)
            eventually(lambda: len(process.threads()) >= 3)
            time.sleep(0.5)
        else:
            workers(command, 2)
        os.killpg(command.pid, signal.SIGINT)   # as a terminal does
        _, stderr = command.communicate(timeout=HANG)
        assert command.returncode == 130
        assert stderr.splitlines()[-1] == "cwasi: interrupted" and "Traceback" not in stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_cleans_up(number: signal.Signals, place_for_servers: Path) -> None:
    with started(*CIRCLE, "--mode", "remote", "--transport", "redis") as command:
        workers(command, 2)
        assert len(list(place_for_servers.iterdir())) == 1
        command.send_signal(number)
        assert command.wait(HANG) == 128 + number
    assert list(place_for_servers.iterdir()) == []


@pytest.mark.parametrize("mode", ["proximal", "remote"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_process_that_is_killed(stream: Callable[[int, int], Edges], mode: str, victim: int) -> None:
    with started(*stream(ENDLESS, 1000), "--mode", mode) as command:
        processes = workers(command, 2)
        processes[victim].kill()
        _, stderr = command.communicate(timeout=HANG)
        name = ("source", "sink")[victim]
        assert command.returncode == 137
        assert stderr.splitlines()[-1] == (
            f"cwasi: the host process of {name} (pid {processes[victim].pid}) was killed by SIGKILL"
        )
        assert "Traceback" not in stderr


@pytest.mark.parametrize("transport", ["ring", "pipe", "tcp"])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_of_several_host_processes_is_killed(guests: Path, victim: int, transport: str) -> None:
    """Of a sender's two receivers: the other one goes on to the end. Of the only sender: both are told."""
    functions = [f"source={guests}/source.wasm 300000 10000", *(f"{n}={guests}/sink.wasm 300000 10000" for n in "ab")]
    how = ("--mode", "remote" if transport == "tcp" else "proximal", "--transport", transport)
    with started(*functions, "--connect", "frames:source/out:a/in+b/in", *how) as command:
        processes = workers(command, 3)
        os.kill(processes[victim].pid, signal.SIGKILL)
        stdout, stderr = command.communicate(timeout=HANG)
        assert command.returncode == 137 and "Traceback" not in stderr
        assert f"the host process of {('source', 'a', 'b')[victim]} (pid {processes[victim].pid}) was killed" in stderr
        assert stdout == ("" if victim == 0 else "sink: 300000 messages ok\n")


@pytest.mark.parametrize("mode", ["proximal", "remote", "remote --transport redis"])
@pytest.mark.parametrize("what", ["waiting", "working", "looping"])
def test_nobody_outlives_the_command(stream: Callable[[int, int], Edges], guests: Path, mode: str, what: str) -> None:
    """SIGKILL of the command itself: its host processes go, and its redis-server."""
    loops = (f"{guests}/spin.wasm", f"b={guests}/spin.wasm")
    calls = {"waiting": CIRCLE, "working": stream(ENDLESS, 1000), "looping": loops}
    with started(*calls[what], "--mode", *mode.split()) as command:
        workers(command, 2)
        names = {process.name() for process in in_session(command.pid)}
        assert ("redis-server" in names) == ("redis" in mode)
        command.kill()
        assert command.wait(HANG) == -signal.SIGKILL


def test_a_redis_server_that_is_killed(stream: Callable[[int, int], Edges]) -> None:
    with started(*stream(ENDLESS, 1000), "--mode", "remote", "--transport", "redis") as command:
        workers(command, 2)
        (server,) = [process for process in in_session(command.pid) if process.name() == "redis-server"]
        eventually(flows)
        server.kill()
        _, stderr = command.communicate(timeout=HANG)
        assert command.returncode == 1
        assert "channel cwasi:{frames:" in stderr and "ended with status 1" in stderr
        assert "Traceback" not in stderr
