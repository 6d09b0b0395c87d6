"""Completion in a shell, by the scripts that `make install` installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 120
BIN = Path(sys.executable).parent
VARIABLES = {"cwasi": "_CWASI_COMPLETE", "cwasi-trace": "_CWASI_TRACE_COMPLETE"}


def script(command: str, shell: str) -> str:
    return subprocess.run(
        [BIN / command],
        env={**os.environ, VARIABLES[command]: f"{shell}_source"},
        capture_output=True, text=True, timeout=SECONDS, check=True,
    ).stdout  # fmt: skip


def completed(command: str, words: str, directory: Path) -> set[str]:
    """What bash offers for the last word."""
    last = len(words.split(" ")) - 1
    body = f"""
        {script(command, "bash")}
        COMP_WORDS=({words}{" ''" if words.endswith(" ") else ""}) COMP_CWORD={last}
        _{command.replace("-", "_")}_completion {command}
        compopt() {{ :; }}
        printf "%s\\n" "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", f"compopt() {{ :; }}; {body}"],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        cwd=directory, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("command", "words", "wanted"),
    [
        ("cwasi-trace", "cwasi-trace --op", {"--openmetrics"}),
        ("cwasi-trace", "cwasi-trace --by ", {"function", "class", "syscall", "channel", "thread", "cgroup"}),
        ("cwasi-trace", "cwasi-trace --by s", {"syscall"}),
        ("cwasi", "cwasi do", {"doctor"}),
        ("cwasi", "cwasi run --mo", {"--mode"}),
        ("cwasi", "cwasi run --mode p", {"proximal"}),
    ],
)
def test_bash(command: str, words: str, wanted: set[str], tmp_path: Path) -> None:
    assert completed(command, words, tmp_path) == wanted


@pytest.mark.parametrize("command", VARIABLES)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_the_shells(command: str, shell: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script(command, shell))
    assert VARIABLES[command] in path.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", path], timeout=SECONDS, check=True)


def test_make_installs_them_and_takes_them_back() -> None:
    """As make says that it would: an install takes long."""
    root = Path(__file__).parent.parent
    said = {
        target: subprocess.run(
            ["make", "-n", "PREFIX=/there", target],
            cwd=root, capture_output=True, text=True, timeout=SECONDS, check=True,
        ).stdout
        for target in ("install", "uninstall")
    }  # fmt: skip
    for command, variable in VARIABLES.items():
        for place in ("bash-completion/completions/", "zsh/site-functions/_", "fish/vendor_completions.d/"):
            path = f"/there/share/{place}{command}"
            assert path in said["uninstall"]
            shell = place.partition("-")[0].partition("/")[0]
            assert f"{variable}={shell}_source /there/bin/{command} > {path}" in said["install"]
