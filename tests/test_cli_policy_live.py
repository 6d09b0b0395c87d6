"""cwasi policy live: scripts, what is printed, what is wrong, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from channels import HANG, eventually, is_gone
from test_cli_policy import Page

from cwasi_fastpath.live.script import DEFAULT

pytestmark = pytest.mark.usefixtures("swept_directory")

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli", "policy", "live"]
MOVES = "near seconds=0.3\napart seconds=0.4 size=4KiB receiver=process\nhome seconds=0.3\n"


def live(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CWASI, *map(str, words)], capture_output=True, text=True, timeout=2 * HANG, stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "moves.script"
    path.write_text(MOVES)
    return path


def test_the_receiver_moves_and_comes_back(script: Path, tmp_path: Path) -> None:
    """While messages come, of which none is lost: the guests check, and the command says so."""
    html = tmp_path / "live.html"
    done = live("--script", script, "--policy", "cost,static", "--json", "-o", html)
    assert (done.returncode, done.stderr) == (0, "")
    runs = json.loads(done.stdout)["runs"]
    assert [run["policy"] for run in runs] == ["cost", "static"]
    for run in runs:
        assert [phase["receiver"] for phase in run["phases"]] == ["here", "process", "here"]
        assert all(phase["messages"] > 0 and phase["mean_ns"] > 0 for phase in run["phases"])
        modes = [way["mode"] for way in run["ways"] if way["channel"] == "there"]
        assert modes[0] == "local" and "proximal" in modes and modes[-1] == "local"
        assert all(len(phase["latency"]) > 0 for phase in run["phases"])
    assert Page(html.read_text()).plots == 2


def test_in_words(script: Path) -> None:
    done = live("--script", script, "--policy", "always:pipe", "--seconds", "0.5", "--rounds", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "apart: 4 KiB as fast as they come back, the receiver in another process" in done.stdout
    assert done.stdout.count("always:pipe") == 2 * 3 + 2 and "once, in order and as they were sent" in done.stdout
    assert live("--show-script").stdout == DEFAULT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--script", "absent"], "--script absent: No such file or directory. Give the path of a script"),
        (["--script", "bad"], "bad:2: size=7: give 8 bytes to 64 MiB"),
        (["--script", "binary"], "--script binary: this is no text"),
        (["--policy", "cost,pigeon"], "policy 'pigeon' is unknown: use cost, static"),
        (["--policy", "always:ring/three cores"], "way 'ring/three cores' is unknown"),
        (["-o", "/dev/full/x.html"], "Not a directory"),
    ],
)
def test_what_is_wrong(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad").write_text("one\ntwo size=7\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    done = live(*words)
    assert done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def descendants(parent: psutil.Process, word: str) -> list[psutil.Process]:
    found = []
    for child in parent.children(recursive=True):
        with suppress(psutil.Error):   # it ends just now
            found += [child] if any(word in part for part in child.cmdline()) else []
    return found


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    path = tmp_path / "endless.script"
    path.write_text("apart seconds=3000 receiver=process busy=1\n")
    return path


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_it_started_ends_with_it(endless: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [*CWASI, "--script", endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        parent = psutil.Process(child.pid)
        other = eventually(lambda: descendants(parent, "live.elsewhere") and parent.children(recursive=True))
        busy = eventually(lambda: descendants(parent, "getppid"))
        if how is signal.SIGINT:
            os.killpg(child.pid, how)
        else:
            parent.send_signal(how)
        _, said = child.communicate(timeout=2 * HANG)
    assert child.returncode == (130 if how is signal.SIGINT else -how), said
    assert "Traceback" not in said
    eventually(lambda: all(is_gone(one.pid) for one in (*other, *busy)))


def test_the_other_process_is_killed(endless: Path) -> None:
    with subprocess.Popen(
        [*CWASI, "--script", endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        [other] = eventually(lambda: descendants(psutil.Process(child.pid), "live.elsewhere"))
        other.kill()
        _, said = child.communicate(timeout=2 * HANG)
    assert child.returncode not in (0, 130) and "the other process of a live run ended" in said, said
    assert "Traceback" not in said
