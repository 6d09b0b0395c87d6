"""A network that nobody goes through: what is known of it ages, and it is tried for a moment whether it has recovered.

Who went from tcp to a server because the network got worse sees nothing of it any more. As time passes it is hoped more
and more that it is as a network is as a rule. That is never sure: it is only what trials come from.
"""

from __future__ import annotations

from math import exp, inf, log
from typing import NamedTuple

from ..modes import Transport
from .history import EdgeHistory
from .model import estimate
from .outlook import Outlook, weighed
from .way import Way

_RECOVERS_SECONDS = 1.0
"""After so long a network that got worse is as likely as not to be as networks are."""


class Hope(NamedTuple):
    """Of the way through that network."""

    place: int
    """Of the outlook."""
    factor: float
    """What it may cost less than by what was seen, as a logarithm; below 0."""


def hope(history: EdgeHistory, outlook: Outlook, cost_ns: list[float], now: float, current: Way | None) -> Hope | None:
    """None where there is none: the network is in use, or its way is as cheap as that in use by what was seen."""
    conditions, here = outlook.conditions, outlook.place(current)
    if not conditions.far or conditions.srtt is None or here is None or not (age := _age(history, now)):
        return None
    index = next((index for index, way in enumerate(outlook.ways) if way.transport is Transport.TCP), here)
    if cost_ns[index] <= cost_ns[here]:
        return None
    usual = estimate(outlook.costs, outlook.ways[index], conditions._replace(srtt=None, network=None))
    better = log(max(1.0, weighed(outlook.objective, usual)) / max(1.0, outlook.cost_ns[index]))
    return Hope(index, (1 - exp(-age / _RECOVERS_SECONDS)) * better) if better < 0.0 else None


def _age(history: EdgeHistory, now: float) -> float:
    """Seconds since the network was seen."""
    seen = history.observation
    if seen is None or history.observed_at is None:
        return 0.0
    if seen.srtt_ns is None:   # longer ago than anybody tells
        return inf
    return 0.0 if seen.network_age is None else seen.network_age + max(0.0, now - history.observed_at)
