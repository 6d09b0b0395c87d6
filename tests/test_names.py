"""One check for every name, so that none needs quoting anywhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwasi_fastpath.errors import BadName
from cwasi_fastpath.names import checked


@pytest.mark.parametrize("name", ["a", "0", "resize", "resize-2.big_one", "9lives", "a" * 63, "a--b..c__d"])
def test_good_names(name: str) -> None:
    assert checked(name, "function") is name


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "-a", ".a", "_a", "..", "a/b", "a b", "a\n", "\na", "a\0", "a" * 64),
        *("\u00e4", "a\u0301", "\u0661", "<b>", "a:b"),
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(BadName) as caught:
        checked(name, "function")
    message = str(caught.value)
    assert message.startswith("function name ") and "1 to 63 characters" in message
    assert message.isprintable(), "what was given goes to a terminal"


@pytest.mark.parametrize("name", [None, 7, b"bytes", ["a"]])
def test_things_that_are_no_names(name: str) -> None:
    with pytest.raises(BadName):
        checked(name, "channel")


@given(st.text(max_size=70))
def test_any_text(name: str) -> None:
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789"
    good = 1 <= len(name) <= 63 and name[0] in allowed and all(c in allowed + "._-" for c in name)
    try:
        assert checked(name, "function") == name
        assert good
    except BadName:
        assert not good


@given(st.from_regex(re.compile(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")))
def test_any_good_name(name: str) -> None:
    assert checked(name, "function") == name
