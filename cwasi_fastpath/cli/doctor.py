"""cwasi doctor: what this machine can do, what it lacks, and what to do about it."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from ..tracer import Check, Tracer, TracerUnavailable, requirements

_WASMTIME = "50.0.1"
_PIPE_BYTES = 1 << 20
_SYSROOTS = ("/usr", "/opt/wasi-sdk/share/wasi-sysroot", "/usr/share/wasi-sysroot")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(as_json: bool) -> None:
    """Checks this machine; ends with 1 if channels or functions cannot work on it.

    What tracing, Redis and building guests need is looked at too, but its lack is a warning only.
    """
    checks = [check() for check in _CHECKS] + _tracing()
    if as_json:
        click.echo(json.dumps({"schema": 1, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        _print(checks)
    sys.exit(1 if any(check.status == "fail" for check in checks) else 0)


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, pad_edge=False)
    for title in ("CHECK", "", "FOUND"):
        table.add_column(title, overflow="fold")
    for check in checks:
        lines = [check.found]
        if check.status != "ok":
            lines += [f"without it: {check.without}", f"remedy: {check.remedy}"]
        table.add_row(Text(check.name), Text(check.status, styles[check.status]), Text("\n".join(lines)))
    Console().print(table)


# ---- what channels and functions need ----


def _memfd() -> Check:
    try:
        fd = os.memfd_create("cwasi-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        finally:
            os.close(fd)
    except OSError as error:
        return Check("memfd", "fail", f"no sealed memfd: {error}", "use Linux 3.17 or newer, outside gVisor", "rings")
    return Check("memfd", "ok", "can be sealed")


def _futex() -> Check:
    import ctypes

    number = {"x86_64": 202}.get(platform.machine(), 98)
    word = ctypes.c_uint32(0)
    wake_one = (1, 1)  # FUTEX_WAKE, one waiter
    woken = ctypes.CDLL(None, use_errno=True).syscall(number, ctypes.byref(word), *wake_one, None, None, 0)
    if woken != 0:
        return Check("futex", "fail", os.strerror(ctypes.get_errno()), "allow futex() in the seccomp profile", "rings")
    return Check("futex", "ok", "works between processes")


def _pipe() -> Check:
    limit = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    if limit < _PIPE_BYTES:
        remedy = f"sysctl fs.pipe-max-size={_PIPE_BYTES}"
        return Check("pipe size", "warn", f"{limit} bytes at most", remedy, "pipes at full speed")
    return Check("pipe size", "ok", f"{limit} bytes at most")


def _wasmtime() -> Check:
    remedy = f"{sys.executable} -m pip install wasmtime=={_WASMTIME}"
    try:
        found = importlib.metadata.version("wasmtime")
    except importlib.metadata.PackageNotFoundError:
        return Check("wasmtime", "fail", "not installed", remedy, "functions; channels between processes work")
    if found != _WASMTIME:
        return Check("wasmtime", "fail", f"{found}, whose C ABI differs from {_WASMTIME}", remedy, "functions")
    return Check("wasmtime", "ok", found)


# ---- what makes it faster, or is optional ----


def _cpus() -> Check:
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    found = f"{cpus} usable" + (f", quota of {quota:g}" if quota else "")
    if min(cpus, quota or cpus) < 2:
        return Check("CPUs", "warn", found, "give it two CPUs or more", "spinning: a wake costs a context switch")
    return Check("CPUs", "ok", found)


def _cgroup_quota(mine: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The tightest CPU quota on the way from our cgroup (v2) to the root, in CPUs; None without one."""
    lines = mine.read_text().splitlines()
    path = next((Path(line[3:]) for line in lines if line.startswith("0::")), Path("/"))
    quotas = []
    for group in (path, *path.parents):
        try:
            allowed, period = (root / str(group).lstrip("/") / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if allowed != "max":
            quotas.append(int(allowed) / int(period))
    return min(quotas, default=None)


def _redis_server() -> Check:
    path = shutil.which("redis-server")
    if path is None:
        return Check("redis-server", "warn", "not on the PATH", "apt install redis-server", "a Redis on this node")
    return Check("redis-server", "ok", path)


def _redis_client() -> Check:
    versions, missing = [], []
    for name in ("redis", "hiredis"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        remedy = f"{sys.executable} -m pip install {' '.join(missing)}"
        return Check("redis client", "warn", f"{' and '.join(missing)} not installed", remedy, "the redis transport")
    return Check("redis client", "ok", ", ".join(versions))


def _guest_toolchain() -> Check:
    missing = [what for what, there in _TOOLCHAIN.items() if not there()]
    if missing:
        remedy = "apt install clang lld wasi-libc libclang-rt-dev-wasm32"
        return Check("guest toolchain", "warn", f"no {', no '.join(missing)}", remedy, "building guests from C")
    return Check("guest toolchain", "ok", "clang for wasm32-wasi, wasm-ld, wasi-libc")


def _clang_targets_wasm() -> bool:
    clang = shutil.which("clang")
    if clang is None:
        return False
    targets = subprocess.run([clang, "--print-targets"], capture_output=True, text=True, check=False).stdout
    return "wasm32" in targets


def _wasi_libc() -> bool:
    roots = [os.environ["WASI_SYSROOT"]] if "WASI_SYSROOT" in os.environ else _SYSROOTS
    return any(Path(root, "lib", "wasm32-wasi", "libc.a").exists() for root in roots)


_TOOLCHAIN: dict[str, Callable[[], bool]] = {
    "clang with a wasm32 target": _clang_targets_wasm,
    "wasm-ld": lambda: shutil.which("wasm-ld") is not None,
    "wasi-libc": _wasi_libc,
}


def _btf() -> Check:
    there = Path("/sys/kernel/btf/vmlinux").exists()
    return Check("BTF", "ok", "there" if there else "none (no probe needs it)")


def _tracefs() -> Check:
    there = any(Path(root, "events").exists() for root in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"))
    return Check("tracefs", "ok", "mounted" if there else "not mounted (root needs no mount)")


_CHECKS = (
    *(_memfd, _futex, _pipe, _wasmtime, _cpus),
    *(_redis_server, _redis_client, _guest_toolchain, _btf, _tracefs),
)


# ---- what tracing needs ----


def _tracing() -> list[Check]:
    """The tracer's own requirements, as warnings; where all are met, the proof: a tracer is attached."""
    checks = requirements()
    if all(check.status == "ok" for check in checks):
        return [*checks, _raw_tracepoints()]
    return [_as_warning(check) for check in checks]


def _as_warning(check: Check) -> Check:
    status: Literal["ok", "warn"] = "ok" if check.status == "ok" else "warn"
    return Check(check.name, status, check.found, check.remedy, check.without)


def _raw_tracepoints() -> Check:
    try:
        with Tracer() as tracer:
            tracer.give_up_privileges()   # the last check
            found = tracer.snapshot()
    except TracerUnavailable as error:
        return Check("raw tracepoints", "warn", str(error), "see the message", "cwasi-trace and metrics by function")
    added = f"it adds {found.ns_per_call:.0f} ns a system call and keeps {', '.join(found.tracer_capabilities)}"
    return Check("raw tracepoints", "ok", f"a tracer attaches and counts right; {added}")
