"""`cwasi bench policy` measures as many edges and rounds as it says; no test asserts a time."""

from __future__ import annotations

import json

from click.testing import CliRunner

from cwasi_fastpath.cli.bench import bench


def test_what_the_policy_costs() -> None:
    asked = ["policy", "--edges", "5", "--rounds", "1", "--json"]
    result = CliRunner().invoke(bench, asked, catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["edges"] == 5 and len(found["rounds"]) == 1
    assert all(value > 0 for value in found["rounds"][0].values())
    goals = {goal["name"]: goal for goal in found["goals"]}
    share = goals["5 edges, each decided about once a second"]
    assert share["wanted"] == 1.0 and share["verdict"] in ("met", "missed", "undecided")
    assert share["measured"]["median"] == found["rounds"][0]["mean_us"] * 5 / 1e4


def test_for_people() -> None:
    result = CliRunner().invoke(bench, ["policy", "--edges", "5", "--rounds", "1"], catch_exceptions=False)
    for words in ("5 edges, each decided about once a second", "a look at 5 channels, all busy", "a message with one"):
        assert words in result.output
