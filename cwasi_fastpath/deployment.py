"""A deployment: runs a workflow in one host process or in several, and reports how."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from . import calibration
from .host import Host, decide
from .metrics import ChannelMetrics, EndMetrics, Observation, channel_metrics
from .modes import Mode, Transport
from .placement import Placement, edge_facts, here
from .policy import CostPolicy, Decision
from .process import HostProcess, Outcome, supervise
from .workflow import FunctionSpec, Workflow


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """How one edge ran."""

    channel: str
    sender: str
    receiver: str
    decision: Decision
    metrics: ChannelMetrics


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a workflow ran."""

    edges: tuple[EdgeReport, ...]
    seconds: float
    """From the start of the functions, all loaded, to the end of the last."""
    cpu_seconds: dict[str, float]
    """CPU time of each function's thread: its own work, its copies, and its waiting where it spun."""
    processes: int

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        edges = []
        for edge in self.edges:
            row = asdict(edge)
            row["decision"]["mode"] = str(edge.decision.mode)
            edges.append(row)
        return {
            "schema": 1,
            "edges": edges,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "processes": self.processes,
        }


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a workflow."""

    mode: Mode | None = None
    """None: the policy chooses among what the placement allows."""
    transport: Transport | None = None
    redis: str | None = None
    timeout: float | None = None
    sample: int = 64
    """One message in so many is timed (a power of two)."""
    observed: Mapping[str, Observation] = field(default_factory=dict)
    """By channel, what an earlier run measured: the policy predicts from it."""


def run(workflow: Workflow, options: Options) -> RunReport:
    """Runs a workflow to its end.

    Functions share this process, unless they are in different trust domains or a farther mode is asked for: then each
    trust domain, or each function, has a host process of its own.
    Raises what the functions raise, HostDied, NoTransport, BadSpec, RedisUnavailable.
    """
    groups = _groups(workflow, options.mode)
    if len(groups) == 1:
        return _run_here(workflow, options)
    return _run_apart(workflow, options, groups)


def _groups(workflow: Workflow, mode: Mode | None) -> list[list[FunctionSpec]]:
    """Which functions share a host process."""
    if mode in (Mode.PROXIMAL, Mode.REMOTE):
        return [[function] for function in workflow.functions]
    domains: dict[str, list[FunctionSpec]] = {}
    for function in workflow.functions:
        domains.setdefault(function.trust, []).append(function)
    return list(domains.values())


def _run_here(workflow: Workflow, options: Options) -> RunReport:
    with Host(timeout=options.timeout, redis=options.redis) as host:
        guests = {
            function.name: host.load(
                function.path,
                function.name,
                arguments=function.arguments,
                stdin=function.stdin,
                stdout=function.stdout,
                trust=function.trust,
            )
            for function in workflow.functions
        }
        channels = []
        for edge in workflow.edges:
            channel = host.connect(
                edge.channel,
                guests[edge.sender],
                guests[edge.receiver],
                mode=options.mode,
                transport=options.transport,
                ports=(edge.sender_port, edge.receiver_port),
                observation=options.observed.get(edge.channel),
            )
            if channel.sender is not None:
                channel.sender.sample(options.sample)
            channels.append(channel)
        start = time.monotonic()
        host.run()
        seconds = time.monotonic() - start
        reports = [
            EdgeReport(edge.channel, edge.sender, edge.receiver, channel.decision, channel.metrics())
            for edge, channel in zip(workflow.edges, channels, strict=True)
        ]
        return RunReport(tuple(reports), seconds, {name: guest.cpu_seconds for name, guest in guests.items()}, 1)


def _run_apart(workflow: Workflow, options: Options, groups: list[list[FunctionSpec]]) -> RunReport:
    decisions = _decide_apart(workflow, options, groups)
    processes: list[HostProcess] = []
    try:
        for group in groups:
            processes.append(HostProcess(group, options.timeout))
        by_function = {
            function.name: process for group, process in zip(groups, processes, strict=True) for function in group
        }
        for edge in workflow.edges:
            by_function[edge.sender].connect(
                edge, decisions[edge.channel], by_function[edge.receiver], redis=options.redis, sample=options.sample
            )
        seconds, outcomes = supervise(processes, options.timeout)
    finally:
        for process in processes:
            process.close()
    return _joined_report(workflow, decisions, seconds, outcomes)


def _decide_apart(workflow: Workflow, options: Options, groups: list[list[FunctionSpec]]) -> dict[str, Decision]:
    policy = CostPolicy(calibration.costs(options.redis))
    placements: dict[str, Placement] = {}
    for number, group in enumerate(groups):
        for function in group:
            placements[function.name] = replace(here(function.trust), process=-1 - number)   # pids come later
    return {
        edge.channel: decide(
            policy,
            edge_facts(placements[edge.sender], placements[edge.receiver]),
            f"channel {edge.channel!r} from {edge.sender} to {edge.receiver}",
            mode=options.mode,
            asked=options.transport,
            redis=options.redis,
            observation=options.observed.get(edge.channel),
        )
        for edge in workflow.edges
    }


def _joined_report(
    workflow: Workflow, decisions: dict[str, Decision], seconds: float, outcomes: list[Outcome]
) -> RunReport:
    ends: dict[tuple[str, str], EndMetrics] = {}
    cpu_seconds: dict[str, float] = {}
    for outcome in outcomes:
        ends.update(outcome.ends)
        cpu_seconds.update(outcome.cpu_seconds)
    reports = [
        EdgeReport(
            edge.channel,
            edge.sender,
            edge.receiver,
            decisions[edge.channel],
            channel_metrics(ends.get((edge.channel, "sender")), ends.get((edge.channel, "receiver"))),
        )
        for edge in workflow.edges
    ]
    return RunReport(tuple(reports), seconds, cpu_seconds, len(outcomes))
