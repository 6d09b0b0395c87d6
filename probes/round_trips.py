"""The user's side of round_trips.bpf.c; what it counts is read by network.py."""

from __future__ import annotations

from collections.abc import Set

from . import tracefs
from .loader import ProbeError
from .probe import Counter

_FIELDS = ("skaddr", "srtt", "snd_cwnd")


class RoundTrips(Counter):
    """Samples the connections of the traced threads whenever a segment comes."""

    name = "round-trip times and congestion windows"
    source = "round_trips.bpf.c"
    programs = (("tcp/tcp_probe", "on_tcp_probe"),)
    remedy = "run as root, or mount -t tracefs tracefs /sys/kernel/tracing, on a kernel whose tcp_probe has them"

    def defines(self, cpus: int) -> dict[str, int]:
        """See Counter."""
        self._tracepoint = tracefs.describe(self.programs[0][0])
        offsets = self._tracepoint.offsets
        lacking = [field for field in _FIELDS if field not in offsets or offsets[field] % 4]
        if lacking:
            raise ProbeError(f"this kernel's tcp_probe has no {' and no '.join(lacking)}")
        return {f"PROBE_{field.upper()}": offsets[field] // 4 for field in _FIELDS}

    def attach(self) -> None:
        """See Counter."""
        self.probe.attach_tracepoint(self._tracepoint, self.programs[0][1])

    def put_away(self, owners: Set[int]) -> None:
        """Network does."""

    def forget(self) -> None:
        """Network does."""
