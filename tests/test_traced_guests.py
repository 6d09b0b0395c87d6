"""What the tracer says of real guests: who made which system call, and how few of them a ring takes."""

from __future__ import annotations

import sys
from pathlib import Path

from tracing import attached, owner_name, traced

TWO_WRITERS = """
import sys
import cwasi_fastpath as cwasi

with cwasi.Host() as host:
    for name, count in (("few", "23"), ("many", "1009")):
        # Files of their own: wasmtime joins what guests write to one inherited stream.
        host.load(sys.argv[1] + "/writer.wasm", name, arguments=[count], stdout=sys.argv[2] + "/" + name)
    host.run()
"""

STREAM = """
import sys
import cwasi_fastpath as cwasi

with cwasi.Host() as host:
    ends = [host.load(f"{sys.argv[1]}/{name}.wasm", arguments=[sys.argv[3], "64"]) for name in ("source", "sink")]
    host.connect("stream", *ends, transport=sys.argv[2], ports=("out", "in"))
    host.run()
"""
MESSAGES = 20_011


def test_two_functions_in_one_process_are_told_apart(guests: Path, tmp_path: Path) -> None:
    with attached() as tracer:
        report = traced(tracer, [sys.executable, "-c", TWO_WRITERS, str(guests), str(tmp_path)])
    writes = {owner_name(row.owner): (row.count, row.bytes) for row in report.rows if row.syscall == "write"}
    assert writes["few"] == (23, 23)
    assert writes["many"] == (1009, 1009)


def test_a_ring_takes_no_system_call_a_message(guests: Path) -> None:
    """A pipe takes one to write each message; a ring only those of its few sleeps and wakes."""
    calls = {}
    with attached() as tracer:
        for transport in ("ring", "pipe"):
            command = [sys.executable, "-c", STREAM, str(guests), transport, str(MESSAGES)]
            report = traced(tracer, command)
            calls[transport] = sum(row.count for row in report.rows if owner_name(row.owner) in ("source", "sink"))
    assert calls["pipe"] > MESSAGES
    assert calls["ring"] < MESSAGES / 2
