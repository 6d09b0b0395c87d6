"""Runs the Python tests in several pytest processes at once: side_by_side.py [PYTEST-OPTION...]. Most tests wait most
of the time, so that two sessions take little more than half of the time of one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

AT_ONCE = 2
BATCHES = 20
"""More than go at once: so nobody waits for long for a session that turns out to be slow."""
SLOW = {"test_run", "test_switch_spanned", "test_nodes", "test_nodes_deaths", "test_switch_cut", "test_switch"}
"""They take several times as long as their length says, so they go first."""

HERE = Path(__file__).parent
NO_TESTS = 5   # a status of pytest
OUTCOMES = ("passed", "failed", "error", "errors", "skipped", "xfailed", "xpassed", "deselected")


def batches() -> list[list[Path]]:
    """All test files, in lists of about the same length in lines, the longest files first."""
    sizes = {path: len(path.read_text().splitlines()) * (4 if path.stem in SLOW else 1)
             for path in HERE.rglob("test_*.py")}   # fmt: skip
    made: list[list[Path]] = [[] for _ in range(BATCHES)]
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        min(made, key=lambda batch: sum(sizes[one] for one in batch)).append(path)
    return sorted(made, key=lambda batch: -sum(sizes[one] for one in batch))


def session(batch: list[Path], options: list[str]) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *map(str, batch)]
    return subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcomes(output: str) -> Iterator[tuple[str, int]]:
    """What a session's last line says."""
    for count, what in re.findall(r"(\d+) (\w+)", output.strip().rpartition("\n")[2]):
        if what in OUTCOMES:
            yield what.removesuffix("s") if what == "errors" else what, int(count)


def main(options: list[str]) -> int:
    began, total, failed = time.monotonic(), Counter[str](), False
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for running in as_completed([pool.submit(session, batch, options) for batch in batches()]):
            done = running.result()
            print(done.stdout, flush=True)
            failed |= done.returncode not in (0, NO_TESTS)
            total.update(dict(outcomes(done.stdout)))
    told = ", ".join(f"{count} {what}" for what, count in total.items())
    print(f"tests/side_by_side.py: {told} in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
