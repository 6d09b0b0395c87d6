"""bcc and headers are found, and what is wrong with them is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from cwasi_fastpath.probes import probe
from cwasi_fastpath.probes.compiled import Compiled
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


SOURCES = Path("/usr/src")


def test_with_the_headers_of_a_kernel_the_programs_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in them depends on a kernel's records: Debian's headers, of whatever kernel, change not a byte."""
    commons = sorted(SOURCES.glob("linux-headers-*-common"))
    whole = [common for common in commons if list(SOURCES.glob(f"{common.name.removesuffix('common')}{_debian()}"))]
    if not whole:
        pytest.skip("no headers here (apt install linux-headers-amd64, or that of your architecture)")
    for part in (whole[-1], SOURCES / f"{whole[-1].name.removesuffix('common')}{_debian()}"):
        subprocess.run(["cp", "-rsf", f"{part}/.", str(tmp_path)], check=True)
    programs: list[Compiled] = []

    def noted(sources: Sequence[str], defines: dict[str, int], bcc: ModuleType) -> Compiled:
        programs.append(compile_probe(sources, defines, bcc))
        return programs[-1]

    monkeypatch.setattr(probe, "compile_probe", noted)
    for tree in (HEADERS, tmp_path):
        monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tree))
        Tracer().close()
    assert programs[0] == programs[1]


def _debian() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}.get(os.uname().machine, os.uname().machine)
