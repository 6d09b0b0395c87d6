"""Asks the process that holds the sender of a channel, or that connected it, to switch it."""

from __future__ import annotations

from dataclasses import dataclass

from . import registry
from .census import switchers
from .errors import BadSpec, NoSuchChannel, PeerDied
from .modes import Mode, Transport
from .names import checked

_TRANSPORTS, _MODES = list(Transport), [str(mode) for mode in Mode]

_GRACE = 5.0
"""Seconds beyond the time-out of the switch itself."""


@dataclass(frozen=True, slots=True)
class Switched:
    """What has become of it."""

    channel: str
    transport: str
    mode: str


def ask(channel: str, target: str, timeout: float) -> Switched:
    """Raises NoSuchChannel, BadSpec where several processes have one of that name, and what the switch raised."""
    checked(channel, "channel")
    addresses = switchers(channel)
    if not addresses:
        raise NoSuchChannel(f"no process that can be found holds the sender of channel {channel!r} (cwasi ps)")
    if len(addresses) > 1:
        raise BadSpec(f"there are {len(addresses)} channels {channel!r}: switch the one you mean by its own program")
    body = registry.ask(
        addresses[0], "switch-to", {"target": target, "timeout": timeout}, channel=channel, timeout=timeout + _GRACE
    )
    match body:
        case {"transport": str(transport), "mode": str(mode)} if transport in _TRANSPORTS and mode in _MODES:
            return Switched(channel, transport, mode)
    raise PeerDied(f"the process that holds the sender of channel {channel!r} answered nonsense")
