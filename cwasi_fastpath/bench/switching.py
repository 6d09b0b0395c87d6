"""What a switch costs the messages that meet it: for each pair of transports, how long the slowest of them was under
way.

A thread in C sends 64 bytes every 50 us, another one receives; each message tells when it was sent. Now and then the
sender goes to the next transport first: then the time of the switch is in that of its message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from .._native import check, ffi, lib
from ..channel import open_channel
from ..descriptors import allow_many
from ..endpoint import RECEIVER, SENDER
from ..transport import Link
from ..transport.target import link_to
from .case import Cores
from .cores import run_both
from .stats import quantile_of

PERIOD_NS = 50_000
SIZE = 64

_BETWEEN = 60
"""Messages between two switches."""
_AFTER = 20
"""Messages after a switch that may have met it."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """What the switches from one transport to another did to the messages. Latencies in us, from send to receipt."""

    source: str
    target: str
    switches: int
    p50: float
    """Of the slowest message at each switch."""
    p99: float
    worst: float
    usual_p50: float
    """Of the slowest of as many messages that met no switch: what the machine does by itself."""
    usual_p99: float


def measure(transports: dict[str, str], switches: int) -> Iterator[tuple[Gaps, Gaps]]:
    """For each pair of them, there and back. transports: by name, what Sender.switch takes. Raises what calls raise."""
    allow_many()
    for one, other in combinations(transports, 2):
        slowest, usual = _run([transports[one], transports[other]], 2 * switches)
        yield _gaps(one, other, slowest[0::2], usual), _gaps(other, one, slowest[1::2], usual)


def _run(targets: Sequence[str], switches: int) -> tuple[list[float], list[float]]:
    """The slowest message at each switch, and of each as many messages that met none, us."""
    count = (switches + 1) * _BETWEEN
    tx, rx = open_channel("there", targets[0])
    answers, answered = open_channel("back")
    took, messages = ffi.new("uint64_t[]", count), [ffi.new("uint8_t[]", SIZE) for _ in range(2)]
    fresh, links = ffi.new("cwasi_channel *[]", 2 * switches), []
    for number in range(switches):
        link = link_to(targets[(number + 1) % 2], key="there")
        fresh[2 * number], fresh[2 * number + 1] = link.open(SENDER), link.open(RECEIVER)
        links.append(link)

    def source() -> None:
        drive = _drive(tx.pointer, answered.pointer, messages[0], count, ffi.NULL)
        check(lib.cwasi_drive_switching(drive, PERIOD_NS, rx.pointer, fresh, switches), "source")

    def sink() -> None:
        check(lib.cwasi_drive_sink(_drive(answers.pointer, rx.pointer, messages[1], count, took)), "sink")

    with tx, rx, answers, answered:
        run_both(Cores.TWO, source, sink)
    _close(links)
    slowest = [max(took[at : at + _AFTER]) / 1e3 for at in range(0, count, _AFTER)]
    every = _BETWEEN // _AFTER
    return slowest[every::every], [one for at, one in enumerate(slowest) if at % every]


def _close(links: list[Link]) -> None:
    for link in links:
        link.close()


def _drive(tx: object, rx: object, message: object, count: int, took: object) -> object:
    return ffi.new("cwasi_drive *", (tx, rx, message, SIZE, count, -1, took))


def _gaps(source: str, target: str, slowest: Sequence[float], usual: Sequence[float]) -> Gaps:
    ordered, others = sorted(slowest), sorted(usual)
    quantiles = (quantile_of(those, at) for those in (ordered, others) for at in (0.5, 0.99))
    p50, p99, usual_p50, usual_p99 = quantiles
    return Gaps(source, target, len(ordered), p50, p99, ordered[-1], usual_p50, usual_p99)
