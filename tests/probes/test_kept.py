"""Compiled probes are kept, and only what is as it was written, by us, is used again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cwasi_fastpath.cache import ENVIRONMENT
from cwasi_fastpath.probes import kept
from cwasi_fastpath.probes.compiled import Compiled, MapDefinition

CODE = bytes.fromhex("181100000000000000000000000000009500000000000000")   # what a program does with map 0; exit
MAP = MapDefinition("one", 1, 4, 8, 23, 0, "unsigned int", ["pair", [["a", "int"], ["b", "char", [4]]]])
COMPILED = Compiled((MAP,), {"on_it": CODE})


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept_is_found_by_its_key_only() -> None:
    assert kept.find("k") is None
    kept.keep("k", COMPILED)
    assert kept.find("k") == COMPILED
    assert kept.find("l") is None


def test_keys_are_of_the_parts_and_not_of_their_sum() -> None:
    assert len({kept.key_of("ab", "c"), kept.key_of("a", "bc"), kept.key_of("abc"), kept.key_of("abc", "")}) == 4


def test_what_is_damaged_or_of_another_key_is_not_used(directory: Path) -> None:
    kept.keep("k", COMPILED)
    file = directory / "k.probes"
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert kept.find("k") is None
        file.write_bytes(whole[:at])
        assert kept.find("k") is None
    file.write_bytes(whole)
    assert kept.find("k") == COMPILED
    file.rename(directory / "l.probes")
    assert kept.find("l") is None


def test_what_others_can_write_is_not_used(directory: Path) -> None:
    kept.keep("k", COMPILED)
    file = directory / "k.probes"
    for path in (directory, file):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        assert kept.find("k") is None
        path.chmod(mode)
        assert kept.find("k") == COMPILED
    file.rename(directory / "elsewhere")
    file.symlink_to(directory / "elsewhere")
    assert kept.find("k") is None


def test_nothing_is_written_where_others_can(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    kept.keep("k", COMPILED)
    assert list(directory.iterdir()) == []


def test_where_nothing_can_be_kept_nothing_is_said(directory: Path) -> None:
    directory.write_text("in the way")
    kept.keep("k", COMPILED)
    assert kept.find("k") is None


def test_what_is_just_kept_makes_no_room(directory: Path) -> None:
    """Though others seem as new, or newer, by the clock of files."""
    kept.keep("k", COMPILED)
    soon = (directory / "k.probes").stat().st_mtime_ns + 10**12
    for number in range(16):
        kept.keep(f"k{number}", COMPILED)
        os.utime(directory / f"k{number}.probes", ns=(soon, soon))
    kept.keep("latest", COMPILED)
    assert kept.find("latest") == COMPILED


def test_the_oldest_make_room(directory: Path) -> None:
    kept.keep("k", COMPILED)
    (directory / "another's").touch()
    for number in range(23):
        kept.keep(f"k{number}", COMPILED)
    assert len(list(directory.iterdir())) == 16 + 1
    assert kept.find("k22") == COMPILED
