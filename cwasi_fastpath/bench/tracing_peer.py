"""A tracer in a process of its own, with a traced worker: attaching is as slow as it is for who has just begun.

    python -m cwasi_fastpath.bench.tracing_peer full|light

The first line of standard output has the seconds that attaching took. Then each line of standard input goes to the
worker; what comes back is its answer with what the tracer counted meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

_WORKER = [sys.executable, "-m", "cwasi_fastpath.bench.tracing_worker"]


def main(light: bool) -> None:
    """Serves until there is nothing more to read. Raises TracerUnavailable."""
    from ..tracer import Tracer

    start = time.perf_counter()
    with Tracer(light) as tracer:
        print(json.dumps(time.perf_counter() - start), flush=True)
        with tracer.spawn(_WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as worker:
            assert worker.stdin is not None and worker.stdout is not None
            for line in sys.stdin:
                before = tracer.snapshot()
                worker.stdin.write(line)
                answer = json.loads(worker.stdout.readline())
                found = tracer.snapshot().since(before)
                counted = sum(row.count for row in found.rows if row.syscall == "getppid")
                print(json.dumps({"answer": answer, "counted": counted, "lost": found.lost}), flush=True)
            worker.stdin.close()


if __name__ == "__main__":
    main(sys.argv[1] == "light")
