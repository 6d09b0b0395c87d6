"""What durability costs: that every setting is measured; no test asserts a time."""

from __future__ import annotations

import pytest

from cwasi_fastpath.bench import durable


def test_every_setting_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_SINGLE", 3)
    monkeypatch.setattr(durable, "_MEASURES", {"1 KiB": (1024, 20)})
    said: list[str] = []
    durable.table(1, said.append)
    assert [line.split(" | ")[0] for line in said] == ["", *durable.SETTINGS]
    for line in said[1:]:
        assert all(float(cell.replace(",", "")) > 0 for cell in line.split(" | ")[1:])
