"""cwasi doctor says what is there and what is not, and ends with 1 only where channels or functions cannot work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cwasi_fastpath.cli.doctor import _WASMTIME, _cgroup_quota

DOCTOR = [sys.executable, "-c", "from cwasi_fastpath.cli.doctor import doctor; doctor()"]
HERE = Path(__file__).parent


def examine(*args: str, before: tuple[str, ...] = (), **env: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = subprocess.run(
        [*before, *DOCTOR, "--json", *args], env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )
    report = json.loads(done.stdout)
    assert report["schema"] == 1
    return done.returncode, {check["name"]: check for check in report["checks"]}


def test_every_lack_has_a_remedy_and_a_consequence(tmp_path: Path) -> None:
    """On a machine that has next to nothing on its PATH."""
    status, checks = examine(PATH=str(tmp_path), WASI_SYSROOT=str(tmp_path))
    assert status == 0, "what is missing is optional"
    for name, word in (("redis-server", "apt install"), ("guest toolchain", "wasi-libc")):
        assert checks[name]["status"] == "warn" and word in checks[name]["remedy"]
    for check in checks.values():
        assert check["found"]
        assert bool(check["remedy"]) == bool(check["without"]) == (check["status"] != "ok"), check


def test_what_is_looked_at() -> None:
    status, checks = examine()
    assert status == 0
    assert checks.keys() >= {
        *("memfd", "futex", "pipe size", "wasmtime", "CPUs", "redis-server", "redis client", "guest toolchain"),
        *("BTF", "tracefs", "kernel", "bpf()", "user namespace", "capabilities", "bcc"),
    }


def test_without_privileges_tracing_is_a_warning() -> None:
    before = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    status, checks = examine(before=before)
    assert status == 0
    assert checks["capabilities"]["status"] == "warn"
    assert "CAP_BPF" in checks["capabilities"]["found"] and "root" in checks["capabilities"]["remedy"]
    assert "raw tracepoints" not in checks, "not tried where it cannot work"


def test_another_wasmtime_fails(tmp_path: Path) -> None:
    info = tmp_path / "wasmtime-49.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wasmtime\nVersion: 49.0.0\n")
    status, checks = examine(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert status == 1
    assert checks["wasmtime"]["status"] == "fail" and "49.0.0" in checks["wasmtime"]["found"]
    assert f"wasmtime=={_WASMTIME}" in checks["wasmtime"]["remedy"]


def test_the_pin_is_that_of_the_project() -> None:
    pins = re.findall(r'"wasmtime==([\d.]+)"', (HERE.parent / "pyproject.toml").read_text())
    assert pins == [_WASMTIME]


@pytest.mark.parametrize(
    ("inner", "outer", "quota"),
    [("max 100000", "max 100000", None), ("150000 100000", "max 100000", 1.5), ("max 100000", "50000 100000", 0.5)],
)
def test_the_tightest_quota_counts(tmp_path: Path, inner: str, outer: str, quota: float | None) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/cpu.max").write_text(outer)
    (tmp_path / "a/b/cpu.max").write_text(inner)
    (tmp_path / "mine").write_text("1:cpu:/elsewhere\n0::/a/b\n")
    assert _cgroup_quota(tmp_path / "mine", tmp_path) == quota


def test_table() -> None:
    done = subprocess.run(DOCTOR, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("CHECK")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert re.search(r"^wasmtime +ok +50\.", done.stdout, re.MULTILINE)
