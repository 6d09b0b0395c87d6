"""`cwasi bench switch` measures real switches; no test asserts a time."""

from __future__ import annotations

import json
import os
import shutil
from itertools import permutations

import pytest
from click.testing import CliRunner

from cwasi_fastpath.cli.bench import bench

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server (apt install redis-server)"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only"),
]


def test_every_pair_there_and_back() -> None:
    result = CliRunner().invoke(bench, ["switch", "--switches", "5", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    gaps = json.loads(result.stdout)["gaps"]
    assert {(one["source"], one["target"]) for one in gaps} == set(permutations(("ring", "pipe", "tcp", "redis"), 2))
    for one in gaps:
        assert one["switches"] == 5
        assert 0 < one["p50"] <= one["p99"] <= one["worst"]
        assert 0 < one["usual_p50"] <= one["usual_p99"]


def test_a_table() -> None:
    # Wide: on a busy machine figures get long.
    wide = {"COLUMNS": "200"}
    result = CliRunner().invoke(bench, ["switch", "--switches", "4"], catch_exceptions=False, env=wide)
    assert result.exit_code == 0
    assert "p50 without" in result.stdout and result.stdout.count("redis") == 6
