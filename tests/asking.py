"""What the tests of requests between processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from channels import control_ended

from cwasi_fastpath import control
from cwasi_fastpath.request import Request

On = Callable[..., None]


@pytest.fixture
def presence(runtime_directory: Path) -> Iterator[control.Presence]:
    """This process can be found."""
    found = control.Presence()
    yield found
    found.leave()
    control_ended()


@pytest.fixture
def on() -> Iterator[On]:
    """control.on, taken back after the test."""
    undo = []

    def set_(kind: str, handler: control.Handler, channel: str | None = None) -> None:
        control.on(kind, handler, channel)
        undo.append((kind, handler, channel))

    yield set_
    for entry in undo:
        control.off(*entry)


def echo(request: Request) -> None:
    request.answer({"echo": request.body, "channel": request.channel})
