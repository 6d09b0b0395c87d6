"""What the machine charges for the parts of a message: nothing that carries one can be faster."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from contextlib import suppress

from .._native import check, ffi, lib
from ..calibration import hop_ns, wake_ns
from .case import COST, P50, RATE, Case, Path, Sample
from .cores import run_both

_IMPLAUSIBLE_NS = 30.0
_PROBES = 5
_LINE = 64
_HUGE = 2 << 20
_PIPE_BYTES = 1 << 20


def measure(case: Case, count: int) -> Sample:
    """One run of `case`. Raises OSError, Corrupted."""
    runs = {
        Path.HOP: _hop, Path.YIELD: _yield, Path.WAKE: _wake, Path.COPY: _copy, Path.BUFFERS: _buffers,
        Path.VMSPLICE: _lending, Path.VMSPLICE_COPY: _lending, Path.RAW_TCP: _written, Path.TCP_TURNS: _turns,
    }  # fmt: skip
    return runs[case.path](case, count)


def plausible_hop_ns() -> float:
    """The hop now; probed again while its two threads seem to have shared one core."""
    hop = hop_ns()
    for _ in range(_PROBES):
        if hop >= _IMPLAUSIBLE_NS:
            break
        hop = hop_ns()
    return hop


def _hop(case: Case, count: int) -> Sample:
    hop = plausible_hop_ns()
    return Sample(count, count * hop / 1e9, {P50: hop})


def _wake(case: Case, count: int) -> Sample:
    wake = wake_ns()
    return Sample(count, count * wake / 1e9, {P50: wake})


def _yield(case: Case, count: int) -> Sample:
    """A hand-over from one thread to the other, on the core that both have."""
    turn = ffi.new("uint32_t *")
    took, _other = run_both(
        case.cores,
        lambda: lib.cwasi_drive_yield(turn, 0, count),
        lambda: lib.cwasi_drive_yield(turn, 1, count),
    )
    return Sample(2 * count, took / 1e9, {COST: took / (2 * count)})


def _copy(case: Case, count: int) -> Sample:
    # Both written: memory that is only zero may be one page, over and over.
    memories = [ffi.from_buffer(bytearray(b"\7") * case.size) for _ in range(2)]
    took = lib.cwasi_drive_copy(*memories, case.size, count)
    return Sample(count, took / 1e9, {RATE: count * case.size * 1e9 / took})


def _buffers(case: Case, count: int) -> Sample:
    """What fill -> sum can stream with nothing between the two threads but two blocks and a flag for each."""
    with mmap.mmap(-1, 2 * (_LINE + case.size)) as memory:
        pair = ffi.from_buffer(memory)
        _filled, took = run_both(
            case.cores,
            lambda: check(lib.cwasi_drive_fill(pair, case.size, count), "fill"),
            lambda: check(lib.cwasi_drive_sum(pair, case.size, count), "sum"),
        )
        ffi.release(pair)
    return Sample(count, took / 1e9, {RATE: count * case.size * 1e9 / took})


def _lending(case: Case, count: int) -> Sample:
    """Through a pipe of the size that a channel has, out of buffers like its own."""
    read, write = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):   # a smaller one works too
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    with mmap.mmap(-1, 2 * _HUGE) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        whole = ffi.from_buffer(memory)
        buffers = whole + -int(ffi.cast("uintptr_t", whole)) % _HUGE
        ffi.memmove(buffers, b"\7" * _HUGE, _HUGE)
        message, to = (ffi.from_buffer(bytearray(b"\7") * case.size) for _ in range(2))
        source = message if case.path is Path.VMSPLICE_COPY else ffi.NULL

        def lend() -> None:
            with os.fdopen(write, "wb", buffering=0):   # if it fails the other one ends, too
                check(lib.cwasi_drive_lend(write, buffers, _HUGE, source, case.size, count), "lend")

        def receive() -> int:
            with os.fdopen(read, "rb", buffering=0):
                return check(lib.cwasi_drive_read(read, to, case.size, count), "read")

        _lent, took = run_both(case.cores, lend, receive)
        ffi.release(whole)
    return Sample(count, took / 1e9, {RATE: count * case.size * 1e9 / took})


def _connection() -> tuple[socket.socket, socket.socket]:
    """Both sides of a TCP connection, with the options of a channel's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for side in (near, far):
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def _written(case: Case, count: int) -> Sample:
    near, far = _connection()
    message, to = (ffi.from_buffer(bytearray(b"\7") * case.size) for _ in range(2))

    def write() -> None:
        with near:   # if it fails the other one ends, too
            check(lib.cwasi_drive_write(near.fileno(), message, case.size, count), "write")

    def read() -> int:
        with far:
            return check(lib.cwasi_drive_read(far.fileno(), to, case.size, count), "read")

    _wrote, took = run_both(case.cores, write, read)
    return Sample(count, took / 1e9, {RATE: count * case.size * 1e9 / took})


def _turns(case: Case, count: int) -> Sample:
    """A message one way: the mean."""

    def play(side: socket.socket, first: bool) -> int:
        with side:
            message = ffi.from_buffer(bytearray(case.size))
            return check(lib.cwasi_drive_turns(side.fileno(), message, case.size, count, first), "turns")

    near, far = _connection()
    took, _other = run_both(case.cores, lambda: play(near, True), lambda: play(far, False))
    return Sample(2 * count, took / 1e9, {COST: took / (2 * count)})
