"""The control socket serves the traced, refuses the rest, and survives nonsense."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing import HOST, attached, calls, traced, traced_host

from cwasi_fastpath.tracer import Tracer


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    with attached() as tracer:
        yield tracer


def test_names_and_ids(tracer: Tracer, tmp_path: Path) -> None:
    traced_host(
        tracer,
        f"""
first = ask({{"function": "same"}})["id"]
assert first >= 1 and ask({{"function": "same"}})["id"] == first
for bad in ({{"function": "../x"}}, {{"function": ""}}, {{"function": 7}}, {{"hello": 1}}, {{}}, [], 1):
    assert "error" in ask(bad), bad
control.send(b"[" * 4000)
assert "error" in json.loads(control.recv(4096))
open({str(tmp_path / "ok")!r}, "w").close()
""",
    )
    assert (tmp_path / "ok").exists()


def test_only_traced_processes_are_served(tracer: Tracer) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(60)
        client.connect("\0" + tracer.environment()["CWASI_TRACER"][1:])
        assert "traced command" in json.loads(client.recv(4096))["error"]


def test_a_host_may_be_in_another_pid_namespace(tracer: Tracer) -> None:
    """It names its threads as it knows them; the tracer is told which namespace that is."""
    body = HOST + 'enter(ask({"function": "contained"})["id"]); write(1009); enter(0); write(23)'
    report = traced(tracer, ["unshare", "--pid", "--fork", sys.executable, "-c", body])
    assert calls(report, "contained") == (1009, 1009)
    assert sum(row.count for row in report.rows if row.syscall == "write") == 1009 + 23


def test_the_tracer_may_be_in_a_pid_namespace_itself(tracer: Tracer) -> None:
    body = HOST + 'enter(ask({"function": "inside"})["id"]); write(1009); enter(0); write(23)'
    script = f"""
import sys
from cwasi_fastpath.tracer import Tracer
with Tracer() as tracer:
    assert tracer.spawn([sys.executable, "-c", {body!r}]).wait() == 0
    print({{str(row.owner): row.count for row in tracer.snapshot().rows if row.syscall == "write"}})
"""
    argv = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    counts = eval(done.stdout)
    assert counts.pop("inside") == 1009
    assert list(counts.values()) == [23]
