"""cwasi demo, small: the same picture four ways, a report, and clear words where something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from channels import eventually, shared_memory
from test_cli_policy import Page

CWASI = [sys.executable, "-P", "-m", "cwasi_fastpath.cli", "demo"]
HANG = 120.0
SCENARIOS = ["redis", "byhand", "proximal", "policy"]
# Root without a root's rights; others have none of them.
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


def demo(*arguments: object, before: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    argv = [*before, *CWASI, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=HANG, stdin=subprocess.DEVNULL, **options)


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """What holds for every report."""
    assert document["schema"] == 1 and document["identical"] is True
    assert [summary["scenario"]["key"] for summary in document["scenarios"]] == SCENARIOS
    assert len({run["sha256"] for run in document["runs"]}) == 1
    assert {(run["scenario"], run["phase"]) for run in document["runs"]} == {
        (scenario, phase) for scenario in SCENARIOS for phase in ("paced", "full speed")
    }
    for run in document["runs"]:
        edges = run["report"]["edges"]
        assert [(edge["sender"], edge["receiver"]) for edge in edges] == [
            ("decode", "grey"), ("grey", "blur"), ("blur", "edges"), ("edges", "encode"),
        ]  # fmt: skip
        messages = run["frames"] * 6   # bands of 16 rows in 96 rows
        assert {edge["metrics"]["received"] for edge in edges} == {messages}
        if document["traced"] and run["scenario"] in ("redis", "byhand"):
            assert run["syscalls"] >= 8 * messages, "of both ends of four edges: a call for each message at least"
    modes = {run["scenario"]: run["report"]["edges"][0]["decision"]["mode"] for run in document["runs"]}
    assert modes == {"redis": "remote", "byhand": "proximal", "proximal": "proximal", "policy": "local"}
    for summary in document["scenarios"]:
        assert 0 < summary["p50_ns"] <= summary["p99_ns"] and summary["seconds"] > 0
        assert summary["mib_per_second"] > 0 and summary["cpu_seconds"] > 0
    for edge in document["chosen"]:
        assert edge["decision"]["reason"] and edge["decision"]["transport"] == "ring"
    runs = document["second_act"]["runs"]
    assert [run["policy"] for run in runs] == ["cost", "static"]
    for run in runs:
        assert [phase["phase"] for phase in run["phases"]] == ["stream", "requests", "busy"]
        for phase in run["phases"]:
            assert phase["messages"] > 0 and phase["mean_ns"] > 0 and phase["explanation"]["alternatives"]
    assert {phase["way"] for phase in runs[1]["phases"]} == {"ring"} and not runs[1]["switches"]
    return document


def test_the_same_picture_four_ways(functions: Path, picture: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "new/edges.jpg", tmp_path / "other/report.json"
    shared = shared_memory()
    options = ("--functions", functions, "--input", picture, "--output", output, "--report", report)
    done = demo(*options, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    document = checked(json.loads(done.stdout))
    assert json.loads(report.read_text()) == document
    assert output.read_bytes().startswith(b"\xff\xd8\xff"), "a JPEG"
    assert Page(report.with_suffix(".html").read_text()).plots == 2
    assert document["traced"] == (document["untraced_because"] is None)
    eventually(lambda: not shared_memory() - shared)   # what others have just begun to use goes with them


def test_without_the_right_to_trace(functions: Path, picture: Path, tmp_path: Path) -> None:
    """It works all the same, and says why it counts no system calls."""
    options = ("--functions", functions, "--input", picture, "--output", tmp_path / "edges.jpg", "--quick")
    done = demo(*options, "--json", before=UNPRIVILEGED)
    assert done.returncode == 0, done.stderr
    document = checked(json.loads(done.stdout))
    assert document["traced"] is False and "root" in document["untraced_because"]
    assert {run["syscalls"] for run in document["runs"]} == {None}

    text = demo(*options, before=UNPRIVILEGED, env={**os.environ, "COLUMNS": "160"})
    assert text.returncode == 0, text.stderr
    assert "no system calls were counted: " in text.stdout
    for words in ("through Redis", "by hand", "proximal", "as the policy chooses", "the same picture to the byte"):
        assert words in text.stdout
    assert "% less latency than Redis" in text.stdout and "CWASI's authors report" in text.stdout
    for words in ("Act two: ", "by the rule static, which is on ring: predicted ", "What explain() said",
                  "messages came, once, in order"):  # fmt: skip
        assert words in text.stdout


# ---- what is wrong is said ----


def test_a_picture_that_is_not_there(functions: Path, tmp_path: Path) -> None:
    done = demo("--functions", functions, "--input", tmp_path / "none.jpg", "--output", tmp_path / "o.jpg")
    assert done.returncode == 2
    assert "none.jpg: No such file or directory. Give the path of a picture" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"certainly no picture", "decode: stdin is not a picture that stb_image can read"),
        (b"", "decode: stdin is not a picture that stb_image can read"),
        (b"P6\n160 96\n255\n" + bytes(100), "the file is cut short or empty"),
    ],
)
def test_a_file_that_is_no_picture(functions: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    done = demo("--functions", functions, "--input", path, "--output", tmp_path / "o.jpg", "--quick", "--json")
    assert done.returncode == 1
    assert reason in done.stderr and "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["error"] == "GuestExit" and reason in report["message"]


def test_a_directory_is_no_picture(functions: Path, tmp_path: Path) -> None:
    done = demo("--functions", functions, "--input", tmp_path, "--output", tmp_path / "o.jpg", "--quick")
    assert done.returncode == 2 and "Is a directory" in done.stderr


def test_functions_that_were_not_built(picture: Path, tmp_path: Path) -> None:
    done = demo("--functions", tmp_path / "nowhere", "--input", picture, "--output", tmp_path / "o.jpg")
    assert done.returncode == 65
    assert "nowhere/decode.wasm is missing: build the functions with make build" in done.stderr


def test_no_redis_server(functions: Path, picture: Path, tmp_path: Path) -> None:
    options = ("--functions", functions, "--input", picture, "--output", tmp_path / "o.jpg", "--quick")
    done = demo(*options, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 69
    assert "redis-server is not installed. Remedy: apt install redis-server" in done.stderr


def test_an_output_that_cannot_be_written(functions: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = demo("--functions", functions, "--input", picture, "--output", tmp_path / "file/o.jpg", "--quick")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "file" in done.stderr
