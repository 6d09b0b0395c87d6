"""Messages between two guests, with a steward that looks at them and without: it is to be nothing on their path."""

from __future__ import annotations

import struct
import tempfile
from itertools import pairwise
from pathlib import Path

from ..host import Host
from ..policy.comparisons import StaticPolicy
from .case import Cores
from .cores import run_both
from .guests import MODULE
from .stats import quantile_of

_SIZE = 64
_ROLES = ("ping", "pong")


def message_ns(count: int, *, attended: bool) -> float:
    """What one takes: half of a round trip, the median of so many, over a ring and on one core, where nothing else can
    run beside. The policy that is asked leaves the channels as they are.
    """
    with tempfile.TemporaryDirectory(prefix="cwasi-bench-") as directory, Host(policy=StaticPolicy()) as host:
        if not attended:
            host.switcher = "the benchmark"   # then it is nobody's to change what carries a channel
        ping, pong = (
            host.load(MODULE, role, arguments=(role, str(count), str(_SIZE), "0", "0"), stderr=Path(directory) / role)
            for role in _ROLES
        )
        for name, (sender, receiver) in zip(("there", "back"), pairwise((ping, pong, ping)), strict=True):
            host.connect(name, sender, receiver, transport="ring")
        run_both(Cores.ONE, lambda: host.run(ping), lambda: host.run(pong))
        found = (Path(directory) / "ping").read_bytes()
    _clocks, *trips = (value for (value,) in struct.iter_unpack("<Q", found))
    return quantile_of(sorted(trips), 0.5) / 2
