"""The network namespaces of this node: their addresses, and which of them has a way to which, as netlink tells. The
library takes a tenth of a second to import: nothing for who is in a hurry.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_GLOBAL = 0
"""The scope of addresses by which other nodes may reach us: neither of the loopback nor of one wire only."""
_UNICAST = 1
"""The type of a route that leads out of its namespace."""
_ELSEWHERE = "198.51.100.1"
"""An address for documentation, which nobody has."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one namespace sends to another, as far as its own routes tell."""

    to: int
    """The number of that namespace."""
    address: str
    """One of that namespace's."""
    device: str
    source: str
    """The address that is sent from, by which the other one may answer."""
    gateway: str
    """Nothing where the address is on the same wire."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network namespace."""

    number: int
    """As in a placement."""
    name: str
    """As `ip netns` knows it; else nothing."""
    seen: bool
    """Whether we may look inside: into another one than ours only root may."""
    addresses: tuple[str, ...] = ()
    """Those of devices that are up; what a process in it can announce to others."""
    outward: str = ""
    """The one of them that goes where no nearer route leads; nothing without a default route."""
    ways: tuple[Way, ...] = ()
    """To the others that were asked for."""


def networks(processes: Mapping[int, int]) -> list[Network]:
    """Looks into namespaces. processes: by the number of each, a process that is in it."""
    with ExitStack() as stack:
        inside = {number: stack.enter_context(_netlink(number, pid)) for number, pid in processes.items()}
        found = [_looked(number, netlink) for number, netlink in inside.items()]
        return [replace(one, ways=_ways(one, inside[one.number], found)) for one in found]


@contextmanager
def _netlink(number: int, process: int) -> Iterator[Any]:
    """A connection to the kernel from inside of a namespace; None where that is not permitted, or it is gone."""
    from pyroute2 import IPRoute

    path = Path("/proc", str(process), "ns/net")
    with ExitStack() as stack:
        netlink = None
        try:
            if number == Path("/proc/self/ns/net").stat().st_ino:
                netlink = stack.enter_context(IPRoute())
            elif path.stat().st_ino == number and os.geteuid() == 0:
                netlink = stack.enter_context(IPRoute(netns=str(path), flags=0))
        except OSError:   # it ended meanwhile, or this root may not
            pass
        yield netlink


def _looked(number: int, netlink: Any) -> Network:
    if netlink is None:
        return Network(number, _name(number), seen=False)
    up = {link["index"] for link in netlink.get_links() if link["state"] == "up"}
    addresses = [
        one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")   # which of these it is differs where a peer is set
        for one in netlink.get_addr()
        if one["scope"] == _GLOBAL and one["index"] in up
    ]
    outward = _route(netlink, _ELSEWHERE)
    return Network(
        number, _name(number), True, tuple(addresses), outward.get_attr("RTA_PREFSRC") or "" if outward else ""
    )


def _name(number: int) -> str:
    from pyroute2 import netns

    for name in netns.listnetns():
        try:
            if Path(netns.NETNS_RUN_DIR, name).stat().st_ino == number:
                return str(name)
        except OSError:
            continue
    return ""


def _ways(network: Network, netlink: Any, all_of_them: list[Network]) -> tuple[Way, ...]:
    """One to each of the others that has an address."""
    if netlink is None:
        return ()
    found = []
    for other in all_of_them:
        if other is network:
            continue
        for address in other.addresses:
            route = _route(netlink, address)
            if route is not None:
                found.append(
                    Way(
                        other.number,
                        address,
                        netlink.link("get", index=route.get_attr("RTA_OIF"))[0].get_attr("IFLA_IFNAME"),
                        route.get_attr("RTA_PREFSRC") or "",
                        route.get_attr("RTA_GATEWAY") or "",
                    )
                )
                break
    return tuple(found)


def _route(netlink: Any, address: str) -> Any:
    """That to an address outside; None where there is none."""
    from pyroute2 import NetlinkError

    try:
        (route,) = netlink.route("get", dst=address, family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    except NetlinkError:
        return None
    return route if route["type"] == _UNICAST else None
