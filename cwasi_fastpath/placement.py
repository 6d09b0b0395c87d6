"""Where functions run, and whom they trust: the facts that a policy may not overrule."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .credentials import Credentials
from .modes import EdgeFacts, Locality
from .names import checked

_NODES = Path("/sys/devices/system/node")

_CONTAINER = re.compile(r"(?:^|[/:.-])([0-9a-f]{12,64})(?:\.scope)?$")
"""How container runtimes name the control group of a container."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one function runs."""

    node: str
    """The kernel's boot id: the same for all containers of a node, another after a restart."""
    process: int
    """The host process; functions with the same number share it. 0 for one of a pid namespace that we do not see."""
    uid: int
    trust: str = "default"
    """The trust domain's label; with the uid it decides who may share memory."""
    started: int = 0
    """When the process was, in clock ticks from the start of the node: a number that is used again is another process.
    0 where that is not known.
    """
    pid_namespace: int = 0
    """The number (inode) of its namespace of process ids; 0 where that is not known."""
    network: int = 0
    """The number of its network namespace; 0 where that is not known."""
    cgroup: str = ""
    """The path of its control group, of version 2 if that has any controllers, else of version 1."""
    cpus: tuple[int, ...] = ()
    """On which its threads may run."""
    numa: tuple[int, ...] = ()
    """The memory nodes of these."""

    def as_plain(self) -> dict[str, Any]:
        """For another process, which checks it."""
        return asdict(self)


def here(trust: str = "default") -> Placement:
    """The placement of a function in this process. Raises BadName."""
    return replace(_of_process(os.getpid()), trust=checked(trust, "trust domain"))


def of_peer(peer: Credentials, claims: object) -> Placement:
    """The placement of a process that is connected to us. What the kernel knows of it counts, and what it claims itself
    only where we cannot look: it is on this node, has the uid of its socket, and no pid but the one that we see.

    Raises BadName for a trust label that is none.
    """
    said = claims if isinstance(claims, dict) else {}
    seen = _of_visible(peer.pid)
    return Placement(
        node=boot_id(),
        process=peer.pid,
        uid=peer.uid,
        trust=checked(said.get("trust", "default"), "trust domain"),
        started=seen.started or _number(said.get("started")),
        pid_namespace=seen.pid_namespace or _number(said.get("pid_namespace")),
        network=seen.network or _number(said.get("network")),
        cgroup=seen.cgroup or _text(said.get("cgroup")),
        cpus=seen.cpus or _numbers(said.get("cpus")),
        numa=seen.numa or _numbers(said.get("numa")),
    )


def elsewhere(claims: dict[str, Any]) -> Placement:
    """The placement of a process on another node, as it says itself; nobody here can check it. Raises BadName.

    One that has our kernel, and yet does not share our runtime directory, counts as another node of its own.
    """
    node, network = _text(claims.get("node")), _number(claims.get("network"))
    return Placement(
        node=f"{node}/{network}" if node == boot_id() else node,
        process=_number(claims.get("process")),
        uid=_number(claims.get("uid")),
        trust=checked(claims.get("trust", "default"), "trust domain"),
        started=_number(claims.get("started")),
        pid_namespace=_number(claims.get("pid_namespace")),
        network=network,
        cgroup=_text(claims.get("cgroup")),
        cpus=_numbers(claims.get("cpus")),
        numa=_numbers(claims.get("numa")),
    )


def edge_facts(sender: Placement, receiver: Placement) -> EdgeFacts:
    """What two placements mean for the edge between them."""
    if sender.node != receiver.node:
        locality = Locality.ELSEWHERE
    elif (sender.process, sender.started) != (receiver.process, receiver.started):
        locality = Locality.NODE
    else:
        locality = Locality.PROCESS
    return EdgeFacts(
        locality=locality,
        same_user=sender.uid == receiver.uid,
        same_trust=sender.trust == receiver.trust,
    )


def container_of(cgroup: str) -> str:
    """The id of the container, shortened, as far as a control group tells; else nothing."""
    found = _CONTAINER.search(cgroup)
    return found[1][:12] if found else ""


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The name of this node until it is restarted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@lru_cache(maxsize=1)
def _of_process(pid: int) -> Placement:
    """Ours. pid: so that a forked child asks anew."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    return Placement(
        node=boot_id(),
        process=pid,
        uid=os.getuid(),
        started=started("self"),
        pid_namespace=_namespace("self", "pid"),
        network=_namespace("self", "net"),
        cgroup=_cgroup("self"),
        cpus=cpus,
        numa=numa_nodes(cpus),
    )


def _of_visible(pid: int) -> Placement:
    """What /proc tells of another process; nothing where it does not."""
    if pid <= 0:
        return Placement(boot_id(), 0, 0)
    try:
        cpus = tuple(sorted(os.sched_getaffinity(pid)))
    except OSError:
        cpus = ()
    return Placement(
        node=boot_id(),
        process=pid,
        uid=0,
        started=started(str(pid)),
        pid_namespace=_namespace(str(pid), "pid"),
        network=_namespace(str(pid), "net"),
        cgroup=_cgroup(str(pid)),
        cpus=cpus,
        numa=numa_nodes(cpus),
    )


def numa_nodes(cpus: tuple[int, ...], nodes: Path = _NODES) -> tuple[int, ...]:
    """The memory nodes that these CPUs belong to; none where the kernel knows of none."""
    found = []
    for directory in nodes.glob("node[0-9]*"):
        try:
            theirs = parsed_list((directory / "cpulist").read_text())
        except (OSError, ValueError):
            continue
        if theirs & set(cpus):
            found.append(int(directory.name.removeprefix("node")))
    return tuple(sorted(found))


def parsed_list(text: str) -> set[int]:
    """A list of CPUs as the kernel writes it: 0-3,8. Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def cgroup_of(lines: str) -> str:
    """The control group of which /proc/PID/cgroup tells: that of version 2, unless it is only the root and version 1
    has another (a hybrid system puts the containers there).
    """
    unified, older = "", ""
    for line in lines.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            unified = path
        else:
            older = max(older, path, key=len)
    return unified if len(unified) > 1 or not older else older


def started(process: str) -> int:
    """When a process was, as in a placement; 0 where there is none. process: its number, or self."""
    try:
        # The name, in parentheses, may be anything.
        return int(Path("/proc", process, "stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def _cgroup(process: str) -> str:
    try:
        return cgroup_of(Path("/proc", process, "cgroup").read_text())
    except OSError:
        return ""


def _namespace(process: str, kind: str) -> int:
    try:
        return Path("/proc", process, "ns", kind).stat().st_ino
    except OSError:
        return 0


# What a peer says may be anything.


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(_number(one) for one in value[:4096]) if isinstance(value, list) else ()


def _text(value: object) -> str:
    return "".join(char for char in value[:4096] if char.isprintable()) if isinstance(value, str) else ""
