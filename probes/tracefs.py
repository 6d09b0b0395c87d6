"""Ordinary tracepoints: where their records have which field, and hanging a program on one.

tracefs tells it. Where that is not mounted it is mounted for this process alone: nobody else sees it, nothing stays.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .loader import ProbeError

_MOUNTED = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on every architecture
_PERF_EVENT_OPEN = {"x86_64": 298}.get(platform.machine(), 241)
_SET_BPF, _ENABLE = 0x40042408, 0x2400  # PERF_EVENT_IOC_...
_TRACEPOINT = 2  # PERF_TYPE_TRACEPOINT


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """An ordinary tracepoint, as tracefs describes it."""

    name: str
    id: int
    offsets: dict[str, int]
    """Of its fields in the record, in bytes."""

    def attach(self, program: int) -> int:
        """Hangs a loaded program on it, on all CPUs. Returns the descriptor that holds it there. Raises ProbeError."""
        attributes = struct.pack("IIQQ", _TRACEPOINT, 64, self.id, 1) + bytes(64 - 24)  # PERF_ATTR_SIZE_VER0
        libc = ctypes.CDLL(None, use_errno=True)
        event = libc.syscall(_PERF_EVENT_OPEN, attributes, -1, 0, -1, 8)  # PERF_FLAG_FD_CLOEXEC
        if event < 0:
            raise ProbeError(f"{self.name}: perf_event_open: {os.strerror(ctypes.get_errno())}")
        try:
            fcntl.ioctl(event, _SET_BPF, program)
            fcntl.ioctl(event, _ENABLE, 0)
        except OSError as error:
            os.close(event)
            raise ProbeError(f"{self.name}: {error.strerror}") from error
        return int(event)


def describe(name: str) -> Tracepoint:
    """The tracepoint `category/event`. Raises ProbeError with the reason."""
    with _tracefs() as directory:
        try:
            descriptor = os.open(f"events/{name}/format", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            raise ProbeError(f"tracefs has no events/{name}/format: {error.strerror}") from error
        with os.fdopen(descriptor) as file:
            text = file.read()
    number = re.search(r"^ID: (\d+)$", text, re.M)
    if number is None:
        raise ProbeError(f"events/{name}/format of tracefs has no ID")
    fields = re.findall(r"\bfield:[^;]*?(\w+)(?:\[[^;]*\])?;\s*offset:(\d+);", text)
    return Tracepoint(name, int(number[1]), {field: int(offset) for field, offset in fields})


@contextmanager
def _tracefs() -> Iterator[int]:
    """The root directory of tracefs: where it is mounted, else of a mount that hangs nowhere and ends here."""
    descriptor = next((found for found in map(_opened, _MOUNTED) if found is not None), None)
    if descriptor is None:
        descriptor = _detached()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if Path(path, "events").exists() else None
    except OSError:
        return None


def _detached() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    context = libc.syscall(_FSOPEN, b"tracefs", 1)
    if context < 0:
        raise _lacking()
    try:
        if libc.syscall(_FSCONFIG, context, 6, None, None, 0) < 0:  # FSCONFIG_CMD_CREATE
            raise _lacking()
        mount = libc.syscall(_FSMOUNT, context, 1, 0)
        if mount < 0:
            raise _lacking()
        return int(mount)
    finally:
        os.close(context)


def _lacking() -> ProbeError:
    reason = os.strerror(ctypes.get_errno())
    return ProbeError(f"tracefs is not mounted or readable, and mounting it for this process alone failed: {reason}")
