"""What was counted of functions that are gone is kept, but not without end."""

from __future__ import annotations

import pytest

from cwasi_fastpath.probes import past as kept
from cwasi_fastpath.probes.past import NOBODY, Key, put
from cwasi_fastpath.probes.syscalls import Times, Total


def test_counts_of_one_owner_and_call_are_added_up() -> None:
    past: dict[Key, Total] = {}
    for owner, number, count in ((7, 1, 2), (7, 1, 3), (7, 2, 5), (8, 1, 11)):
        put(past, Total(owner, number, count, 10 * count, 0, 1, count))
    assert sorted(past.values(), key=lambda total: total.key) == [
        Total(7, 1, 5, 50, 0, 2, 5),
        Total(7, 2, 5, 50, 0, 1, 5),
        Total(8, 1, 11, 110, 0, 1, 11),
    ]


def test_histograms_are_added_bucket_by_bucket() -> None:
    past: dict[Key, Times] = {}
    put(past, Times(7, 1, (1, 2, 3)))
    put(past, Times(7, 1, (10, 20, 30)))
    assert list(past.values()) == [Times(7, 1, (11, 22, 33))]


def test_what_is_too_much_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MOST", 3)
    past: dict[Key, Total] = {}
    for owner in range(1, 10):
        for number in (1, 2):
            put(past, Total(owner, number, 1, 1, 0, 0, 0))
    assert sum(total.count for total in past.values()) == 18, "none is lost"
    assert len(past) == 3 + 2
    assert {total.owner for total in past.values()} == {1, 2, NOBODY}
