"""Fast, observable data exchange between WebAssembly functions.

Layout, from near the user to near the machine; each layer imports only what stands below it:

    cli, bench         commands, measurements
    workflow, process  functions and edges in one or several host processes
    host, guest        a process with an engine; an instance of a function
    policy, placement  who decides, and on which facts
    rendezvous         open_sender, open_receiver: ends that meet by name
    channel            Sender, Receiver, open_channel
    transport          ring, pipe, redis
    _native, csrc      the data plane
    registry, control  names on a node; the thread that answers other processes
    tracer, probes     the witness: what the kernel saw
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    BadModule,
    BadName,
    BadSpec,
    Busy,
    Cancelled,
    ChannelClosed,
    ChannelError,
    Corrupted,
    Error,
    GuestError,
    GuestExit,
    GuestTimeout,
    GuestTrap,
    HostDied,
    MessageTooLong,
    MissingImport,
    NoSuchChannel,
    NoTransport,
    PeerDied,
    RedisUnavailable,
    RegistryUnavailable,
    TcpUnavailable,
    Timeout,
    Unavailable,
    WouldWait,
)
from .modes import Locality, Mode, Transport

if TYPE_CHECKING:
    from ._wasmtime import install
    from .attribution import function
    from .channel import Channel, open_channel, open_ends
    from .durable import durable_receiver, durable_sender
    from .guest import Guest
    from .host import Host
    from .metrics import ChannelMetrics, EndMetrics, Observation
    from .policy import Cores, CostPolicy, Decision, Limits, Objective, Policy, Request, Way
    from .receiver import Receiver, wait
    from .rendezvous import open_receiver, open_sender
    from .sender import Sender
    from .shield import shield

__version__ = "0.1.0"

# Loaded when first used: importing wasmtime alone takes some 40 ms.
_LAZY = {
    "Channel": ".channel",
    "ChannelMetrics": ".metrics",
    "Cores": ".policy",
    "CostPolicy": ".policy",
    "Decision": ".policy",
    "EndMetrics": ".metrics",
    "Guest": ".guest",
    "Host": ".host",
    "Limits": ".policy",
    "Objective": ".policy",
    "Observation": ".metrics",
    "Policy": ".policy",
    "Receiver": ".receiver",
    "Request": ".policy",
    "Sender": ".sender",
    "Way": ".policy",
    "durable_receiver": ".durable",
    "durable_sender": ".durable",
    "function": ".attribution",
    "install": "._wasmtime",
    "open_channel": ".channel",
    "open_ends": ".channel",
    "open_receiver": ".rendezvous",
    "open_sender": ".rendezvous",
    "shield": ".shield",
    "wait": ".receiver",
}

__all__ = [
    "BadModule",
    "BadName",
    "BadSpec",
    "Busy",
    "Cancelled",
    "Channel",
    "ChannelClosed",
    "ChannelError",
    "ChannelMetrics",
    "Cores",
    "Corrupted",
    "CostPolicy",
    "Decision",
    "EndMetrics",
    "Error",
    "Guest",
    "GuestError",
    "GuestExit",
    "GuestTimeout",
    "GuestTrap",
    "Host",
    "HostDied",
    "Limits",
    "Locality",
    "MessageTooLong",
    "MissingImport",
    "Mode",
    "NoSuchChannel",
    "NoTransport",
    "Objective",
    "Observation",
    "PeerDied",
    "Policy",
    "Receiver",
    "RedisUnavailable",
    "RegistryUnavailable",
    "Request",
    "Sender",
    "TcpUnavailable",
    "Timeout",
    "Transport",
    "Unavailable",
    "Way",
    "WouldWait",
    "durable_receiver",
    "durable_sender",
    "function",
    "install",
    "open_channel",
    "open_ends",
    "open_receiver",
    "open_sender",
    "shield",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)
