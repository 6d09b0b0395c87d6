"""Workflows as data: what contradicts itself is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cwasi_fastpath.errors import BadSpec
from cwasi_fastpath.workflow import EdgeSpec, FunctionSpec, Workflow


def functions(*names: str) -> tuple[FunctionSpec, ...]:
    return tuple(FunctionSpec(name, Path(f"{name}.wasm")) for name in names)


CHAIN = Workflow(functions("a", "b", "c"), (EdgeSpec("x", "a", "b"), EdgeSpec("y", "b", "c")))


@pytest.mark.parametrize(
    ("names", "edges", "reason"),
    [
        ("aa", [], "function 'a' is named twice"),
        ("abc", [("x", "a", "b"), ("x", "b", "c")], "channel 'x': a function has one end of it"),
        ("ab", [("x", "a", "b"), ("x", "a", "b")], "channel 'x' is connected twice between the same functions"),
        ("abcd", [("x", "a", "c"), ("x", "b", "d")], "each of its senders sends to each of its receivers"),
        ("ab", [("x", "a", "b", "p"), ("x", "a", "b", "q")], "connected twice"),
        ("abc", [("x", "a", "c", "p"), ("x", "b", "c", None, "q")], "a function has one end of it and one port"),
        ("abc", [("x", "a", "b", None, None, True), ("x", "a", "c", None, None, True)], "one function that answers"),
        ("ab", [("x", "a", "z")], "there is no function 'z'; there are: a, b"),
        ("ab", [("x", "z", "b")], "there is no function 'z'"),
        ("ab", [("x", "a", "a")], "leads from a to itself"),
    ],
)
def test_contradictions(names: str, edges: list[tuple[str, ...]], reason: str) -> None:
    with pytest.raises(BadSpec, match=reason) as caught:
        Workflow(functions(*names), tuple(EdgeSpec(*edge) for edge in edges))   # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_streams_go_to_the_ends() -> None:
    streams = CHAIN.with_streams(Path("in"), Path("out"))
    assert [function.stdin for function in streams.functions] == [Path("in"), None, None]
    assert [function.stdout for function in streams.functions] == [None, None, Path("out")]
    assert CHAIN.functions[0].stdin is None, "the first one is as it was"
    assert CHAIN.with_streams(None, None) == CHAIN


def test_a_lone_function_has_both_streams() -> None:
    (alone,) = Workflow(functions("a"), ()).with_streams(Path("in"), Path("out")).functions
    assert (alone.stdin, alone.stdout) == (Path("in"), Path("out"))


@pytest.mark.parametrize(
    ("workflow", "stdin", "stdout", "reason"),
    [
        (Workflow(functions("a", "b"), ()), Path("in"), None, "input belongs to the one .* here: a, b"),
        (Workflow(functions("a", "b"), ()), None, Path("out"), "output belongs to the one .* here: a, b"),
        (
            Workflow(functions("a", "b"), (EdgeSpec("x", "a", "b"), EdgeSpec("y", "b", "a"))),
            Path("in"),
            None,
            "here: none",
        ),
    ],
)
def test_streams_without_one_end(workflow: Workflow, stdin: Path | None, stdout: Path | None, reason: str) -> None:
    with pytest.raises(BadSpec, match=reason):
        workflow.with_streams(stdin, stdout)


def test_streams_that_a_function_has_stay() -> None:
    first = FunctionSpec("a", Path("a.wasm"), stdout=Path("mine"))
    own = Workflow((first, *functions("b")), (EdgeSpec("x", "a", "b"),))
    assert own.with_streams(None, Path("out")).functions[0].stdout == Path("mine")
