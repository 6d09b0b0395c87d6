"""A guest: one running instance of a function, with its store, its memory and its channels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import wasmtime

from . import errors
from ._wasmtime import MODULE, GuestState, define_imports, import_names
from .attribution import function
from .endpoint import Endpoint
from .modes import Mode
from .names import checked

_WASI = "wasi_snapshot_preview1"


@dataclass(frozen=True, slots=True)
class Streams:
    """A guest's WASI world. Paths; None for an input means empty, for an output the host's own."""

    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: Path | None = None
    stdout: Path | None = None
    stderr: Path | None = None


def compile_module(engine: wasmtime.Engine, path: Path) -> wasmtime.Module:
    """Compiles a .wasm or .wat file. Raises BadModule, which names the file and what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.BadModule(f"{path}: {error.strerror}. Give the path of a .wasm file") from error
    try:
        if path.suffix == ".wat":
            content = bytes(wasmtime.wat2wasm(content))
        return wasmtime.Module(engine, content)
    except wasmtime.WasmtimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise errors.BadModule(f"{path}: not a WebAssembly module that can be compiled: {reason}") from error


class Guest:
    """One instance of a function. Made by Host.load; run once."""

    def __init__(self, engine: wasmtime.Engine, path: Path, name: str, trust: str, streams: Streams) -> None:
        self.name = checked(name, "function")
        self.path = path
        self.trust = checked(trust, "trust domain")
        self.streams = streams
        self._module = compile_module(engine, path)
        self._check_imports()
        self._check_exports()
        self.store = wasmtime.Store(engine)
        self.store.set_epoch_deadline(1)   # the host's next tick interrupts, where the engine counts ticks at all
        self._state = GuestState(self.store)
        self._ends: list[Endpoint] = []
        self.cpu_seconds = 0.0
        """CPU time of its thread; spinning in a wait counts."""

    def __repr__(self) -> str:
        return f"<Guest {self.name!r} of {self.path.name}>"

    @property
    def uses_channels(self) -> bool:
        """Whether the module imports anything from cwasi_v1."""
        return any(item.module == MODULE for item in self._module.imports)

    def _check_imports(self) -> None:
        for item in self._module.imports:
            known = item.module == _WASI or (item.module == MODULE and item.name in import_names())
            if not known:
                raise errors.MissingImport(
                    f"{self.path}: imports {item.module}.{item.name}, which this host does not provide "
                    f"(it has {_WASI} and {MODULE}: {', '.join(sorted(import_names()))})"
                )

    def _check_exports(self) -> None:
        exports = {item.name: item.type for item in self._module.exports}
        if not isinstance(exports.get("_start"), wasmtime.FuncType):
            raise errors.BadModule(f"{self.path}: exports no function _start; build it as a WASI command")
        if not isinstance(exports.get("memory"), wasmtime.MemoryType):
            raise errors.BadModule(f"{self.path}: exports no memory under the name memory")

    def grant(self, name: str, end: Endpoint, mode: Mode) -> None:
        """Lets the guest open `end` as channel `name`; the guest closes it when it ends."""
        self._state.grant(name, end, mode)
        self._ends.append(end)

    def run(self) -> None:
        """Runs the function to its end on this thread; then its ends of channels are closed, as failed if it failed.

        Raises GuestTrap, GuestExit, GuestTimeout, BadModule.
        """
        failed = True
        start = time.thread_time()
        try:
            self._call()
            failed = False
        finally:
            self.cpu_seconds = time.thread_time() - start
            for end in self._ends:
                end.finish(failed=failed)

    def _call(self) -> None:
        try:
            instance = self._instantiate()
            exports = instance.exports(self.store)
            memory, start = exports["memory"], exports["_start"]
            assert isinstance(memory, wasmtime.Memory) and isinstance(start, wasmtime.Func)   # _check_exports
            self._state.set_memory(memory)
            # Not around the set-up: wasmtime's own system calls there are not the function's.
            with function(self.name):
                start(self.store)
        except wasmtime.ExitTrap as trap:
            if trap.code != 0:
                raise errors.GuestExit(f"function {self.name} ended with status {trap.code}", trap.code) from trap
        except wasmtime.Trap as trap:
            if trap.trap_code is wasmtime.TrapCode.INTERRUPT:
                raise errors.GuestTimeout(f"function {self.name} still ran when its time was up") from trap
            raise errors.GuestTrap(f"function {self.name} trapped: {_trap_reason(trap)}") from trap
        except wasmtime.WasmtimeError as error:
            raise errors.BadModule(f"{self.path}: cannot be instantiated: {error}") from error

    def _instantiate(self) -> wasmtime.Instance:
        self.store.set_wasi(self._wasi())
        # A linker of its own: the hostcalls of one store fit no other.
        linker = wasmtime.Linker(self.store.engine)
        linker.define_wasi()
        define_imports(linker, self._state)
        return linker.instantiate(self.store, self._module)

    def _wasi(self) -> wasmtime.WasiConfig:
        wasi, streams = wasmtime.WasiConfig(), self.streams
        wasi.argv = [self.name, *streams.arguments]
        wasi.env = list(streams.environment.items())
        if streams.stdin is not None:
            wasi.stdin_file = streams.stdin
        for kind in ("stdout", "stderr"):
            path = getattr(streams, kind)
            if path is None:
                getattr(wasi, f"inherit_{kind}")()
            else:
                setattr(wasi, f"{kind}_file", str(path))
        return wasi

    def stop(self) -> None:
        """Ends every wait of the guest in a channel, from any thread."""
        for end in self._ends:
            end.stop()

    def close(self) -> None:
        """Frees the instance; its channels must be freed after it. The function must not be running."""
        for end in self._ends:
            end.close()
        self._state.close()
        self.store.close()


def _trap_reason(trap: wasmtime.Trap) -> str:
    """The last line of wasmtime's message, without its backtrace."""
    text = str(trap.message)
    reason = text.rpartition("wasm trap:")[2] if "wasm trap:" in text else text
    return reason.strip().splitlines()[0].strip()
