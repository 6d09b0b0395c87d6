"""A deployment: runs a workflow in one host process or in several, and reports how."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from . import calibration
from .channel import Edge
from .edges import answers_name, decide_all
from .host import Host
from .metrics import ChannelMetrics, EndReport, Observation, channel_metrics
from .modes import Mode, Transport
from .placement import Placement, edge_facts, here
from .policy import CostPolicy, Decision
from .process import HostProcess
from .spanned import SpannedChannel
from .supervision import supervise
from .switch_spanned import SpannedSwitch
from .workflow import FunctionSpec, Workflow

if TYPE_CHECKING:
    from .transport.tls import TlsFiles


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
            chosen = edge.decision
            words = {"mode": str(chosen.mode), "transport": chosen.transport, "reason": chosen.reason}
            edges.append({**asdict(edge), "decision": {**words, "alternatives": chosen.alternatives}})
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
    tls: TlsFiles | None = None
    """What both ends of each channel over tcp show each other."""


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
    with Host(timeout=options.timeout, redis=options.redis, tls=options.tls) as host:
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
        for spec in workflow.channels:
            host.connect(
                spec.name,
                [guests[function] for function, _ in spec.senders],
                [guests[function] for function, _ in spec.receivers],
                mode=options.mode,
                transport=options.transport,
                ports=([port for _, port in spec.senders], [port for _, port in spec.receivers]),
                observation=options.observed.get(spec.name),
                calls=spec.calls,
            )
        for channel in host.channels:
            for sender in channel.senders.values():
                sender.sample(options.sample)
        start = time.monotonic()
        host.run()
        seconds = time.monotonic() - start
        decisions = {channel.name: channel.decisions for channel in host.channels}
        ends = [report for channel in host.channels for report in channel.reports()]
        cpu_seconds = {name: guest.cpu_seconds for name, guest in guests.items()}
        return RunReport(_edge_reports(decisions, ends), seconds, cpu_seconds, 1)


def _run_apart(workflow: Workflow, options: Options, groups: list[list[FunctionSpec]]) -> RunReport:
    apart = len({function.trust for function in workflow.functions}) > 1
    placements = _placements(groups)
    decisions = _decide_apart(workflow, options, placements)
    processes: list[HostProcess] = []
    with SpannedSwitch(options.tls) as switches:
        try:
            for group in groups:
                processes.append(HostProcess(group, options.timeout, switches.address, shielded=apart))
            by_function = {
                function.name: process for group, process in zip(groups, processes, strict=True) for function in group
            }
            channels = _links_apart(workflow, decisions)
            for channel in channels:
                channel.connect(by_function, options.redis, options.sample, options.tls)
            switches.serve(channels, by_function, placements)
            seconds, outcomes = supervise(processes, options.timeout)
        finally:
            for process in processes:
                process.close()
    ends = [report for outcome in outcomes for report in outcome.ends]
    cpu_seconds = {name: seconds for outcome in outcomes for name, seconds in outcome.cpu_seconds.items()}
    return RunReport(_edge_reports(decisions, ends), seconds, cpu_seconds, len(outcomes))


def _placements(groups: list[list[FunctionSpec]]) -> dict[str, Placement]:
    """Of each function."""
    return {
        function.name: replace(here(function.trust), process=-1 - number)   # pids come later
        for number, group in enumerate(groups)
        for function in group
    }


def _decide_apart(
    workflow: Workflow, options: Options, placements: Mapping[str, Placement]
) -> dict[str, dict[Edge, Decision]]:
    """For each channel, those of answers included, a decision for each edge."""
    policy = CostPolicy(calibration.costs(options.redis))

    def decided(channel: str, edges: Sequence[Edge]) -> dict[Edge, Decision]:
        return decide_all(
            policy,
            channel,
            {edge: edge_facts(placements[edge[0]], placements[edge[1]]) for edge in edges},
            mode=options.mode,
            asked=options.transport,
            redis=options.redis,
            observation=options.observed.get(channel),
        )

    decisions = {}
    for spec in workflow.channels:
        decisions[spec.name] = decided(
            spec.name, [(sender, receiver) for sender, _ in spec.senders for receiver, _ in spec.receivers]
        )
        if spec.calls:
            answerer = spec.receivers[0][0]
            for caller, _ in spec.senders:
                back = answers_name(spec.name, caller)
                decisions[back] = decided(back, [(answerer, caller)])
    return decisions


def _links_apart(workflow: Workflow, decisions: dict[str, dict[Edge, Decision]]) -> list[SpannedChannel]:
    """The channels in the order in which they are connected: ways back first."""
    found = []
    for spec in workflow.channels:
        backs = [answers_name(spec.name, caller) for caller, _ in spec.senders] if spec.calls else []
        found += [
            SpannedChannel(back, decisions[back], (spec.receivers[0],), (caller,), private=True)
            for back, caller in zip(backs, spec.senders, strict=False)
        ]
        found.append(SpannedChannel(spec.name, decisions[spec.name], spec.senders, spec.receivers, tuple(backs)))
    return found


def _edge_reports(
    decisions: Mapping[str, Mapping[Edge, Decision]], ends: Sequence[EndReport]
) -> tuple[EdgeReport, ...]:
    found = {(end.channel, end.function, end.sends): end for end in ends}
    reports = []
    for channel, edges in decisions.items():
        senders = list(dict.fromkeys(sender for sender, _ in edges))
        for (sender, receiver), decision in edges.items():
            sent, received = found.get((channel, sender, True)), found.get((channel, receiver, False))
            metrics = channel_metrics(
                [sent.metrics] if sent else [], [received.of_source(senders.index(sender))] if received else []
            )
            reports.append(EdgeReport(channel, sender, receiver, decision, metrics))
    return tuple(reports)
