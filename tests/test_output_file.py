"""What commands write when they are done: where it does not fit on the disk, what was there before stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 240
# As on a full disk, no file gets longer than that from now on; this one is to be told apart from what Python writes.
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))\n"
BENCH = """
import sys
from cwasi_fastpath.bench import page
made = page.page
def page_on_a_full_disk(report):
    text = made(report)
    exec(sys.argv[2])
    return text
page.page = page_on_a_full_disk
from cwasi_fastpath.cli import main
main(["bench", "channel", "--quick", "--seconds", "0.2", "--size", "64", "--only", "sched-yield",
      "--html", sys.argv[1]])
"""
DEMO = """
import sys
from pathlib import Path
from cwasi_fastpath.cli import demo_act
from cwasi_fastpath.live import play, script
found = [play.play(script.parse("first seconds=0.05", "test"), "static")]
exec(sys.argv[2])
demo_act.write(Path(sys.argv[1]), found)
"""
TRACE = """
import json, sys
from pathlib import Path
from test_cli_trace_recording import HEAD, interval
from cwasi_fastpath.cli.trace import report
recording = Path(sys.argv[1] + ".recording")
recording.write_text("".join(json.dumps(line) + "\\n" for line in (HEAD, interval(1), interval(2))))
exec(sys.argv[2])
report.main([str(recording), "-o", sys.argv[1]])
"""


@pytest.mark.parametrize("program", [BENCH, DEMO, TRACE], ids=["bench", "demo", "trace"])
def test_on_a_full_disk_what_was_there_stays(tmp_path: Path, program: str) -> None:
    page = tmp_path / "precious.html"
    page.write_text("precious")
    argv = [sys.executable, "-c", program, str(page)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*argv, FULL], capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode != 0 and "File too large" in done.stderr, done
    assert page.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} <= {page.name, f"{page.name}.recording"}
    done = subprocess.run([*argv, ""], capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0 and page.read_text().startswith("<!doctype html>"), done
