"""The reader of network.bpf.c, and of what round_trips.bpf.c adds to it."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from .past import Counted, Key, of_owners, put, take_out
from .probe import LOST_TRAFFIC, Counter, fitting, summed

KINDS = ("other", "tcp")  # enum traffic_kind
_OPEN = 0  # enum socket_state


@dataclass(frozen=True, slots=True)
class Traffic(Counted):
    """What went through the sockets of one kind of one owner."""

    NAMES = ("owner", "kind")

    kind: str
    sends: int
    sent: int
    receives: int
    received: int
    blocked: int  # ns
    connects: int
    retransmits: int
    samples: int
    srtt: int  # us, sum over the samples
    cwnd: int  # segments, sum over the samples


class Network(Counter):
    """Counts what the traced threads send and receive."""

    name = "network"
    source = "network.bpf.c"
    programs = (
        ("sock_send_length", "on_send"),
        ("sock_recv_length", "on_receive"),
        ("inet_sock_set_state", "on_state"),
        ("tcp_retransmit_skb", "on_retransmit"),
    )
    remedy = "use Linux 6.3 or newer, which has sock_send_length and sock_recv_length"

    def __init__(self) -> None:
        self._past: dict[Key, Traffic] = {}

    def defines(self, cpus: int) -> dict[str, int]:
        """See Counter."""
        return {"SOCKETS": 65536, "TRAFFIC": fitting(80, cpus, 8 << 20, 1024, 4096)}

    def traffic(self, owners: Set[int] | None = None) -> Iterator[Traffic]:
        """Every owner's so far, of one kind in one or two. owners: of these only."""
        yield from of_owners(self._past.values(), owners)
        for key, cpus in self.probe.map("traffic").items():
            if owners is None or key.owner in owners:
                yield _traffic(key, cpus)

    def lost(self) -> int:
        """Events that were not counted: a map was full, or the kernel skipped a program's run."""
        return self.probe.lost()[LOST_TRAFFIC] + self.skipped()

    def forget(self) -> None:
        """See Counter."""
        self.probe.map("traffic").clear()
        self.probe.map("sockets").clear()

    def awake(self, owners: Set[int]) -> Set[int]:
        """See Counter: the owners of sockets that are open, for what the kernel sends again."""
        found = {int(key.owner) for key in self.probe.map("traffic").keys()} & owners  # noqa: SIM118 - a bcc table
        if not found:
            return set()
        return found & {int(socket.owner) for socket in self.probe.map("sockets").values() if socket.state == _OPEN}

    def put_away(self, owners: Set[int]) -> None:
        """See Counter."""
        for key, cpus in take_out(self.probe.map("traffic"), lambda key: key.owner in owners):
            put(self._past, _traffic(key, cpus))


def _traffic(key: Any, cpus: Any) -> Traffic:
    return Traffic(
        owner=int(key.owner),
        kind=KINDS[key.kind],
        sends=summed(cpus, "sends"),
        sent=summed(cpus, "sent"),
        receives=summed(cpus, "receives"),
        received=summed(cpus, "received"),
        blocked=summed(cpus, "blocked"),
        connects=summed(cpus, "connects"),
        retransmits=summed(cpus, "retransmits"),
        samples=summed(cpus, "samples"),
        srtt=summed(cpus, "srtt"),
        cwnd=summed(cpus, "cwnd"),
    )
