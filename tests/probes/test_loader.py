"""bcc and headers are found, and what is wrong with them is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cwasi_fastpath.probes.loader import HEADERS, ProbeError, compile_probe, header_sources, import_bcc
from cwasi_fastpath.probes.requirements import requirements
from cwasi_fastpath.tracer import Tracer, TracerUnavailable


@pytest.fixture(autouse=True)
def needs_tracing(request: pytest.FixtureRequest) -> None:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking and "impostor" not in request.node.name:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")


def test_headers_that_do_not_work_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    with pytest.raises(TracerUnavailable, match=r"kconfig\.h") as caught:
        Tracer()
    assert str(tmp_path) in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_our_headers_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    assert header_sources()[-1] == HEADERS
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(HEADERS))
    assert header_sources() == [HEADERS]
    Tracer().close()
    assert os.environ["BCC_KERNEL_SOURCE"] == str(HEADERS)


def test_a_program_that_does_not_compile_says_why() -> None:
    with pytest.raises(ProbeError, match="SLOTS"):
        compile_probe(["threads.bpf.c"], {}, import_bcc())


def test_the_impostor_is_told_from_bcc(tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("__version__ = '0.1.10'\n")
    script = "from cwasi_fastpath.tracer import requirements; print(*requirements(), sep='\\n')"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    (line,) = [line for line in done.stdout.splitlines() if "name='bcc'" in line]
    assert "status='fail'" in line and str(tmp_path) in line and "pip uninstall bcc" in line, done.stderr
