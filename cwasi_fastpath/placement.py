"""Where functions run, and whom they trust: the facts that a policy may not overrule."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .modes import EdgeFacts, Locality
from .names import checked


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one function runs."""

    node: str
    """The kernel's boot id: the same for all containers of a node, another after a restart."""
    process: int
    """The host process; functions with the same number share it."""
    uid: int
    trust: str = "default"
    """The trust domain's label; with the uid it decides who may share memory."""


def here(trust: str = "default") -> Placement:
    """The placement of a function in this process. Raises BadName."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Placement(boot_id, os.getpid(), os.getuid(), checked(trust, "trust domain"))


def edge_facts(sender: Placement, receiver: Placement) -> EdgeFacts:
    """What two placements mean for the edge between them."""
    if sender.node != receiver.node:
        locality = Locality.ELSEWHERE
    elif sender.process != receiver.process:
        locality = Locality.NODE
    else:
        locality = Locality.PROCESS
    return EdgeFacts(
        locality=locality,
        same_user=sender.uid == receiver.uid,
        same_trust=sender.trust == receiver.trust,
    )
