"""Ends that meet by name: one in each process, whichever comes first.

Each claims its name in the runtime directory. Then the sender knocks at the process of a receiver that is there, and
the receiver asks the process of a sender that is there to meet; as each claims before it looks, one of them finds the
other. The sender's side decides the transport, makes the link, and passes the receiver's end over the connection of the
two, which then tells either side when the other one dies. A death before the receiver has confirmed leaves the other
side waiting, as if nothing had been.

    receiver -> sender   meet (placement) -> link, decision, placement, with descriptors; met -> nothing
    sender -> receiver   knock

Where the name is another process's, and that one hands it over, ours is its successor (see handover).

With a registry in a Redis server (see cluster) they also meet across nodes; whoever is on this node comes first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import calibration, reach, registry
from .cluster import FarTie
from .descriptors import allow_many
from .endpoint import RECEIVER, SENDER
from .handover import HandOver
from .lease import Server
from .meeting import NamedEnd
from .modes import Mode, Transport, parse_mode, parse_transport
from .named_channel import NamedChannel, ReceivedChannel
from .offer import Offer
from .placement import Placement, edge_facts, here
from .policy import CostPolicy, Decision, Policy, decide
from .receiver import Receiver
from .search import Search
from .sender import Sender
from .successor import Successor
from .switch import until_of
from .switch_followed import NamedFollower
from .switch_moved import NamedMove
from .switch_named import NamedSwitch
from .tidy import tidy

ENVIRONMENT = "CWASI_REGISTRY"
"""The URL of a Redis server, where names are found across nodes."""


def open_sender(
    name: str,
    *,
    timeout: float | None = None,
    trust: str = "default",
    mode: Mode | str | None = None,
    transport: Transport | str | None = None,
    redis: str | None = None,
    registry: str | None = None,
    policy: Policy | None = None,
    successor: bool = False,
) -> Sender:
    """The sending end of a channel whose receiver another process, or thread, opens by the same name.

    Waits for it (timeout: seconds; None: for ever), then decides what carries the channel. trust: the label of our
    trust domain. mode, transport: leave the policy only this choice. redis: URL of a server, which makes that transport
    possible. registry: URL of a server where a receiver on another node finds us, by default that in CWASI_REGISTRY;
    without one only those on this node do. policy: CostPolicy by default. successor: goes on in the place of the
    end of that name that another process has, and waits until it hands that over (Sender.hand_over). Without it, too,
    where it does just now.
    Raises Timeout, Busy for a name that has a sender, BadName, BadSpec, RegistryUnavailable, RedisUnavailable,
    TcpUnavailable where a receiver of another node cannot be reached after all.
    """
    server = _server(registry)
    carried_by = redis or (server.url if server is not None else None)
    chosen = policy if policy is not None else CostPolicy(calibration.costs(carried_by))
    asked = parse_mode(mode), parse_transport(transport)

    absent: Mapping[Transport, str] = {}

    def decided(peer: Placement, mine: Placement, missing: Mapping[Transport, str]) -> Decision:
        nonlocal absent
        absent = missing
        facts, what = edge_facts(mine, peer), f"channel {name!r}"
        return decide(chosen, facts, what, mode=asked[0], asked=asked[1], redis=carried_by, missing=missing)

    allow_many()
    until = until_of(timeout)
    with NamedEnd(name, SENDER, here(trust)) as named:
        offer = Offer(named, decided, carried_by)
        NamedMove(named, decided, carried_by)
        sender = Successor(named, until, only=successor).claimed(server, lambda heir: heir.sender(decided, carried_by))
        if sender is None:
            _knock(name)
            meeting = offer.taken(timeout)
            try:
                far = isinstance(meeting.connection, FarTie)
                pointer = reach.opened(meeting.link, None) if far else meeting.link.open(SENDER)
                sender = Sender(pointer, name, meeting.decision.mode)
            except BaseException:
                meeting.link.close()
                meeting.connection.hang_up()
                raise
            named.opened(sender, meeting)
        tidy(sender)
        switch = NamedSwitch(named, carried_by, f"{asked[1] or asked[0]} was asked for" if any(asked) else "")
        sender.switcher = switch.switch
        sender.teller = NamedChannel(named, switch, chosen, carried_by, lambda: absent)
        sender.mover = HandOver(named).hand_over
        return sender


def open_receiver(
    name: str,
    *,
    timeout: float | None = None,
    trust: str = "default",
    registry: str | None = None,
    successor: bool = False,
) -> Receiver:
    """The receiving end of a channel whose sender another process, or thread, opens by the same name.

    Waits for it (timeout: seconds; None: for ever). trust: the label of our trust domain. registry: URL of a server
    where we find a sender on another node, by default that in CWASI_REGISTRY; without one only those on this node.
    successor: as for open_sender.
    Raises Timeout, Busy for a name that has a receiver, BadName, NoTransport, RegistryUnavailable, RedisUnavailable,
    TcpUnavailable for a CWASI_ADDRESS that is none of this machine.
    """
    server = _server(registry)
    allow_many()
    until = until_of(timeout)
    with NamedEnd(name, RECEIVER, here(trust)) as named:
        search = Search(named)
        NamedFollower(named)   # before the sender knows that we have met
        receiver = Successor(named, until, only=successor).claimed(server, Successor.receiver)
        if receiver is None:
            receiver, meeting = search.found(timeout)
            named.opened(receiver, meeting)
        receiver.teller = ReceivedChannel(named)
        receiver.mover = HandOver(named).hand_over
        return receiver


def _server(url: str | None) -> Server | None:
    told = url or os.environ.get(ENVIRONMENT)
    return Server(told) if told else None


def _knock(name: str) -> None:
    """Tells a receiver that was here before us."""
    receiver = registry.holder(name, RECEIVER)
    if receiver is not None:
        registry.tell(receiver.address, "knock", name)
