"""Every system call that is named has one class, and the classes name no call that is not there."""

from __future__ import annotations

from cwasi_fastpath.probes.syscall_classes import _CLASSES, CLASSES, syscall_class
from cwasi_fastpath.probes.syscall_names import MOVES_BYTES, known_syscalls


def test_no_call_is_in_two_classes_and_all_exist() -> None:
    names = [name for calls in _CLASSES.values() for name in calls.split()]
    assert len(names) == len(set(names))
    known = {*known_syscalls("x86_64").values(), *known_syscalls("aarch64").values()}
    assert set(names) <= known


def test_what_is_other_is_rare() -> None:
    """Those that set up the machine: mounts, modules, clocks, keys, quotas, tracing."""
    known = set(known_syscalls("x86_64").values())
    other = {name for name in known if syscall_class(name) == "other"}
    assert len(other) < len(known) / 3
    assert syscall_class("bpf") == syscall_class("syscall_9999") == CLASSES[0] == "other"


def test_calls_that_move_bytes_are_io_or_network() -> None:
    assert {syscall_class(name) for name in MOVES_BYTES} == {"io", "network"}
