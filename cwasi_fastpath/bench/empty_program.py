"""What every tracer of system calls costs at the least: programs that do nothing, on their entry and their return."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_SYS_BPF = {"x86_64": 321}.get(platform.machine(), 280)
_PROG_LOAD, _RAW_TRACEPOINT_OPEN = 5, 17
_RAW_TRACEPOINT = 17  # BPF_PROG_TYPE_...
_RETURN_0 = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit


@contextmanager
def empty_programs() -> Iterator[None]:
    """Hangs one on raw_syscalls:sys_enter and one on sys_exit meanwhile. Raises OSError."""
    code, license = ctypes.create_string_buffer(_RETURN_0, 16), ctypes.create_string_buffer(b"GPL")
    places = ctypes.addressof(code), ctypes.addressof(license)
    with ExitStack() as stack:
        given = struct.pack("=IIQQIIQI", _RAW_TRACEPOINT, 2, *places, 0, 0, 0, 0)
        program = _held(stack, _bpf(_PROG_LOAD, given))
        for name in (b"sys_enter", b"sys_exit"):
            text = ctypes.create_string_buffer(name)
            _held(stack, _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QII", ctypes.addressof(text), program, 0)))
        yield


def _held(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _bpf(command: int, attributes: bytes) -> int:
    libc, size = ctypes.CDLL(None, use_errno=True), len(attributes)
    descriptor = libc.syscall(_SYS_BPF, command, ctypes.create_string_buffer(attributes, size), size)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), f"bpf(): {os.strerror(ctypes.get_errno())}")
    return int(descriptor)
