"""All ends on this node that can be found, by asking each process that holds some."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from . import registry
from .description import DESCRIBE, EndDescription, parsed
from .errors import Corrupted, Error, PeerDied

_PROCESS_SECONDS = 2.0
"""For one process; who does not answer by then is left out."""
_PAGES = 1000


def census() -> tuple[list[EndDescription], list[str]]:
    """The ends, by channel, senders first; and what went wrong, a line for each process. Raises RegistryUnavailable."""
    ends: list[EndDescription] = []
    failures: list[str] = []
    for address in registry.addresses():
        try:
            ends += _of_process(address)
        except PeerDied:
            continue   # it ended meanwhile, or was killed before
        except Error as error:
            failures.append(str(error))
    return sorted(ends, key=lambda end: (end.channel, end.role != "sender", end.function or "", end.pid)), failures


def switchers(channel: str) -> list[str]:
    """The addresses of the processes that can switch a channel of that name: one for each that there is. Raises
    RegistryUnavailable.
    """
    found, _ = census()
    holding = [end for end in found if (end.channel, end.role) == (channel, "sender") and end.state != "closed"]
    return sorted({end.switcher or end.address for end in holding})


def _of_process(address: str) -> Iterator[EndDescription]:
    first = 0
    who = registry.alive(address)
    if who is None:
        raise PeerDied(f"the process {address} is gone")
    until = time.monotonic() + _PROCESS_SECONDS
    for _ in range(_PAGES):
        body = registry.ask(address, DESCRIBE, {"from": first}, timeout=max(0.01, until - time.monotonic()))
        page = body.get("ends")
        if not isinstance(page, list):
            raise Corrupted(f"the process {address} describes its ends in a way that we do not know")
        # What it calls its own pid is another one where pid namespaces differ.
        for end in map(parsed, page):
            yield replace(end, pid=who.pid or end.pid, foreign=not who.pid, address=address)
        following = body.get("next")
        if not isinstance(following, int) or following <= first:
            return
        first = following
