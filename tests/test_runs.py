"""Runs that end before they have begun. What becomes of guests that run: see test_host.py."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from channels import eventually
from conftest import WriteModule
from test_host import EMPTY, descriptors

import cwasi_fastpath as cwasi
from cwasi_fastpath import steward

Begins = Callable[[threading.Thread], None]


def stewards() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == steward.THREAD]


def fails_at(name: str, error: BaseException, begins: Begins | None = None) -> Begins:
    """Instead of Thread.start. begins: what is done all the same."""
    start = threading.Thread.start

    def failing(thread: threading.Thread) -> None:
        if thread.name != name:
            start(thread)
            return
        if begins is not None:
            begins(thread)
        raise error

    return failing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("can't start new thread")])
@pytest.mark.parametrize("late", ["a", "b"])
def test_who_never_began_holds_nothing_up(
    module: WriteModule, monkeypatch: pytest.MonkeyPatch, late: str, error: BaseException
) -> None:
    with cwasi.Host() as warm:   # wasmtime opens some files for good
        warm.run(warm.load(module(EMPTY)))
    before = descriptors()
    with cwasi.Host() as host:
        guests = [host.load(module(EMPTY), name) for name in "ab"]
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fails_at(late, error))
            with pytest.raises(type(error)):
                host.run()
        assert not host.running() and not host._runs.running
        with pytest.raises(cwasi.BadSpec, match="runs once"):
            host.run(guests[1])
        host.run(host.load(module(EMPTY), "c"))
    eventually(lambda: descriptors() <= before)   # a thread holds its guest for a moment more


def test_who_begins_after_all_was_called_off_does_not_run(
    module: WriteModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[threading.Thread]()
    trap = module('(module (memory (export "memory") 1) (func (export "_start") unreachable))')
    with cwasi.Host() as host:
        guest = host.load(trap, "a")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fails_at("a", KeyboardInterrupt(), held.append))
            with pytest.raises(KeyboardInterrupt):
                host.run()
        held[0].start()
        held[0].join()
        assert guest.thread.number is None and not guest.ended


@pytest.mark.parametrize("begins", [None, threading.Thread.start])
def test_ctrl_c_while_the_steward_begins(
    module: WriteModule, monkeypatch: pytest.MonkeyPatch, begins: Begins | None
) -> None:
    """Nobody needs it then."""
    with cwasi.Host() as host:
        host.load(module(EMPTY), "a")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fails_at(steward.THREAD, KeyboardInterrupt(), begins))
            with pytest.raises(KeyboardInterrupt):
                host.run()
        assert not host._steward._needed
        eventually(lambda: not stewards())
        host.run(host.load(module(EMPTY), "b"))
        assert not stewards()


class Interrupted(threading.Condition):
    """Ctrl-C comes when `with` has taken its lock, and is not in the block yet."""

    def __enter__(self) -> bool:
        super().__enter__()
        raise KeyboardInterrupt


def test_no_lock_is_kept_by_who_was_interrupted_as_it_was_taken(module: WriteModule) -> None:
    with cwasi.Host() as host:
        host._steward._life = Interrupted(host._steward._lock)
        host._runs._changed = Interrupted(host._runs._lock)
        host.run(host.load(module(EMPTY), "a"))
    assert not stewards()
