"""tracefs is read where it is mounted, else on a mount of our own that leaves nothing; what is missing is said."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cwasi_fastpath.probes import tracefs
from cwasi_fastpath.probes.loader import ProbeError
from cwasi_fastpath.probes.requirements import requirements


@pytest.fixture(autouse=True)
def needs_tracing() -> None:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")


TWO_CAPABILITIES = ("setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all")


def missing(*before: str) -> list[dict[str, Any]]:
    argv = [*before, sys.executable, "-m", "cwasi_fastpath.cli.trace", "--json", "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["missing"]
    return found


def test_what_is_missing_without_tracefs_is_named_with_the_remedy() -> None:
    if any(Path(root, "events").exists() for root in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")):
        pytest.skip("tracefs is mounted here")
    (lack,) = missing(*TWO_CAPABILITIES)
    assert lack["name"] == "round-trip times and congestion windows"
    assert "tracefs is not mounted" in lack["reason"] and "Operation not permitted" in lack["reason"]
    assert "mount -t tracefs tracefs /sys/kernel/tracing" in lack["remedy"]


def test_the_remedy_works() -> None:
    mount = 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"'
    if subprocess.run(["unshare", "--mount", "sh", "-c", mount, "sh", "true"], capture_output=True).returncode:
        pytest.skip("tracefs cannot be mounted in a mount namespace here")
    assert missing("unshare", "--mount", "sh", "-c", mount, "sh", *TWO_CAPABILITIES) == []


def test_nothing_is_mounted_and_nothing_stays_open() -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    gc.collect()   # what other tests have left
    files = set(Path("/proc/self/fd").iterdir())
    assert tracefs.describe("tcp/tcp_probe").offsets["srtt"] > 0
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert set(Path("/proc/self/fd").iterdir()) == files
    with pytest.raises(ProbeError, match="tcp/no_such_event"):
        tracefs.describe("tcp/no_such_event")
    assert set(Path("/proc/self/fd").iterdir()) == files
