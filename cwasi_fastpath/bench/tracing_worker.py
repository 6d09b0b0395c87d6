"""A process that makes system calls, traced or not.

    python -m cwasi_fastpath.bench.tracing_worker                  does what comes as JSON on standard input
    python -m cwasi_fastpath.bench.tracing_worker SECONDS RATE     makes so many calls a second

What comes, one a line, each answered by a line: {"calls": N, "repeats": N, "function": NAME or null} with the ns of a
call in the fastest of so many runs, {"calls": N, "threads": N} with the ns that N calls in each of so many threads
took.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._native import lib
from ..attribution import function

_BATCHES_A_SECOND = 100


def main() -> None:
    """Serves until there is nothing more to read."""
    for line in sys.stdin:
        print(json.dumps(_done(json.loads(line))), flush=True)


def _done(wanted: dict[str, Any]) -> float:
    if "threads" in wanted:
        return _at_once(wanted["calls"], wanted["threads"])
    with contextlib.nullcontext() if wanted["function"] is None else function(wanted["function"]):
        fastest: int = min(lib.cwasi_drive_calls(wanted["calls"]) for _ in range(wanted["repeats"]))
    return fastest / float(wanted["calls"])


def _at_once(calls: int, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter_ns()
        list(pool.map(lib.cwasi_drive_calls, [calls] * threads))
        return time.perf_counter_ns() - start


def pace(seconds: float, rate: float) -> None:
    """One call of each batch is the sleep before it."""
    begin = time.monotonic()
    for number in range(int(seconds * _BATCHES_A_SECOND)):
        time.sleep(max(0.0, begin + number / _BATCHES_A_SECOND - time.monotonic()))
        lib.cwasi_drive_calls(round(rate / _BATCHES_A_SECOND) - 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        pace(float(sys.argv[1]), float(sys.argv[2]))
    else:
        main()
