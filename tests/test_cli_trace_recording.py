"""A trace that is recorded, and the page that is made of it, looked at in a browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import browser
from test_cli_trace import TWO_FUNCTIONS

from cwasi_fastpath.cli.trace_history import history
from cwasi_fastpath.cli.trace_page import page
from cwasi_fastpath.cli.trace_recording import NoRecording, Recording, read
from cwasi_fastpath.tracer import requirements

TRACE = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
SECONDS = 240
# Goes on until it is told that its channel has been seen.
EDGE = """
import os, signal, sys, threading
import cwasi_fastpath as cwasi
signal.alarm(300)
def send():
    with cwasi.function("decode"), cwasi.open_sender("pixels") as tx:
        for _ in range(23):
            tx.send(bytes(1009))
        met.set()
        seen.wait()
def receive():
    with cwasi.function("encode"), cwasi.open_receiver("pixels") as rx:
        for _ in range(23):
            rx.recv()
        done.set()
        seen.wait()
met, done, seen = (threading.Event() for _ in range(3))
threads = [threading.Thread(target=body) for body in (send, receive)]
for thread in threads:
    thread.start()
met.wait()
done.wait()
while not os.path.exists(sys.argv[1]):
    threading.Event().wait(0.01)
seen.set()
for thread in threads:
    thread.join()
"""


@pytest.fixture
def needs_tracing() -> None:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRACE, *args], capture_output=True, text=True, timeout=SECONDS, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def counted(intervals: list[dict[str, Any]], function: str) -> int:
    rows = (row for interval in intervals for row in interval["rows"])
    return sum(row["count"] for row in rows if row["function"] == function and row["syscall"] == "write")


@pytest.fixture
def recorded(tmp_path: Path, needs_tracing: None) -> Path:
    """Of a command with two functions, in several intervals."""
    path = tmp_path / "it.jsonl"
    body = f"{TWO_FUNCTIONS}\nimport time\nfor _ in range(5):\n    time.sleep(0.1)\n"
    done = run("--record", str(path), "-i", "0.1", "--", sys.executable, "-c", body)
    assert done.returncode == 0, done.stderr
    return path


def test_a_recording_is_the_whole_trace(recorded: Path) -> None:
    head, *intervals, end = lines(recorded)
    assert (head["recording"], head["schema"], head["interval"]) == (1, 4, 0.1)
    assert head["command"][0] == sys.executable and head["machine"]["cpus"] == os.cpu_count()
    assert end == {"end": len(intervals), "status": 0} and len(intervals) > 1
    assert (counted(intervals, "resize"), counted(intervals, "detect")) == (23, 1009)
    found = history(read(recorded))
    calls = {owner.name: owner.calls["write"].count for owner in found.owners if owner.pid is None}
    assert calls == {"resize": 23, "detect": 1009}
    detect = next(owner for owner in found.owners if owner.name == "detect")
    assert sum(sum(column.histogram) for column in detect.columns) == detect.count


@pytest.mark.usefixtures("needs_tracing")
def test_it_has_the_functions_not_shown_and_the_report_is_printed_too(tmp_path: Path) -> None:
    path = tmp_path / "it.jsonl"
    done = run("--record", str(path), "--json", "-g", "resize", "--", sys.executable, "-c", TWO_FUNCTIONS)
    assert {row["function"] for row in json.loads(done.stdout)["rows"]} == {"resize"}
    assert counted(lines(path)[1:-1], "detect") == 1009


@pytest.mark.usefixtures("needs_tracing")
def test_the_channels_are_in_it(tmp_path: Path, runtime_directory: Path) -> None:
    path, seen = tmp_path / "it.jsonl", tmp_path / "seen"
    argv = [*TRACE, "--record", str(path), "-i", "0.1", "--", sys.executable, "-c", EDGE, str(seen)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not seen.exists():
            whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
            edges = [edge for line in whole for edge in json.loads(line).get("channels", [])]
            if any(edge["messages"] == 23 for edge in edges):
                seen.touch()
        _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, stderr
    found = history(read(path))
    (edge,) = found.edges
    assert (edge.channel, edge.sender, edge.receivers) == ("pixels", "decode", ("encode",))
    assert (edge.messages, edge.bytes, edge.transport) == (23, 23 * 1009, "ring")
    assert {(end.function, end.sends, end.messages) for end in found.ends} == {
        ("decode", True, 23),
        ("encode", False, 23),
    }
    assert (found.ns_per_message("pixels") or 0) > 0
    # As who was asked told it: these ends are nobody's but the process's.
    (heard,) = history(Recording(read(path).head, [without_tax(line) for line in lines(path)[1:-1]], 0)).edges
    assert heard.sender.startswith("pid ") and heard.receivers == (heard.sender,)
    assert heard.sender in {owner.end for owner in found.owners}
    assert (heard.messages, heard.bytes, heard.transport) == (23, 23 * 1009, "ring")


def without_tax(interval: dict[str, Any]) -> dict[str, Any]:
    return {**interval, "tax": {"functions": [], "channels": []}}


# ---- what goes wrong ----


@pytest.mark.usefixtures("needs_tracing")
def test_a_full_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root, to mount a small file system for itself")
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=24k cwasi-test {disk} && "
        f"{sys.executable} -m cwasi_fastpath.cli.trace --json --record {disk}/it -i 0.05 -- "
        f"{sys.executable} -c '{FILLING}'; status=$?; cp {disk}/it {copy}; exit $status"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 74, done.stderr
    assert "No space left on device: the recording ends after" in done.stderr
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    kept = read(copy)
    assert kept.lack and 0 < len(kept.intervals) < len(shown), "the trace went on"
    assert kept.intervals == shown[: len(kept.intervals)], "nothing is lost"


FILLING = "import time, os\nfor _ in range(60):\n    os.getppid()\n    time.sleep(0.05)"


@pytest.mark.usefixtures("needs_tracing")
def test_a_file_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    done = run("--record", str(tmp_path / "no" / "it"), "touch", str(tmp_path / "ran"))
    assert (done.returncode, done.stdout) == (74, "") and "No such file or directory" in done.stderr
    assert not (tmp_path / "ran").exists()


def made(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "it").write_text(text)
    return run("report", str(tmp_path / "it"), "-o", str(tmp_path / "it.html"))


def test_a_recording_that_is_cut_off(tmp_path: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line in (HEAD, interval(1), interval(2)))
    for cut in (text, text + '{"schema": 4, "inter', text + '{"end": 2, "status"'):
        done = made(tmp_path, cut)
        assert done.returncode == 0 and "cut off after 2 intervals" in done.stderr
        assert "cut off after 2 intervals" in (tmp_path / "it.html").read_text()


HEAD = {"recording": 1, "schema": 4, "started": "then", "interval": 1.0, "command": ["a"], "machine": {"cpus": 2}}


def interval(number: int, **other: Any) -> dict[str, Any]:
    row = {"function": "<f>", "process": None}
    lost = dict.fromkeys(("lost", "lost_times", "lost_switches", "lost_traffic", "lost_threads"), 0)
    histogram = [0] * 10 + [23] + [0] * 21
    sums = {"count": 23, "ns": 1009, "bytes": 5, "failed": 1, "failed_ns": 3}
    return {
        **{"schema": 4, "interval": number, "time": "then", "seconds": 1.0, "calls": 23, "light": False, **lost},
        "overhead": {"ns_per_call": 1.0, "ns_per_switch": None, "seconds": 0.1, "share": 0.1},
        "tracer": {"cpu_seconds": 0.1, "memory_bytes": 5},
        "rows": [{**row, "syscall": "<b>", **sums}],
        "classes": [{**row, "class": "io", "histogram": histogram, **sums}],
        "scheduling": [{**row, "voluntary": 2, "involuntary": 3, "off_cpu_ns": 7}],
        "network": [{**row, "sent_bytes": 1, "received_bytes": 2, "retransmits": 3}],
        "missing": [{"name": "<x>", "reason": "<y>", "remedy": "z"}],
        "tax": {"functions": [], "channels": []},
        "channels": [edge("a<", "a<b", "<c>"), edge("back", "<c>", "a<b"), edge("self", "<f>", "<f>")],
        **other,
    }


def end(function: str, direction: str, peer: str) -> dict[str, Any]:
    return {
        **{"function": function, "channel": "pixels", "peers": [peer], "direction": direction, "transport": "ring"},
        **{"mode": "local", "messages": 23, "bytes": 1009, "calls_ns": 4600, "waited_ns": 2300, "copying_ns": 5},
        "parks": 2,
    }


def edge(channel: str, sender: str, receiver: str) -> dict[str, Any]:
    return {
        **{"channel": channel, "sender": sender, "receivers": [receiver], "transport": "ring", "mode": "<local>"},
        **{"messages": 23, "bytes": 1009},
    }


@pytest.mark.parametrize("text", ["", "\n", "no", "[]\n", "{}\n", '{"schema": 4}\n', "\udcff\n"])
def test_what_is_no_recording(tmp_path: Path, text: str) -> None:
    (tmp_path / "it").write_bytes(text.encode(errors="surrogateescape"))
    done = run("report", str(tmp_path / "it"), "-o", str(tmp_path / "it.html"))
    assert done.returncode == 65 and "is no recording" in done.stderr
    assert not (tmp_path / "it.html").exists()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"rows": None}, "interval 2 is damaged"),
        ({"rows": [{}]}, "interval 2 is damaged"),
        ({"seconds": "x"}, "interval 2 is damaged"),
        ({"seconds": float("nan")}, "interval 2 is damaged"),
        ({"seconds": 1e300}, "interval 2 is damaged"),
        ({"lost": -1}, "interval 2 is damaged"),
        ({"channels": [{"channel": 5}]}, "interval 2 is damaged"),
        ({"tax": {"channels": [{"function": "f"}]}}, "interval 2 is damaged"),
        ({"classes": [{"function": "f", "process": None, "histogram": [0] * 40}]}, "interval 2 is damaged"),
    ],
)
def test_a_damaged_interval(other: dict[str, Any], said: str) -> None:
    whole = Recording(HEAD, [interval(1), interval(2, **other)], 0)
    with pytest.raises(NoRecording, match=said):
        history(whole)


def test_a_damaged_line_and_another_version(tmp_path: Path) -> None:
    first, second = json.dumps(HEAD), json.dumps(interval(1))
    done = made(tmp_path, f"{first}\n{second[:50]}\n{second}\n")
    assert done.returncode == 65 and "line 2 is damaged" in done.stderr
    done = made(tmp_path, json.dumps({**HEAD, "recording": 2}) + "\n")
    assert done.returncode == 65 and "another version" in done.stderr
    done = run("report", str(tmp_path / "none"), "-o", str(tmp_path / "it.html"))
    assert done.returncode == 65 and "No such file" in done.stderr
    done = made(tmp_path, first + "\n")
    assert done.returncode == 0 and "cut off after 0 intervals" in done.stderr
    (tmp_path / "it").write_text(f"{first}\n{second}\n")
    done = run("report", str(tmp_path / "it"), "-o", str(tmp_path / "no" / "it.html"))
    assert done.returncode == 74 and "No such file" in done.stderr


def test_many_intervals_are_drawn_in_fewer_columns() -> None:
    found = history(Recording(HEAD, [interval(number) for number in range(1, 1010)], 0))
    assert len(found.seconds) <= 120 and sum(found.seconds) == 1009
    (owner,) = found.owners
    assert owner.count == 23 * 1009


# ---- in a browser ----


def test_nothing_of_a_recording_is_markup() -> None:
    recording = Recording({**HEAD, "command": ["<script>"], "started": "<i>"}, [interval(1)], None)
    text = page(recording, history(recording))
    for name in ("<f>", "<b>", "a<b", "<c>", "<x>", "<y>", "<local>", "<i>", "<script>"):
        assert name not in text
    assert "src=" not in text and "http" not in text.replace("http-equiv", "")


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Looked at, and clicked through: from the graph and from the table to each function's part."""
    calls = [{"function": name, "process": None} for name in ("decode", "encode", "<odd>")]
    sums = {"count": 23, "ns": 1009, "bytes": 5, "failed": 1, "failed_ns": 3}
    steps = [
        interval(
            number,
            rows=[{**call, "syscall": "write", **sums, "count": at + 1} for at, call in enumerate(calls)],
            classes=[{**call, "class": "io", "histogram": [number] * 32, **sums} for call in calls],
            scheduling=[],
            network=[],
            tax={"functions": [], "channels": [end("decode", "sends", "encode"), end("encode", "receives", "decode")]},
            channels=[],
        )
        for number in range(1, 24)
    ]
    recording = Recording(HEAD, steps, 0)
    out = tmp_path / "it.html"
    out.write_text(page(recording, history(recording)))
    names = [owner.name for owner in history(recording).owners]
    with browser(tmp_path / "profile") as window:
        window.open(out)
        assert window.evaluate("document.title") == "What communication cost"
        assert window.shown(".owner") == ["owner-0"], "the first is shown until another is wanted"
        for number, name in enumerate(names):
            window.click(f'table a[href="#owner-{number}"]')
            assert window.shown(".owner") == [f"owner-{number}"]
            assert window.evaluate(f"document.querySelector('#owner-{number} h2').textContent") == name
        window.click(f'svg.graph a[href="#owner-{names.index("encode")}"]')
        assert window.shown(".owner") == [f"owner-{names.index('encode')}"]
        window.click(f'svg.graph a[href="#owner-{names.index("decode")}"]')
        assert window.shown(".owner") == [f"owner-{names.index('decode')}"]
        assert window.evaluate("document.querySelectorAll('.owner:target .heat rect').length") == 32 * 23
        said = window.evaluate("document.querySelector('svg.graph .edge title').textContent")
        assert said == "pixels: decode to encode, local, ring, 22.66 KiB, 529 messages, 200 ns a message"
        assert window.evaluate("document.querySelectorAll('svg.time polyline').length") >= 3
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert window.evaluate(wide), "nothing sticks out"
        picture = base64.b64decode(window.call("Page.captureScreenshot")["data"])
        assert picture.startswith(b"\x89PNG")
        assert window.complaints == []


def test_the_page_of_a_real_trace_in_a_browser(recorded: Path, tmp_path: Path) -> None:
    done = run("report", str(recorded), "-o", str(tmp_path / "it.html"))
    assert (done.returncode, done.stderr) == (0, "")
    with browser(tmp_path / "profile") as window:
        window.open(tmp_path / "it.html")
        window.evaluate("[...document.querySelectorAll('table a')].find(a => a.textContent == 'detect').id = 'it'")
        window.click("#it")
        (shown,) = window.shown(".owner")
        rows = window.evaluate(f"document.querySelector('#{shown}').innerText")
        assert "1,009" in rows and window.evaluate(f"document.querySelectorAll('#{shown} .heat rect').length") > 0
        assert window.complaints == []
