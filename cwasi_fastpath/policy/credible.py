"""What of a calibration is not believed: figures that other figures of it speak against.

A way that was measured too high, as somebody else ran meanwhile, would never be tried: it looks dear, and nothing shows
that it is not. Of two cores there is a second opinion: a small message takes two hops of a cache line, a copy in and
out, and beside these about as long as two system calls.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from .costs import Costs
from .service import ERROR_OF_PARTS
from .way import TWO_CORES

_SMALL_BYTES = 1024
"""Of larger messages it is not known well enough what they take to speak against what was measured."""
_TIMES = 3.0
"""What takes more than so many times as long was disturbed. Of 39 calibrations on one machine 38 had 0.8 to 1.1, and
one had 3.8, which was in truth like the others."""


def credible(costs: Costs) -> Costs:
    """The same, where nothing is to be doubted."""
    curve = costs.curves.get(TWO_CORES)
    if curve is None or not costs.hop or curve.sizes[0] > _SMALL_BYTES:
        return costs
    expected = [2 * (costs.hop + costs.syscall + costs.copy_byte * size) for size in curve.sizes]
    if curve.latency_ns[0] <= _TIMES * expected[0]:
        return costs
    pairs = zip(curve.latency_ns, expected, strict=True)
    latency = tuple(parts if ns > _TIMES * parts else ns for ns, parts in pairs)
    doubted = replace(curve, latency_ns=latency, error=max(curve.error, ERROR_OF_PARTS))
    return replace(costs, curves=MappingProxyType({**costs.curves, TWO_CORES: doubted}))
