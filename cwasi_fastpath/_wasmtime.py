"""The only user of wasmtime's private parts: puts the C hostcalls into a linker.

wasmtime's C ABI is not stable between releases, so the release is pinned and checked here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import wasmtime
from wasmtime import _bindings, _ffi

from . import errors
from ._native import Managed, check, ffi, lib, opened
from .endpoint import Endpoint
from .names import checked

PINNED = "50.0.1"
MODULE = "cwasi_v1"

_ENTRY_POINTS = {
    "caller_context": "wasmtime_caller_context",
    "caller_export_get": "wasmtime_caller_export_get",
    "memory_data": "wasmtime_memory_data",
    "memory_data_size": "wasmtime_memory_data_size",
    "trap_new": "wasmtime_trap_new",
}
_LAYOUTS = {_bindings.wasmtime_memory: 24, _bindings.wasmtime_extern: 32, _bindings.wasmtime_val_raw: 16}


@cache
def _runtime() -> Any:
    """The entry points that the hostcalls use. Raises Unavailable for another release of wasmtime."""
    found = version("wasmtime")
    if found != PINNED or any(ctypes.sizeof(kind) != size for kind, size in _LAYOUTS.items()):
        raise errors.Unavailable(
            f"wasmtime {found} is installed; the hostcalls fit {PINNED} only: pip install wasmtime=={PINNED}"
        )
    runtime = ffi.new("cwasi_wasmtime *")
    for field, symbol in _ENTRY_POINTS.items():
        address = ctypes.cast(getattr(_ffi.dll, symbol), ctypes.c_void_p).value
        setattr(runtime, field, ffi.cast(ffi.typeof(getattr(runtime, field)), address))
    return runtime


class GuestState(Managed):
    """What the hostcalls know of one store: the channels granted to its guest."""

    def __init__(self, store: wasmtime.Store) -> None:
        context = ctypes.cast(store._context(), ctypes.c_void_p).value
        self._runtime = _runtime()   # the C side keeps a pointer to it
        self._channels: list[Any] = []
        self._pointer = opened(
            lib.cwasi_guest_new, self._runtime, ffi.cast("void *", context), what="state of the hostcalls"
        )

    def _delete(self, pointer: Any) -> None:
        lib.cwasi_guest_free(pointer)
        self._channels.clear()

    def __del__(self) -> None:
        self.close()

    def grant(self, name: str, end: Endpoint, backs: Sequence[Endpoint] = ()) -> None:
        """Lets the guest open `end` under `name`. backs: the way back, which makes its messages requests."""
        self._channels.append(end.pointer)   # kept alive as long as the guest can reach it
        check(lib.cwasi_guest_grant(self.pointer, name.encode(), end.pointer), f"grant of {name!r}")
        for back in backs:
            self._channels.append(back.pointer)
            check(lib.cwasi_guest_grant_back(self.pointer, back.pointer), f"way back of {name!r}")

    def stop(self, stopped: bool) -> None:
        """Stops the guest between two messages, from any thread, or takes that back."""
        if not self.closed:
            lib.cwasi_guest_stop(self.pointer, stopped)

    def set_memory(self, memory: wasmtime.Memory) -> None:
        """Saves the look-up of the memory on every call; for a store that holds one instance only."""
        check(lib.cwasi_guest_set_memory(self.pointer, ffi.cast("void *", ctypes.addressof(memory._memory))), "memory")


def _imports() -> Iterable[tuple[str, int, int]]:
    """(name, number of parameters, address of the callback) of each import."""
    entry = lib.cwasi_imports()
    while entry.name:
        yield ffi.string(entry.name).decode(), entry.parameters, int(ffi.cast("uintptr_t", entry.callback))
        entry += 1


@cache
def import_names() -> frozenset[str]:
    """The functions that the import module offers."""
    return frozenset(name for name, _, _ in _imports())


def define_imports(linker: wasmtime.Linker, state: GuestState) -> None:
    """Defines the import module in `linker`. Raises wasmtime.WasmtimeError where its names are taken already."""
    i32 = wasmtime.ValType.i32()
    callback_type = _bindings.wasmtime_func_unchecked_callback_t
    no_finalizer = _bindings._wasmtime_linker_define_func_unchecked.argtypes[-1](0)
    environment = ctypes.c_void_p(int(ffi.cast("uintptr_t", state.pointer)))
    module = MODULE.encode()
    for name, parameters, address in _imports():
        # A FuncType belongs to the first engine that uses it: made afresh for each linker.
        kind = wasmtime.FuncType([i32] * parameters, [i32])
        error = _ffi.wasmtime_linker_define_func_unchecked(
            linker.ptr(),
            ctypes.create_string_buffer(module),
            len(module),
            ctypes.create_string_buffer(name.encode()),
            len(name),
            kind.ptr(),
            callback_type(address),
            environment,
            no_finalizer,
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)


def install(
    linker: wasmtime.Linker,
    store: wasmtime.Store,
    channels: Mapping[str, Endpoint | tuple[Endpoint, ...]],
    ways_back: Mapping[str, Endpoint | tuple[Endpoint, ...]] | None = None,
) -> None:
    """Gives a wasmtime program of any kind the channels: defines `cwasi_v1` in its linker, for guests in `store`.

    channels: for each name the end, or the ends, that the guest may open. One linker serves one store.
    ways_back: for a channel whose messages are requests, the end that receives their answers, or those that send them,
    one for each sender.
    An end that is closed before its guest uses it gives the guest EBADF.
    Raises Unavailable for another release of wasmtime, wasmtime.WasmtimeError when `cwasi_v1` is defined already,
    BadName, ChannelClosed for an end that is closed.
    """
    state = GuestState(store)
    for name, ends in channels.items():
        for end in _listed(ends):
            state.grant(checked(name, "channel"), end, _listed((ways_back or {}).get(name, ())))
    define_imports(linker, state)
    # Instances hold a bare pointer to the state: it lives as long as the store that runs them and the linker that makes
    # more of them.
    for owner in (store, linker):
        owner.__dict__.setdefault("_cwasi_states", []).append(state)


def _listed(ends: Endpoint | tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    return (ends,) if isinstance(ends, Endpoint) else ends
