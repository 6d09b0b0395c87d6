"""A guest: one running instance of a function, with its store, its memory and its channels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import wasmtime

from . import errors
from ._wasmtime import MODULE, GuestState, define_imports, import_names
from .attribution import function
from .endpoint import Endpoint
from .names import checked
from .output import Output
from .placing import Thread

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
        raise errors.BadModule(
            f"{path}: not a WebAssembly module that can be compiled: {_last_line(error)}"
        ) from error


class Guest:
    """One instance of a function. Made by Host.load; run once."""

    def __init__(
        self, engine: wasmtime.Engine, path: Path, name: str, trust: str, streams: Streams, output: Output | None
    ) -> None:
        """output: where it prints if no file was given, and others too; None: to the process's own."""
        self.name = checked(name, "function")
        self.path = path
        self.trust = checked(trust, "trust domain")
        self.streams = streams
        self._output = output
        self._module = compile_module(engine, path)
        self._check_imports()
        self._check_exports()
        self.store = wasmtime.Store(engine)
        self.store.set_epoch_deadline(1)   # the host's next tick interrupts, where the engine counts ticks at all
        self._state = GuestState(self.store)
        self._granted: set[tuple[str, int]] = set()
        """The names that the guest knows, with the roles."""
        self._ends: list[Endpoint] = []
        self.stopped = False
        """Between two messages; its ends stay open for others."""
        self.ended = False
        """And so have its ends."""
        self.thread = Thread()
        """On which it runs."""
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
        start = exports.get("_start")
        if not isinstance(start, wasmtime.FuncType) or start.params:
            raise errors.BadModule(f"{self.path}: exports no function _start () -> (); build it as a WASI command")
        if not isinstance(exports.get("memory"), wasmtime.MemoryType):
            raise errors.BadModule(f"{self.path}: exports no memory under the name memory")

    def grant(self, name: str, end: Endpoint, backs: Sequence[Endpoint] = ()) -> None:
        """Lets the guest open `end` as channel `name`; the guest closes it when it ends. Raises BadSpec.

        backs: the way back of a channel whose messages are requests: the end that receives their answers, or those that
        send them, one for each sender.
        """
        if (name, end.role) in self._granted:
            raise errors.BadSpec(
                f"function {self.name} has a channel {name!r} of this direction already; give this one another port"
            )
        self._state.grant(name, end, backs)
        self._granted.add((name, end.role))
        self._ends += [end, *backs]

    def run(self) -> None:
        """Runs the function to its end on this thread; then its ends of channels are closed, as failed if it failed.

        Raises GuestTrap, GuestExit, GuestTimeout, BadModule.
        """
        start = time.thread_time()
        self.thread.begins()
        try:
            self._call()
        except BaseException as error:
            if isinstance(error, errors.Error):
                error.happened_ns = time.monotonic_ns()   # before anybody can suffer from it
            if self.stopped and isinstance(error, errors.GuestExit):
                return   # it says that it could not go on
            self._finish(failed=True)
            raise
        else:
            self._finish(failed=False)
        finally:
            self.thread.ends()
            self.cpu_seconds = time.thread_time() - start

    def _finish(self, failed: bool) -> None:
        if self.stopped and not failed:
            return
        self.ended = True
        # A receiver may take as long as it wants to make room for the last word; a failure needs no word.
        with ExitStack() as ends:
            for end in self._ends:
                ends.callback(end.finish, failed=failed, linger=0.0 if failed else None)

    def _call(self) -> None:
        with self._stdout() as stdout:
            self._call_start(stdout)

    def _stdout(self) -> AbstractContextManager[Path | None]:
        if self.streams.stdout is None and self._output is not None:
            return self._output.source()
        return nullcontext(self.streams.stdout)

    def _call_start(self, stdout: Path | None) -> None:
        try:
            instance = self._instantiate(stdout)
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
        except wasmtime.WasmtimeError as error:   # for example an exit status that WASI does not know
            raise errors.GuestTrap(f"function {self.name} was ended: {_last_line(error)}") from error

    def _instantiate(self, stdout: Path | None) -> wasmtime.Instance:
        self.store.set_wasi(self._wasi(stdout))
        # A linker of its own: the hostcalls of one store fit no other.
        linker = wasmtime.Linker(self.store.engine)
        linker.define_wasi()
        define_imports(linker, self._state)
        try:
            return linker.instantiate(self.store, self._module)
        except wasmtime.ExitTrap:
            raise
        except wasmtime.WasmtimeError as error:
            reason = " ".join(str(error).split())
            raise errors.BadModule(f"{self.path}: cannot be instantiated: {reason}") from error

    def _wasi(self, stdout: Path | None) -> wasmtime.WasiConfig:
        wasi, streams = wasmtime.WasiConfig(), self.streams
        wasi.argv = [self.name, *streams.arguments]
        wasi.env = list(streams.environment.items())
        if streams.stdin is not None:
            self._open(wasi, "stdin", streams.stdin)
        for kind, path in (("stdout", stdout), ("stderr", streams.stderr)):
            if path is None:
                getattr(wasi, f"inherit_{kind}")()
            else:
                self._open(wasi, kind, path)
        return wasi

    def _open(self, wasi: wasmtime.WasiConfig, kind: str, path: Path) -> None:
        try:
            setattr(wasi, f"{kind}_file", str(path))
        except wasmtime.WasmtimeError as error:
            reason = f"{path}: cannot be the {kind} of function {self.name}: {_why(path, kind)}"
            raise errors.BadModule(reason) from error

    @property
    def ends(self) -> tuple[Endpoint, ...]:
        """Its ends of channels."""
        return tuple(self._ends)

    def stop_between(self, stopped: bool = True) -> None:
        """Stops the guest before its next message, from any thread: it can pass on what it has received, and gets
        ECANCELED where it would receive more (or, if it receives nothing, send). False takes that back.
        """
        self.stopped = stopped
        self._state.stop(stopped)

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
        self._module.close()


def _last_line(error: wasmtime.WasmtimeError) -> str:
    """wasmtime names the cause last."""
    return str(error).strip().splitlines()[-1].strip()


def _why(path: Path, kind: str) -> str:
    """What is wrong with a file that wasmtime could not open; it does not say."""
    try:
        path.open("rb" if kind == "stdin" else "ab").close()
    except OSError as error:
        return error.strerror or str(error)
    return "it could not be opened"


def _trap_reason(trap: wasmtime.Trap) -> str:
    """The last line of wasmtime's message, without its backtrace."""
    text = str(trap.message)
    reason = text.rpartition("wasm trap:")[2] if "wasm trap:" in text else text
    return reason.strip().splitlines()[0].strip()
