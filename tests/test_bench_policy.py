"""`cwasi bench policy` decides about as many edges as it says; no test asserts a time."""

from __future__ import annotations

import json

from click.testing import CliRunner

from cwasi_fastpath.cli.bench import bench


def test_what_decisions_cost() -> None:
    result = CliRunner().invoke(bench, ["policy", "--edges", "5", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["edges"] == 5 and found["core"] == found["steady_us"] * 5 / 1e6 > 0 and found["changed_us"] > 0


def test_for_people() -> None:
    result = CliRunner().invoke(bench, ["policy", "--edges", "5"], catch_exceptions=False)
    assert "5 edges, each decided about once a second:" in result.output
