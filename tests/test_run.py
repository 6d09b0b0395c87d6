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

REPOSITORY = Path(__file__).parent.parent
WAIT = REPOSITORY / "tests/guests/wait.wat"
CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli"]
HANG = 60.0

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


def eventually(check: Callable[[], bool]) -> None:
    until = time.monotonic() + HANG
    while not check():
        assert time.monotonic() < until, "never happened"
        time.sleep(0.02)


def cpu_used(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def workers(command: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """The host processes of a command, once there are so many and they have run for a while."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [p for p in in_session(command.pid) if "cwasi_fastpath.worker" in " ".join(p.cmdline())]
        return len(found) == count

    eventually(there)
    eventually(lambda: all(len(process.threads()) > 1 for process in found))
    time.sleep(0.5)
    return sorted(found, key=lambda process: process.pid)


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
    for options in ("auto", "local", "proximal", "remote", "local --transport ring", "proximal --transport pipe"):
        output = tmp_path / f"{options}.jpg"
        done = pipeline(functions, picture, output, "--mode", *options.split())
        assert done.returncode == 0, done.stderr
        pictures[options] = output.read_bytes()
    assert len(set(pictures.values())) == 1
    assert pictures["auto"].startswith(b"\xff\xd8\xff"), "a JPEG"


@pytest.mark.parametrize(
    ("mode", "transport", "processes"), [("local", "ring", 1), ("proximal", "ring", 2), ("remote", "redis", 2)]
)
def test_the_report(stream: Callable[[int, int], Edges], mode: str, transport: str, processes: int) -> None:
    done = cwasi_run(*stream(50, 3000), "--mode", mode, "--json", "--sample", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "sink: 50 messages ok\n", "what functions print does not get between"
    report = json.loads(done.stdout)
    assert report.keys() == {"schema", "edges", "seconds", "cpu_seconds", "processes"}
    assert (report["schema"], report["processes"]) == (1, processes)
    assert report["cpu_seconds"].keys() == {"source", "sink"} and report["seconds"] > 0
    (edge,) = report["edges"]
    assert edge.keys() == {"channel", "sender", "receiver", "decision", "metrics"}
    assert (edge["channel"], edge["sender"], edge["receiver"]) == ("frames", "source", "sink")
    assert edge["decision"].keys() == {"mode", "transport", "reason", "alternatives"}
    assert (edge["decision"]["mode"], edge["decision"]["transport"]) == (mode, transport)
    assert edge["decision"]["reason"]
    metrics = edge["metrics"]
    assert (metrics["sent"], metrics["received"], metrics["bytes"]) == (50, 50, 150_000)
    assert 0 < metrics["p50_ns"] <= metrics["p99_ns"]
    assert metrics["copied_bytes"] >= 300_000


def test_the_table(stream: Callable[[int, int], Edges]) -> None:
    done = cwasi_run(*stream(50, 3000))
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

    done = cwasi_run(*stream(50, 3000), "--mode", "remote", "--redis", redis_server.url, "--json")
    assert done.returncode == 0, done.stderr
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.keys() == [], "it is left as it was"


# ---- bad input: the code, and what the message must say ----


def bad_calls(guests: Path, tmp_path: Path) -> dict[str, tuple[list[object], int, str]]:
    source, sink, writer = (guests / f"{name}.wasm" for name in ("source", "sink", "writer"))
    files: dict[str, bytes] = {
        "text.wasm": b"hello",
        "empty.wasm": b"",
        "cut.wasm": sink.read_bytes()[:500],
        "wants.wat": b'(module (import "env" "printf" (func)) (memory (export "memory") 1) (func (export "_start")))',
        "library.wat": b'(module (memory (export "memory") 1))',
        "report.json": b'{"edges": [1]}',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pair = [f"{source} 1 1", f"{sink} 1 1"]
    edge = ["--connect", "c:source/out:sink/in"]
    return {
        "missing file": ([tmp_path / "none.wasm"], 65, "none.wasm: No such file or directory"),
        "directory": ([f"d={tmp_path}"], 65, "Is a directory"),
        "text": ([tmp_path / "text.wasm"], 65, "text.wasm: not a WebAssembly module"),
        "empty": ([tmp_path / "empty.wasm"], 65, "empty.wasm: not a WebAssembly module"),
        "truncated": ([tmp_path / "cut.wasm"], 65, "cut.wasm: not a WebAssembly module"),
        "missing import": ([tmp_path / "wants.wat"], 65, "imports env.printf, which this host does not provide"),
        "no command": ([tmp_path / "library.wat"], 65, "_start"),
        "no function": ([], 2, "Missing argument"),
        "empty function": ([" "], 2, "this one is empty"),
        "open quote": (["'"], 2, "No closing quotation"),
        "bad name": ([f"a/b={writer}"], 2, "function name 'a/b' is refused"),
        "name with escape": ([f"\x1b[31m={writer}"], 2, "is refused"),
        "same name": ([writer, writer], 2, "function 'writer' is named twice"),
        "edge without parts": ([*pair, "--connect", "c:source"], 2, "write CHANNEL:FROM:TO"),
        "edge with empty part": ([*pair, "--connect", "c::sink"], 2, "write CHANNEL:FROM:TO"),
        "edge to nobody": ([*pair, "--connect", "c:source:nobody"], 2, "there is no function 'nobody'"),
        "edge to itself": ([*pair, "--connect", "c:sink:sink"], 2, "leads from sink to itself"),
        "bad channel": ([*pair, "--connect", "C:source:sink"], 2, "channel name 'C' is refused"),
        "bad channel apart": ([*pair, "--connect", "C:source:sink", "--mode", "proximal"], 2, "is refused"),
        "bad port": ([*pair, "--connect", "c:source/OUT:sink"], 2, "channel name 'OUT' is refused"),
        "channel twice": ([*pair, *edge, *edge], 2, "channel 'c' is named twice"),
        "port twice": ([*pair, *edge, "--connect", "d:source/out:sink/in"], 2, "another port"),
        "no channels": ([writer, pair[1], "--connect", "c:writer:sink"], 2, "imports nothing from cwasi_v1"),
        "bad mode": ([*pair, "--mode", "near"], 2, "'near' is not one of"),
        "bad transport": ([*pair, "--transport", "tcp"], 2, "'tcp' is not one of"),
        "bad sample": ([*pair, "--sample", "3"], 2, "--sample 3: use a power of two"),
        "no sample": ([*pair, "--sample", "0"], 2, "use a power of two"),
        "no time": ([*pair, "--timeout", "0"], 2, "--timeout"),
        "bad trust": ([*pair, "--trust", "sink"], 2, "write FUNCTION=LABEL"),
        "trust of nobody": ([*pair, "--trust", "nobody=x"], 2, "names a function that is not run: nobody"),
        "bad label": ([*pair, *edge, "--trust", "sink=A B"], 2, "trust domain name 'A B' is refused"),
        "input of several": ([*pair, "--input", source], 2, "the input belongs to the one function"),
        "missing input": ([f"{writer} 1", "--input", tmp_path / "none"], 65, "none: cannot be the stdin of function"),
        "missing directory": ([f"{writer} 1", "--output", tmp_path / "no/out"], 65, "cannot be the stdout of function"),
        "disk full": ([f"{writer} 1", "--output", "/dev/full"], 1, "No space left on device"),
        "missing report": ([*pair, "--observed", tmp_path / "none"], 2, "none: No such file"),
        "bad report": ([*pair, "--observed", tmp_path / "report.json"], 2, "not a report that cwasi run --json wrote"),
        "impossible": ([*pair, *edge, "--mode", "local", "--transport", "pipe"], 69, "local was asked for"),
        "trust and local": ([*pair, *edge, "--mode", "local", "--trust", "sink=x"], 69, "different trust domains"),
        "refusing server": ([*pair, *edge, "--mode", "remote", "--redis", "redis://127.0.0.1:1"], 69, "does not answer"),
        "no socket": ([*pair, *edge, "--mode", "remote", "--redis", "unix:///none"], 69, "apt install redis-server"),
        "bad URL": ([*pair, *edge, "--mode", "remote", "--redis", "gopher://x"], 69, "redis://"),
        "trap": ([guests / "trap.wasm"], 134, "function trap trapped: wasm `unreachable` instruction executed"),
        "status": ([sink], 1, "function sink ended with status 1"),
        "loop": ([guests / "spin.wasm", "--timeout", "0.3"], 124, "after 0.3 s still running: spin"),
        "wait": ([*CIRCLE, "--timeout", "0.3"], 124, "still running: a, b"),
        "loop apart": (
            [f"s1={guests}/spin.wasm", f"s2={guests}/spin.wasm", "--mode", "proximal", "--timeout", "0.3"],
            124,
            "still running: s",
        ),
    }


BAD_CALLS = tuple(bad_calls(REPOSITORY / "tests/guests", Path(tempfile.gettempdir()))) if False else None
