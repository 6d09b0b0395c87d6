"""The pipeline as one would write it by hand on one node: multiprocessing, shared_memory for data, Pipe for the rest.

A baseline, so written well: a process a function, no pickled payloads, one copy in and one out, several slots in
flight. It runs the same modules, with `cwasi_v1` as Python callbacks, and prints the same report as `cwasi run --json`.

    python -m cwasi_fastpath.bench.byhand WORKFLOW.json
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from statistics import quantiles
from typing import Any

import wasmtime

from .. import attribution

SLOTS = 8
SLOT_BYTES = 1 << 20
_EBADF, _EMSGSIZE, _EPIPE, _ENOTCAPABLE = -8, -35, -64, -76
_WAIT_SECONDS = 60.0


class _End:
    """One end of an edge: slots in shared memory, and a duplex Pipe for their numbers both ways."""

    def __init__(self, memory: SharedMemory, pipe: Connection, sends: bool) -> None:
        self._memory = memory
        self._pipe = pipe
        self.sends = sends
        self.finished = False
        self._free = list(range(SLOTS))
        self._next: tuple[int, int, int] | None = None
        self.latencies: list[int] = []
        self.messages = 0
        self.bytes = 0

    def send(self, data: memoryview) -> int:
        stamp = time.monotonic_ns()
        if len(data) > SLOT_BYTES:
            return _EMSGSIZE
        while not self._free or self._pipe.poll():
            self._free.append(self._pipe.recv())
        slot = self._free.pop()
        at = slot * SLOT_BYTES
        buffer = self._memory.buf
        assert buffer is not None
        buffer[at : at + len(data)] = data
        self._pipe.send((slot, len(data), stamp))
        self._count(len(data))
        return 0

    def recv(self, target: memoryview) -> int:
        if self.finished:
            return _EPIPE
        message = self._next or self._pipe.recv()
        if message is None:
            self.finished = True
            return _EPIPE
        slot, length, stamp = message
        self._next = message if length > len(target) else None
        if self._next:
            return _EMSGSIZE
        buffer = self._memory.buf
        assert buffer is not None
        target[:length] = buffer[slot * SLOT_BYTES : slot * SLOT_BYTES + length]
        self._pipe.send(slot)
        self.latencies.append(time.monotonic_ns() - stamp)
        self._count(length)
        return int(length)

    def peek(self) -> int:
        self._next = self._next or self._pipe.recv()
        return _EPIPE if self._next is None else self._next[1]

    def _count(self, length: int) -> None:
        self.messages += 1
        self.bytes += length

    def close(self) -> None:
        if self.sends and not self.finished:
            self.finished = True
            self._pipe.send(None)


class _Imports:
    """`cwasi_v1` for one guest."""

    def __init__(self, ends: dict[str, _End]) -> None:
        self._ends = ends
        self._handles: list[_End] = []

    def define(self, linker: wasmtime.Linker) -> None:
        i32 = wasmtime.ValType.i32()
        functions: dict[str, tuple[int, Callable[..., int]]] = {
            "channel_open": (3, self._open),
            "channel_send": (4, self._send),
            "channel_recv": (4, self._recv),
            "channel_peek": (2, self._peek),
            "channel_close": (1, self._close),
        }
        for name, (count, function) in functions.items():
            kind = wasmtime.FuncType([i32] * count, [i32])
            linker.define_func("cwasi_v1", name, kind, function, access_caller=True)

    def _open(self, caller: wasmtime.Caller, at: int, length: int, flags: int) -> int:
        end = self._ends.get(bytes(_view(caller, at, length)).decode())
        if end is None or end.sends != (flags == 1):
            return _ENOTCAPABLE
        self._handles.append(end)
        return len(self._handles) - 1

    def _send(self, caller: wasmtime.Caller, handle: int, at: int, length: int, timeout: int) -> int:
        return self._handles[handle].send(_view(caller, at, length))

    def _recv(self, caller: wasmtime.Caller, handle: int, at: int, capacity: int, timeout: int) -> int:
        return self._handles[handle].recv(_view(caller, at, capacity))

    def _peek(self, caller: wasmtime.Caller, handle: int, timeout: int) -> int:
        return self._handles[handle].peek()

    def _close(self, caller: wasmtime.Caller, handle: int) -> int:
        self._handles[handle].close()
        return 0


def _view(caller: wasmtime.Caller, at: int, length: int) -> memoryview:
    """The guest's bytes, without a copy."""
    memory = caller["memory"]
    assert isinstance(memory, wasmtime.Memory)
    if length == 0:
        return memoryview(bytearray())
    return memoryview(memory.get_buffer_ptr(caller, length, at & 0xFFFFFFFF)).cast("B")


def _run_function(function: dict[str, Any], ends: dict[str, _End], ready: Any, results: Connection) -> None:
    engine = wasmtime.Engine()
    module = wasmtime.Module.from_file(engine, function["path"])
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    _Imports(ends).define(linker)
    store = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.argv = [function["name"], *function["arguments"]]
    if function["stdin"]:
        wasi.stdin_file = function["stdin"]
    if function["stdout"]:
        wasi.stdout_file = function["stdout"]
    wasi.inherit_stderr()
    store.set_wasi(wasi)
    ready.wait(_WAIT_SECONDS)
    start, status = time.thread_time(), 0
    with attribution.function(function["name"]):
        try:
            linker.instantiate(store, module).exports(store)["_start"](store)   # type: ignore[operator]
        except wasmtime.ExitTrap as trap:
            status = trap.code
    for end in ends.values():
        end.close()
    results.send(
        {
            "function": function["name"],
            "status": status,
            "cpu_seconds": time.thread_time() - start,
            "received": {name: (end.latencies, end.bytes) for name, end in ends.items() if not end.sends},
            "sent": {name: end.messages for name, end in ends.items() if end.sends},
        }
    )


def _report(workflow: dict[str, Any], results: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    edges = []
    for edge in workflow["edges"]:
        latencies, size = next(r["received"][edge["channel"]] for r in results if edge["channel"] in r["received"])
        percentiles = quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
        edges.append(
            {
                **edge,
                "decision": {
                    "mode": "proximal",
                    "transport": "shared_memory",
                    "reason": "written by hand",
                    "alternatives": [],
                },
                "metrics": {
                    "sent": next(r["sent"][edge["channel"]] for r in results if edge["channel"] in r["sent"]),
                    "received": len(latencies),
                    "bytes": size,
                    "copied_bytes": 2 * size,
                    "p50_ns": percentiles[49] if percentiles else None,
                    "p99_ns": percentiles[98] if percentiles else None,
                },
            }
        )
    return {
        "schema": 1,
        "edges": edges,
        "seconds": seconds,
        "cpu_seconds": {result["function"]: result["cpu_seconds"] for result in results},
        "processes": len(results),
    }


def main(path: str) -> int:
    """Runs the workflow described in a JSON file and prints its report."""
    workflow = json.loads(Path(path).read_text())
    context = multiprocessing.get_context("fork")   # before any engine exists, so forking is safe
    ends: dict[str, dict[str, _End]] = {function["name"]: {} for function in workflow["functions"]}
    memories = []
    for edge in workflow["edges"]:
        memory = SharedMemory(create=True, size=SLOTS * SLOT_BYTES)
        memories.append(memory)
        ours, theirs = context.Pipe(duplex=True)
        ends[edge["sender"]][edge["channel"]] = _End(memory, ours, sends=True)
        ends[edge["receiver"]][edge["channel"]] = _End(memory, theirs, sends=False)
    try:
        results, seconds = _run_processes(context, workflow, ends)
    finally:
        for memory in memories:
            memory.close()
            memory.unlink()
    print(json.dumps(_report(workflow, results, seconds)))
    return int(max(result["status"] for result in results))


def _run_processes(
    context: Any, workflow: dict[str, Any], ends: dict[str, dict[str, _End]]
) -> tuple[list[dict[str, Any]], float]:
    ready = context.Barrier(len(workflow["functions"]) + 1)
    processes, pipes = [], []
    for function in workflow["functions"]:
        ours, theirs = context.Pipe(duplex=False)
        arguments = (function, ends[function["name"]], ready, theirs)
        process = context.Process(target=_run_function, args=arguments, daemon=True)
        process.start()
        processes.append(process)
        pipes.append(ours)
    ready.wait(_WAIT_SECONDS)
    start = time.monotonic()
    results = [pipe.recv() for pipe in pipes]
    seconds = time.monotonic() - start
    for process in processes:
        process.join()
    return results, seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
