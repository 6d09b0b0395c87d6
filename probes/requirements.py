"""What the probes need of a machine, each with what was found and the remedy: for the tracer and for `cwasi doctor`."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .loader import BccMissing, import_bcc

CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39
SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280}
_RUN_AS_ROOT = "run as root (sudo), or with CAP_BPF and CAP_PERFMON"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at on this machine."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""  # what to do; empty if ok
    without: str = ""  # what does not work as it is; empty if ok


def requirements() -> list[Check]:
    """The checks that a tracer needs all to be ok, and nothing else. Imports bcc (65 MB); changes nothing."""
    return [_kernel(), _bpf_syscall(), _user_namespace(), _capabilities(), _bcc()]


def _check(name: str, lack: str | None, found: str, remedy: str) -> Check:
    if lack is None:
        return Check(name, "ok", found)
    return Check(name, "fail", lack, remedy, "cwasi-trace and metrics by function")


def _kernel() -> Check:
    release = platform.release()
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    lack = None if version >= (5, 8) else f"Linux {release} is too old"
    return _check("kernel", lack, f"Linux {release}", "use Linux 5.8 or newer")


def _bpf_syscall() -> Check:
    number = SYS_BPF.get(platform.machine())
    if number is None:
        return _check("bpf()", f"not known on {platform.machine()}", "", "use x86-64, arm64, riscv64 or loongarch64")
    ctypes.CDLL(None, use_errno=True).syscall(number, -1, None, 0)
    lack = "the kernel has no bpf()" if ctypes.get_errno() == errno.ENOSYS else None
    return _check("bpf()", lack, "there", "use a kernel with CONFIG_BPF_SYSCALL=y")


def _user_namespace() -> Check:
    """In a user namespace of its own root has every capability, and bpf() takes none of them."""
    words = Path("/proc/self/uid_map").read_text().split()
    lack = None if words == ["0", "0", "4294967295"] else "this is a user namespace of its own (rootless container?)"
    return _check("user namespace", lack, "the initial one", "run in the initial user namespace")


def _capabilities() -> Check:
    have = effective_capabilities()
    if have >> CAP_SYS_ADMIN & 1:
        return _check("capabilities", None, "CAP_SYS_ADMIN", "")
    missing = [name for name, bit in (("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)) if not have >> bit & 1]
    lack = f"{' and '.join(missing)} missing (uid {os.geteuid()})" if missing else None
    return _check("capabilities", lack, "CAP_BPF and CAP_PERFMON", _RUN_AS_ROOT)


def effective_capabilities() -> int:
    """This process's effective capabilities, as the bit set that the kernel shows."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _bcc() -> Check:
    try:
        bcc = import_bcc()
    except BccMissing as error:
        return _check("bcc", error.found, "", error.remedy)
    return _check("bcc", None, f"{bcc.__version__} ({Path(str(bcc.__file__)).parent})", "")
