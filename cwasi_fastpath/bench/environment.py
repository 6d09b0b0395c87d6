"""The machine and the versions that figures hold for."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def environment() -> dict[str, str | int]:
    """Plain values for a report; `unknown` for what cannot be found out."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cwasi_fastpath": _version("cwasi_fastpath"),
        "wasmtime": _version("wasmtime"),
        "redis-server": _redis_server_version(),
        "redis-py": _version("redis"),
        "hiredis": _version("hiredis"),
        "iceoryx2": _version("iceoryx2"),
        "pyzmq": _version("pyzmq"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine() or "unknown")


def _redis_server_version() -> str:
    """The word after v= in: Redis server v=7.0.15 sha=..."""
    try:
        text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return next((word.removeprefix("v=") for word in text.split() if word.startswith("v=")), "unknown")
