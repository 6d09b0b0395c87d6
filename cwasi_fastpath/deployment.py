"""A deployment: runs a workflow in one host process or in several, and reports how."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from . import calibration
from .channel import Edge
from .edges import answers_name, decide_all
from .host import Host
from .metrics import ChannelMetrics, EndReport, Observation, channel_metrics
from .modes import Mode, Transport
from .parent import Parent
from .placement import Placement, edge_facts, here
from .policy import CostPolicy, Decision, Policy
from .process import HostProcess
from .spanned import SpannedChannel
from .supervision import end_all, run_all, supervise
from .workflow import End, FunctionSpec, Workflow

if TYPE_CHECKING:
    from .transport.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """How one edge ran."""

    channel: str
    sender: str
    receiver: str
    decision: Decision
    """The last."""
    metrics: ChannelMetrics
    changes: int = 0
    """Of the channel, that the policy made while it ran."""


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
        changes = {channel.name: channel.changes for channel in host.channels}
        ends = [report for channel in host.channels for report in channel.reports()]
        cpu_seconds = {name: guest.cpu_seconds for name, guest in guests.items()}
        return RunReport(_edge_reports(decisions, changes, ends), seconds, cpu_seconds, 1)


def _run_apart(workflow: Workflow, options: Options, groups: list[list[FunctionSpec]]) -> RunReport:
    apart = len({function.trust for function in workflow.functions}) > 1
    policy = CostPolicy(calibration.costs(options.redis))
    channels = _channels_apart(workflow, options, policy, _placements(groups))
    processes: list[HostProcess] = []
    with Parent(policy, options.redis, options.tls) as parent:
        try:
            for group in groups:
                processes.append(HostProcess(group, options.timeout, parent.address, shielded=apart))
            by_function = {
                function.name: process for group, process in zip(groups, processes, strict=True) for function in group
            }
            for channel in channels:
                channel.connect(by_function, options.redis, options.sample, options.tls)
            start = run_all(processes)
            with parent.looking_after(channels, by_function):
                seconds, outcomes = supervise(processes, start, options.timeout)
        finally:
            end_all(processes)
    decisions = {channel.name: channel.decisions for channel in sorted(channels, key=lambda one: one.private)}
    changes = {channel.name: channel.changes for channel in channels}
    ends = [report for outcome in outcomes for report in outcome.ends]
    cpu_seconds = {name: seconds for outcome in outcomes for name, seconds in outcome.cpu_seconds.items()}
    return RunReport(_edge_reports(decisions, changes, ends), seconds, cpu_seconds, len(outcomes))


def _placements(groups: list[list[FunctionSpec]]) -> dict[str, Placement]:
    """Of each function."""
    return {
        function.name: replace(here(function.trust), process=-1 - number)   # pids come later
        for number, group in enumerate(groups)
        for function in group
    }


def _channels_apart(
    workflow: Workflow, options: Options, policy: Policy, placements: Mapping[str, Placement]
) -> list[SpannedChannel]:
    """All of them, those of answers included, as decided, in the order in which they are connected: ways back first."""

    def channel(name: str, senders: tuple[End, ...], receivers: tuple[End, ...], **more: Any) -> SpannedChannel:
        edges = [(sender, receiver) for sender, _ in senders for receiver, _ in receivers]
        facts = {edge: edge_facts(placements[edge[0]], placements[edge[1]]) for edge in edges}
        decisions = decide_all(
            policy,
            name,
            facts,
            mode=options.mode,
            asked=options.transport,
            redis=options.redis,
            observation=options.observed.get(name),
        )
        pinned = "" if options.transport is None else f"{options.transport} was asked for"
        return SpannedChannel(
            name, decisions, senders, receivers, facts=facts, wanted=options.mode, pinned=pinned, **more
        )

    found = []
    for spec in workflow.channels:
        backs = [answers_name(spec.name, caller) for caller, _ in spec.senders] if spec.calls else []
        found += [
            channel(back, (spec.receivers[0],), (caller,), private=True)
            for back, caller in zip(backs, spec.senders, strict=False)
        ]
        found.append(channel(spec.name, spec.senders, spec.receivers, backs=tuple(backs)))
    return found


def _edge_reports(
    decisions: Mapping[str, Mapping[Edge, Decision]], changes: Mapping[str, int], ends: Sequence[EndReport]
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
            reports.append(EdgeReport(channel, sender, receiver, decision, metrics, changes[channel]))
    return tuple(reports)
