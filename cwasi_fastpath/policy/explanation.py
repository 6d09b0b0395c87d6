"""Says why: the reason of a decision, its basis, and what is expected of each alternative."""

from __future__ import annotations

from math import exp

from ..metrics import nonsense, sane
from ..modes import Locality, Transport
from .choice import Choice, Likely
from .decision import Request, ruled_out, ruled_out_way
from .history import EdgeHistory
from .model import ASSUMED_BYTES, Prediction, ways_of
from .outlook import Outlook
from .way import Way


def explained(request: Request, outlook: Outlook, found: Likely) -> tuple[Prediction, ...]:
    """A prediction or an obstacle for every way: the cheapest first, at the end those that are ruled out."""
    possible = [
        Prediction(way, ns, ns / exp(1.96 * error), ns * exp(1.96 * error))
        for way, ns, error in zip(outlook.ways, found.cost_ns, found.errors, strict=True)
    ]
    possible.sort(key=lambda one: one.ns)
    return (*possible, *_obstacles(request))


def _obstacles(request: Request) -> list[Prediction]:
    """Of a transport that is ruled out, once."""
    found = []
    for transport in Transport:
        if (why := ruled_out(request, transport)) is not None:
            found.append(Prediction(Way(transport), 0.0, ruled_out=why))
            continue
        ways = [way for way in ways_of(request.ways) if way.transport is transport] or [Way(transport)]
        obstacles = {way: ruled_out_way(request, way) for way in ways}
        found += [Prediction(way, 0.0, ruled_out=why) for way, why in obstacles.items() if why is not None]
    return found


def reason_of(request: Request, choice: Choice, chosen: Prediction, basis: str, *, alone: bool) -> str:
    """Why this way."""
    where, us = f"the peer is {request.facts.locality}", chosen.ns / 1000
    if alone:
        return f"{where}; the only transport left, {us:.1f} us a message predicted, {basis}"
    if choice.why in ("first", "best"):
        return f"{where}; cheapest at {us:.1f} us a message predicted, {basis}"
    gain = f"{choice.best} would save {choice.saves / 1000:.2g} us of {us:.2g} us a message"
    stays = {
        "new": f"{gain}, but the last switch is only just done",
        "small": f"{gain}, which is too little",
        "unsure": f"{gain}, give or take {choice.sure / 1000:.2g} us, which is not sure enough",
        "dear": f"{gain}, less than the switch takes",
    }
    if choice.why in stays:
        return f"{where}; {stays[choice.why]}; {basis}"
    if choice.why == "mistake":
        return f"{where}; by {request.current} far fewer messages came than before the switch; {basis}"
    if choice.why == "look":
        network = request.facts.locality is Locality.ELSEWHERE and choice.way.transport is Transport.TCP
        why = "its network may be good again" if network else "it may have been measured too high"
        return f"{where}; tried for a moment, as {why}; {basis}"
    tried = "tried, as it may be cheaper" if choice.why == "trial" else "cheaper"
    return f"{where}; {tried} than {request.current}: {us:.1f} us a message predicted, {basis}"


def basis_of(request: Request, history: EdgeHistory, now: float) -> str:
    """What was observed, and when."""
    told = request.observation if history.observation is None else history.observation
    seen = None if told is None else sane(told)
    if seen is None or seen.messages == 0:
        return f"assuming {ASSUMED_BYTES / 1024:.0f} KiB messages, none seen yet"
    basis = f"{seen.messages} messages of {seen.mean_bytes / 1024:.1f} KiB seen"
    if seen.latency_ns is not None:
        basis += f", {seen.latency_ns / 1000:.1f} us each"
    if history.observed_at is not None and now - history.observed_at >= 1.0:
        basis += f", {now - history.observed_at:.0f} s ago"
    return basis


def lacks(request: Request, history: EdgeHistory) -> tuple[str, ...]:
    """What was not known."""
    seen = request.observation
    if seen is None or seen.messages == 0:
        return ()
    found = [f"{name} was no possible value, and was left out" for name in nonsense(seen)]
    wanted = {
        "latency_ns": "no latency was measured",
        "others": "what else runs on the cores was not seen" if seen.contention is None else "",
        "cpu_ns": "the ends' CPU time was not seen" if request.objective.cpu else "",
        "srtt_ns": "the network was not measured" if request.facts.locality is Locality.ELSEWHERE else "",
    }
    return (*found, *(why for name, why in wanted.items() if why and getattr(seen, name) is None))
