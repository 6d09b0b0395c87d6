"""What a thread may do beyond the rights of its user, and giving it up. Linux counts that by thread."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_NAMES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
_VERSION = 0x20080522   # of what capset() takes
_NO_NEW_PRIVS = 38   # PR_SET_NO_NEW_PRIVS


def held() -> tuple[str, ...]:
    """Those of the calling thread, as `CAP_BPF`."""
    bits = _bits()
    return tuple(name for number in range(64) if bits >> number & 1 for name in [_name(number)])


def keep_only(names: Iterable[str]) -> None:
    """Of what the calling thread has it keeps these, and no exec gives it more; for threads that it starts, too.

    Raises OSError.
    """
    kept = sum(1 << number for number in range(64) if _name(number) in set(names)) & _bits()
    low, high = kept & 0xFFFFFFFF, kept >> 32
    libc = ctypes.CDLL(None, use_errno=True)
    # Effective, permitted, inheritable: with the last the ambient ones go, too.
    _check(libc.capset(struct.pack("Ii", _VERSION, 0), struct.pack("6I", low, low, 0, high, high, 0)), "capset")
    _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _name(number: int) -> str:
    return f"CAP_{_NAMES[number] if number < len(_NAMES) else number}"


def _bits() -> int:
    status = Path("/proc/thread-self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))


def _check(status: int, what: str) -> None:
    if status < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
