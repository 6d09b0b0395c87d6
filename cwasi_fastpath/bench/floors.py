"""What the machine charges for the parts of a message: nothing that carries one can be faster."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from contextlib import suppress

from .._native import check, ffi, lib
from ..calibration import hop_ns, wake_ns
from .case import COST, P50, RATE, Case, Kind, Path, Sample
from .cores import run_both
from .stats import quantile_of

_IMPLAUSIBLE_NS = 30.0
_PROBES = 5
_LINE = 64
_HUGE = 2 << 20
_PIPE_BYTES = 1 << 20
_PARTS = 100


def measure(case: Case, count: int) -> Sample:
    """One run of `case`. Raises OSError, Corrupted."""
    if case.kind is Kind.LATENCY:
        return _raw_latency(case, count)
    runs = {
        Path.HOP: _hop, Path.YIELD: _yield, Path.WAKE: _wake, Path.COPY: _copy, Path.BUFFERS: _buffers,
        Path.VMSPLICE: _lending, Path.VMSPLICE_COPY: _lending, Path.RAW_TCP: _written,
        Path.RAW_PIPE: _written, Path.RAW_UNIX: _written, Path.TCP_TURNS: _turns,
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
    (near, far), unused = _ways(case.path)
    for descriptor in unused:
        os.close(descriptor)
    message, to = (ffi.from_buffer(bytearray(b"\7") * case.size) for _ in range(2))

    def write() -> None:
        with os.fdopen(near, "wb", buffering=0):   # if it fails the other one ends, too
            check(lib.cwasi_drive_write(near, message, case.size, count), "write")

    def read() -> int:
        with os.fdopen(far, "rb", buffering=0):
            return check(lib.cwasi_drive_read(far, to, case.size, count), "read")

    _wrote, took = run_both(case.cores, write, read)
    return Sample(count, took / 1e9, {RATE: count * case.size * 1e9 / took})


def _ways(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """To write to, and to read from there, for each direction."""
    if path is Path.RAW_PIPE:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        for _, write in pipes:
            with suppress(OSError):   # a smaller one works too
                fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        (there, out), (back, answers) = pipes
        return (out, there), (answers, back)
    near, far = socket.socketpair() if path is Path.RAW_UNIX else _connection()
    with near, far:
        return (os.dup(near.fileno()), os.dup(far.fileno())), (os.dup(far.fileno()), os.dup(near.fileno()))


def _turns(case: Case, count: int) -> Sample:
    """A message one way: the mean."""
    (took,) = _by_turns(case, [count])
    return Sample(2 * count, took / 1e9, {COST: took / (2 * count)})


def _raw_latency(case: Case, count: int) -> Sample:
    """The median of the means of so many parts: there is no clock inside."""
    parts = [count // _PARTS] * _PARTS if count > _PARTS else [1] * count
    took = _by_turns(case, parts)
    ways = sorted(ns / (2 * part) for ns, part in zip(took, parts, strict=True))
    return Sample(2 * sum(parts), sum(took) / 1e9, {P50: quantile_of(ways, 0.5)})


def _by_turns(case: Case, counts: list[int]) -> list[int]:
    """How long it takes to pass a message to and fro so often, ns."""

    def play(receives: int, sends: int, first: bool) -> list[int]:
        with os.fdopen(receives, "rb", buffering=0), os.fdopen(sends, "wb", buffering=0):
            message = ffi.from_buffer(bytearray(b"\7") * case.size)
            return [
                check(lib.cwasi_drive_turns(receives, sends, message, case.size, count, first), "turns")
                for count in counts
            ]

    (out, there), (answers, back) = _ways(case.path)
    took, _other = run_both(case.cores, lambda: play(back, out, True), lambda: play(there, answers, False))
    return took
