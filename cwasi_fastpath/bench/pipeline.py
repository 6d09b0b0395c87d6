"""The picture pipeline over each kind of channel: what the demo runs, and what it makes of the figures."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .. import errors
from ..trace_report import SyscallRow, TraceReport

if TYPE_CHECKING:
    from ..tracer import Tracer

STAGES = ("decode", "grey", "blur", "edges", "encode")
CHANNELS = ("rgb", "grey", "blurred", "edges")
ROWS_PER_BAND = 16

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to join the same functions."""

    key: str
    title: str
    mode: str | None
    """For `cwasi run --mode`; None: the program written by hand."""


SCENARIOS = (
    Scenario("redis", "through Redis", "remote"),
    Scenario("byhand", "by hand (shared memory)", None),
    Scenario("proximal", "proximal (a process each)", "proximal"),
    Scenario("policy", "as the policy chooses", "auto"),
)


@dataclass(frozen=True, slots=True)
class Phase:
    """What the source does. Full speed shows throughput; a paced source, with which nothing queues, shows latency."""

    key: str
    frames: int
    interval_us: int


@dataclass(frozen=True, slots=True)
class Job:
    """What a demo runs on."""

    functions: Path
    """Directory of the compiled functions."""
    picture: Path
    output: Path


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scenario."""

    scenario: Scenario
    phase: Phase
    report: dict[str, Any]
    trace: TraceReport | None
    sha256: str
    """Of the picture that was written."""
    said: str
    """What the last function said of all frames: their number and checksum."""

    @property
    def messages(self) -> int:
        return sum(edge["metrics"]["received"] for edge in self.report["edges"])

    @property
    def bytes(self) -> int:
        return sum(edge["metrics"]["bytes"] for edge in self.report["edges"])

    def syscalls(self) -> int | None:
        """Made by the functions, and by a server between them; None untraced."""
        return None if self.trace is None else sum(row.count for row in self._rows(self.trace))

    def copied(self) -> int | None:
        """Bytes copied by the channels' ends and by read, write, send and receive calls; None untraced."""
        if self.trace is None:
            return None
        in_user_space: int = sum(edge["metrics"]["copied_bytes"] for edge in self.report["edges"])
        return in_user_space + sum(row.bytes for row in self._rows(self.trace))

    @staticmethod
    def _rows(trace: TraceReport) -> Iterator[SyscallRow]:
        for row in trace.rows:
            if row.function in STAGES or str(row.owner) == "[redis-server]":
                yield row


def phases(quick: bool) -> tuple[Phase, ...]:
    """The phases of one round."""
    frames = 4 if quick else 20
    return Phase("paced", max(2, frames // 5), 4000), Phase("full speed", frames, 0)


def run(job: Job, scenario: Scenario, phase: Phase, tracer: Tracer | None, earlier: Run | None) -> Run:
    """Runs one scenario in processes of its own. Raises Error with what they said.

    earlier: a run whose measurements the policy may use.
    """
    with tempfile.TemporaryDirectory(prefix="cwasi-demo-") as directory:
        output = Path(directory) / "picture.jpg"
        arguments = {"decode": [str(phase.frames), str(ROWS_PER_BAND), str(phase.interval_us)], "encode": ["jpg"]}
        argv = _command(job, scenario, arguments, output, Path(directory))
        if scenario.mode == "auto" and earlier is not None:
            observed = Path(directory) / "observed.json"
            observed.write_text(json.dumps(earlier.report))
            argv += ["--observed", str(observed)]
        before = tracer.snapshot() if tracer else None
        stdout, stderr = _call(argv, tracer, scenario)
        trace = tracer.snapshot().since(before) if tracer and before else None
        picture = output.read_bytes()
    if scenario.key == "policy":
        job.output.write_bytes(picture)
    said = next((line for line in stderr.splitlines() if line.startswith("encode: ")), "")
    return Run(scenario, phase, json.loads(stdout), trace, hashlib.sha256(picture).hexdigest(), said)


def _command(
    job: Job, scenario: Scenario, arguments: dict[str, list[str]], output: Path, directory: Path
) -> list[str]:
    python = [sys.executable, "-P", "-m"]
    edges = list(zip(CHANNELS, STAGES, STAGES[1:], strict=False))
    if scenario.mode is not None:
        functions = [" ".join([f"'{job.functions}/{stage}.wasm'", *arguments.get(stage, [])]) for stage in STAGES]
        connections = [word for edge in edges for word in ("--connect", ":".join(edge))]
        transport = ["--transport", "redis"] if scenario.key == "redis" else []
        options = ["--mode", scenario.mode, *transport, "--input", str(job.picture), "--output", str(output)]
        return [*python, "cwasi_fastpath.cli", "run", *functions, *connections, *options, "--sample", "1", "--json"]
    workflow = {
        "functions": [
            {
                "name": stage,
                "path": str(job.functions / f"{stage}.wasm"),
                "arguments": arguments.get(stage, []),
                "stdin": str(job.picture) if stage == STAGES[0] else None,
                "stdout": str(output) if stage == STAGES[-1] else None,
            }
            for stage in STAGES
        ],
        "edges": [{"channel": channel, "sender": a, "receiver": b} for channel, a, b in edges],
    }
    path = directory / "workflow.json"
    path.write_text(json.dumps(workflow))
    return [*python, "cwasi_fastpath.bench.byhand", str(path)]


def _call(argv: Sequence[str], tracer: Tracer | None, scenario: Scenario) -> tuple[str, str]:
    spawn = tracer.spawn if tracer else subprocess.Popen
    child = spawn(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        stdout, stderr = child.communicate(timeout=_TIMEOUT_SECONDS)
    except BaseException as error:
        child.send_signal(signal.SIGINT)   # lets it end its own children
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise errors.GuestTimeout(f"{scenario.title}: not done after {_TIMEOUT_SECONDS} s") from error
        raise
    if child.returncode != 0:
        reason = " / ".join(line for line in stderr.splitlines() if line.strip()) or "no reason given"
        failure = errors.GuestExit(f"{scenario.title}: {reason[-2000:]}", child.returncode)
        raise failure
    return stdout, stderr


@dataclass(frozen=True, slots=True)
class Summary:
    """One scenario's figures: medians over its runs."""

    scenario: Scenario
    processes: int
    p50_ns: float
    """Median over the edges of a message's median time from send to receipt, nothing queued."""
    p99_ns: float
    """The worst edge's 99th percentile."""
    seconds: float
    """A run at full speed, all loaded, from start to end."""
    mib_per_second: float
    """Payload over all edges in that time."""
    cpu_seconds: float
    """CPU time of the functions' own threads in that run."""
    syscalls_per_message: float | None
    copied_per_byte: float | None
    """Bytes copied for each byte of payload."""
    copied_per_message: float | None


def summarise(runs: Sequence[Run], scenario: Scenario) -> Summary:
    """The figures of one scenario."""
    mine = [run for run in runs if run.scenario is scenario]
    paced = [run for run in mine if run.phase.interval_us]
    full = [run for run in mine if not run.phase.interval_us]

    def edge_values(run: Run, key: str) -> list[float]:
        return [edge["metrics"][key] for edge in run.report["edges"] if edge["metrics"][key] is not None]

    traced = [run for run in full if run.trace is not None]
    return Summary(
        scenario=scenario,
        processes=full[0].report["processes"],
        p50_ns=median(median(edge_values(run, "p50_ns")) for run in paced),
        p99_ns=median(max(edge_values(run, "p99_ns")) for run in paced),
        seconds=median(run.report["seconds"] for run in full),
        mib_per_second=median(run.bytes / 2**20 / run.report["seconds"] for run in full),
        cpu_seconds=median(sum(run.report["cpu_seconds"].values()) for run in full),
        syscalls_per_message=median((run.syscalls() or 0) / run.messages for run in traced) if traced else None,
        copied_per_byte=median((run.copied() or 0) / run.bytes for run in traced) if traced else None,
        copied_per_message=median((run.copied() or 0) / run.messages for run in traced) if traced else None,
    )


def disagreement(runs: Sequence[Run]) -> str | None:
    """What differs between runs that must agree to the byte; None where nothing does."""
    pictures = {run.sha256 for run in runs}
    if len(pictures) > 1:
        return f"{len(pictures)} different pictures came out: " + ", ".join(
            sorted({f"{run.scenario.key} {run.sha256[:12]}" for run in runs})
        )
    for frames in {run.phase.frames for run in runs}:
        said = {run.said for run in runs if run.phase.frames == frames}
        if len(said) > 1 or "" in said:
            return f"the checksums of {frames} frames differ: {sorted(said)}"
    return None
