"""Ways that were never used here: what was measured of the machine may have been too high for one of them, and nothing
shows that as long as nobody looks.

Few calibrations are so wrong that it matters, so a look is worth it only where what is found lasts: where things have
been as they are for some minutes. It takes one window, of which there were hundreds before.
"""

from __future__ import annotations

from math import log

from .history import EdgeHistory
from .outlook import Outlook
from .unseen import Hope
from .way import Way

_SECONDS, _WINDOWS = 300.0, 300
"""In which nothing has changed; twice as many for each look before. A way that is looked at costs twice as much as that
in use at most, as far as is known: so looks cost less than one message in three hundred."""
_TOO_HIGH = 2.0
"""So many times what it costs may have been measured."""


def untried(
    history: EdgeHistory, outlook: Outlook, cost_ns: list[float], now: float, current: Way | None
) -> Hope | None:
    """Of the cheapest way that was not used under these conditions; None where it is too early, or none is left."""
    if history.windows < _WINDOWS or history.changed is None or (here := outlook.place(current)) is None:
        return None
    before = [trial.way for trial in history.trials if trial.brief and trial.way != history.trying]
    since = max(history.changed, history.since or history.changed)
    if history.windows < _WINDOWS * 2 ** len(before) or now - since < _SECONDS * 2 ** len(before):
        return None
    least, found = _TOO_HIGH * cost_ns[here], None
    for index, ns in enumerate(cost_ns):
        if ns < least and index != here and outlook.ways[index] not in before and not used(history, outlook, index):
            least, found = ns, index
    return None if found is None else Hope(found, -log(_TOO_HIGH))


def used(history: EdgeHistory, outlook: Outlook, index: int) -> bool:
    """Whether messages were measured on that way, under such conditions."""
    way, kind = outlook.ways[index], outlook.kind_at(index)
    return any(record.kind == kind and record.way == way for record in history.records)
