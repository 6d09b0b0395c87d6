"""How far live runs are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..live.play import Tell


@contextmanager
def progress(runs: int) -> Iterator[Callable[[str], Tell]]:
    """Of so many; for each, in turn, the name of its policy is given."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:<46}", markup=False), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, begun = bar.add_task("", total=runs), iter(range(runs))

        def told(name: str) -> Tell:
            done = next(begun)
            return lambda phase, share: bar.update(task, completed=done + share, description=f"{name}, {phase}")

        yield told
