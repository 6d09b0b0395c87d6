"""The contract and the suite are one list: every promise has a test, and every test is of a promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from cwasi_fastpath import transport
from cwasi_fastpath.modes import Transport

from .cases import CASES


def promises() -> set[str]:
    return set(re.findall(r"^- `(\w+)`:", transport.__doc__ or "", re.MULTILINE))


def names_of_tests() -> set[str]:
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        if path != Path(__file__):
            found |= {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    return {name.removeprefix("test_") for name in found if name.startswith("test_")}


def kept_by(promise: str, test: str) -> bool:
    return test == promise or test.startswith(f"{promise}_")


def test_every_promise_has_a_test() -> None:
    assert len(promises()) > 20
    without = {promise for promise in promises() if not any(kept_by(promise, test) for test in names_of_tests())}
    assert not without


def test_every_test_is_of_a_promise() -> None:
    other = {test for test in names_of_tests() if not any(kept_by(promise, test) for promise in promises())}
    assert not other, "say in the contract what they test"


def test_every_transport_is_held_to_it() -> None:
    assert sorted(case.transport for case in CASES) == sorted(Transport)
