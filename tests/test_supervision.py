"""Host processes are watched until each has ended, whatever they do, and are ended together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import unruly_worker
from channels import HANG, Start, eventually
from test_process import WAIT, no_process_is_left

import cwasi_fastpath as cwasi
from cwasi_fastpath import process
from cwasi_fastpath.deployment import Options, run
from cwasi_fastpath.modes import Mode
from cwasi_fastpath.process import HostProcess
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow

__all__ = ["no_process_is_left"]

Started = dict[str, HostProcess]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """The host processes by their first function. They end with the test."""
    found: Started = {}
    start = HostProcess.__init__

    def noted(self: HostProcess, functions: list[FunctionSpec], *rest: object, **more: object) -> None:
        start(self, functions, *rest, **more)   # type: ignore[arg-type]
        found[functions[0].name] = self

    monkeypatch.setattr(HostProcess, "__init__", noted)
    yield found
    for one in found.values():
        one._child.kill()


@pytest.fixture
def unruly(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What the host process of the function "unruly" does, and at which word of its parent's."""

    def does(what: str) -> None:
        monkeypatch.setattr(process, "WORKER", "unruly_worker")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        monkeypatch.setenv(unruly_worker.ENVIRONMENT, what)

    return does


def circle() -> Workflow:
    """Two functions that wait for each other for ever."""
    functions = (FunctionSpec("unruly", WAIT), FunctionSpec("other", WAIT))
    edges = (EdgeSpec("there", "unruly", "other", "out", "in"), EdgeSpec("back", "other", "unruly", "out", "in"))
    return Workflow(functions, edges)


@pytest.mark.parametrize("word", ["ready", "run"])
def test_a_process_dies_but_not_its_child(start: Start, unruly: Callable[[str], None], word: str) -> None:
    """Nobody hangs up."""
    unruly(f"{word}:dies, but not its child")
    running = start(run, circle(), Options(mode=Mode.PROXIMAL))
    with pytest.raises(cwasi.HostDied, match=r"of unruly \(pid \d+\) was killed by SIGKILL"):
        running.result(HANG)
