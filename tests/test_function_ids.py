"""Numbers of functions: few indexes, for ever so many functions one after the other, and never one number for two."""

from __future__ import annotations

import random

from cwasi_fastpath.function_ids import INDEXES, OTHER, FunctionIds

NAMED = INDEXES - 3


def used(ids: FunctionIds, name: str) -> int:
    number = ids.take(name)
    if number != OTHER:
        ids.give_back(name)
    return number


def test_a_function_keeps_its_number_while_there_is_room() -> None:
    ids = FunctionIds()
    numbers = [used(ids, f"f{i}") for i in range(NAMED)]
    assert numbers == list(range(1, NAMED + 1))
    assert [used(ids, f"f{i}") for i in range(NAMED)] == numbers


def test_no_number_ever_stands_for_two_functions() -> None:
    ids, owner = FunctionIds(), {}
    for i in range(10_000):
        number = used(ids, f"f{i}")
        assert 1 <= number % INDEXES <= NAMED
        assert owner.setdefault(number, i) == i
    assert sum(1 for _ in ids.items()) == NAMED


def test_what_is_in_use_is_never_taken_away() -> None:
    """Even where all of a table is; what finds no room is not given back, either."""
    ids = FunctionIds()
    held = {f"held{i}": ids.take(f"held{i}") for i in range(NAMED)}
    assert ids.take("late") == OTHER and "late" not in ids
    assert dict(ids.items()) == held
    ids.give_back("held7")
    late = ids.take("late")
    assert late % INDEXES == held["held7"] and late != held["held7"]
    assert "held7" not in ids and ids.take("held7") == OTHER


def test_the_one_that_was_left_longest_ago_goes_first() -> None:
    ids = FunctionIds()
    for i in range(NAMED):
        used(ids, f"f{i}")
    used(ids, "f0")   # again
    used(ids, "new")
    assert "f0" in ids and "f1" not in ids


def test_at_random() -> None:
    """Blocks of more functions than there is room for open and close; all that is open has the number that it got."""
    rng = random.Random(1009)
    ids, open_blocks, owner = FunctionIds(), [], {}
    for _ in range(50_000):
        if len(open_blocks) < NAMED // 2 or rng.random() < 0.5:
            name = f"f{rng.randrange(5 * NAMED)}"
            number = ids.take(name)
            if number != OTHER:
                assert owner.setdefault(number, name) == name
                open_blocks.append((name, number))
        else:
            name, number = open_blocks.pop(rng.randrange(len(open_blocks)))
            assert dict(ids.items())[name] == number
            ids.give_back(name)
    assert len(owner) > NAMED
