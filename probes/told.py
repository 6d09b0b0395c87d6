"""What the counters have of some functions, in the form in which their hosts are told it."""

from __future__ import annotations

from collections.abc import Set

from ..figures import Figures
from .network import Network
from .scheduling import Scheduling
from .syscalls import Syscalls

_CALLS = ("calls", "calls_ns")
_TURNS = ("off_ns", "queued_ns", "wakeups", "wakeup_ns")
_TRAFFIC = ("sent", "received", "blocked_ns", "retransmits", "samples", "srtt_us")


def figures_of(
    owners: Set[int], syscalls: Syscalls | None, scheduling: Scheduling | None, network: Network | None
) -> dict[int, Figures]:
    """Of these owners, by owner. A counter that is None does not count. To be called with the lock of the probe."""
    counted = [name for names, counter in ((_CALLS, syscalls), (_TURNS, scheduling), (_TRAFFIC, network))
               if counter is not None for name in names]  # fmt: skip
    sums = {owner: dict.fromkeys(counted, 0) for owner in owners}

    def add(owner: int, names: tuple[str, ...], values: tuple[int, ...]) -> None:
        mine = sums[owner]
        for name, value in zip(names, values, strict=True):
            mine[name] += value

    for total in syscalls.totals(owners) if syscalls is not None else ():
        add(total.owner, _CALLS, (total.count, total.ns))
    for one in scheduling.turns(owners) if scheduling is not None else ():
        add(one.owner, _TURNS, (one.off, one.queued, one.wakeups, one.wakeup))
    for link in network.traffic(owners) if network is not None else ():
        if link.kind == "tcp":
            values = (link.sent, link.received, link.blocked, link.retransmits, link.samples, link.srtt)
            add(link.owner, _TRAFFIC, values)
    return {owner: Figures(**mine) for owner, mine in sums.items()}
