"""What happened on an edge, with the cost of every way at every time: what policies are replayed on.

A file of lines of JSON: a header, a line for each block, and a last one that says how many there were, so that a file
that was cut off is seen. The format is described in docs/policy.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BadSpec
from ..modes import EdgeFacts, Locality
from .costs import Costs, number
from .way import Way

KIND = "cwasi-policy-trace"
SCHEMA = 1
_HERE = EdgeFacts(Locality.PROCESS)
SHORTEST, _LONGEST, _LATEST = 1e-6, 3600.0, 1e8
"""Seconds: of a block; of its messages; and until it begins."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of the messages of one block on one way."""

    latency_ns: float
    """From send to receipt, the mean."""
    cpu_ns: float | None = None
    contention: float | None = None
    parked: float = 0.0
    rate: float | None = None
    """Messages a second, where these follow the way: each waits for the one before it."""
    others: float | None = None
    """Cores that others kept busy in the meantime, where that was measured of each way."""
    halves: tuple[Measured, Measured] | None = None
    """Of two runs, one after the other, of which this is the mean: the noise of one is not in the other."""
    modelled: bool = False
    """It was not measured: it is what the model says."""


@dataclass(frozen=True, slots=True)
class Block:
    """A short time, in which every way was measured. The fields are those of an Observation."""

    at: float
    """Its begin, seconds since that of the trace."""
    seconds: float
    messages: int
    size: float
    measured: Mapping[Way, Measured] = field(hash=False)
    """By way; what is missing was not possible then."""
    facts: EdgeFacts = _HERE
    burst: float | None = None
    others: float | None = None
    srtt_ns: float | None = None
    bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """One edge's time."""

    name: str
    costs: Costs
    """What was measured of the machine before."""
    blocks: tuple[Block, ...]
    changes: tuple[float, ...] | None = None
    """When something changed, where that is known."""
    about: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Where it is from: machine, command, ..."""

    @property
    def ways(self) -> list[Way]:
        """All that were possible at some time."""
        return sorted({way for block in self.blocks for way in block.measured})

    @property
    def seconds(self) -> float:
        return sum(block.seconds for block in self.blocks)

    @property
    def note(self) -> str:
        """What is to be known of it where not all was measured; else empty."""
        if not any(one.modelled for block in self.blocks for one in block.measured.values()):
            return ""
        seen = sum(not all(one.modelled for one in block.measured.values()) for block in self.blocks)
        return (
            f"The way in use was measured in {seen:,} of {len(self.blocks):,} blocks. "
            "Ways that were not used are priced by the model: their regret is the model's, not measured."
        )


def lines_of(trace: Trace) -> Iterator[str]:
    """The lines of its file."""
    yield _line({
        "kind": KIND, "schema": SCHEMA, "name": trace.name, "about": dict(trace.about),
        "changes": None if trace.changes is None else list(trace.changes), "costs": trace.costs.to_plain(),
    })  # fmt: skip
    for block in trace.blocks:
        plain: dict[str, Any] = {name: getattr(block, name) for name in _NEEDED}
        plain |= {name: value for name in _OPTIONAL if (value := getattr(block, name)) is not None}
        facts = block.facts
        plain["facts"] = [facts.locality.name.lower(), facts.same_user, facts.same_trust]
        plain["measured"] = {str(way): _plain(one) for way, one in block.measured.items()}
        yield _line(plain)
    yield _line({"end": len(trace.blocks)})


_NEEDED = ("at", "seconds", "messages", "size")
_OPTIONAL = ("burst", "others", "srtt_ns", "bytes_per_second")
_FIGURES = ("latency_ns", "cpu_ns", "contention", "parked", "rate", "others")


def _line(plain: dict[str, Any]) -> str:
    return json.dumps(plain, separators=(",", ":")) + "\n"


def _plain(one: Measured) -> dict[str, Any]:
    plain = {name: value for name in _FIGURES if (value := getattr(one, name)) is not None}
    if one.modelled:
        plain["modelled"] = True
    return plain if one.halves is None else {**plain, "halves": [_plain(half) for half in one.halves]}


def read(lines: Iterable[str], name: str) -> Trace:
    """The trace of these lines. name: of the file, for messages. Raises BadSpec for anything that is none."""
    header: dict[str, Any] | None = None
    blocks: list[Block] = []
    end = None
    for count, line in enumerate(lines, 1):
        where = f"{name}, line {count}"
        if end is not None:
            raise BadSpec(f"{where}: there is something after the end")
        plain = _object(line, where, first=header is None)
        try:
            if header is None:
                header = _header(plain)
                costs = Costs.from_plain(plain.get("costs"))
            elif "end" in plain:
                end = plain["end"]
            else:
                blocks.append(_block(plain, blocks[-1] if blocks else None))
        except BadSpec as error:
            raise BadSpec(f"{where}: {error}") from None
    if header is None:
        raise BadSpec(f"{name} is empty: no trace")
    if end != len(blocks):
        raise BadSpec(f"{name} is cut off after {len(blocks)} blocks: record it again")
    if not blocks:
        raise BadSpec(f"{name} has no blocks")
    return Trace(str(header["name"]), costs, tuple(blocks), header["changes"], header["about"])


def _object(line: str, where: str, *, first: bool) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        plain = None
    if isinstance(plain, dict):
        return plain
    if first:
        raise BadSpec(f"{where}: this is no trace of cwasi policy record or generate, and no recording of cwasi-trace")
    raise BadSpec(f"{where}: no object of JSON; the file is damaged or cut off: record it again")


def _header(plain: dict[str, Any]) -> dict[str, Any]:
    if plain.get("kind") != KIND:
        raise BadSpec("this is no trace of cwasi policy record or generate, and no recording of cwasi-trace")
    if plain.get("schema") != SCHEMA:
        raise BadSpec(f"its format is {plain.get('schema')!r}, and this version reads {SCHEMA}")
    about, changes = plain.get("about", {}), plain.get("changes")
    if not isinstance(about, dict) or not isinstance(plain.get("name"), str) or not plain["name"].isprintable():
        raise BadSpec("name is a printable text, and about an object")
    try:
        json.dumps(about, allow_nan=False)
    except (ValueError, RecursionError):   # 1e999 is infinite
        raise BadSpec("about has a number that is none, or too large") from None
    if changes is not None:
        if not isinstance(changes, list):
            raise BadSpec("changes is a list of seconds, or null")
        changes = tuple(sorted(number({"changes": change}, "changes") for change in changes))
    return {"name": plain["name"], "about": about, "changes": changes}


def _block(plain: dict[str, Any], before: Block | None) -> Block:
    found: dict[str, Any] = {name: number(plain, name) for name in _NEEDED}
    found |= {name: number(plain, name) for name in _OPTIONAL if plain.get(name) is not None}
    found["messages"] = int(found["messages"])
    if found["seconds"] < SHORTEST or found["at"] > _LATEST:
        raise BadSpec(f"a block takes {SHORTEST * 1e6:g} us or more, and begins in the first {_LATEST:g} s")
    if before is not None and found["at"] < before.at:
        raise BadSpec("blocks come in the order of their times")
    measured = plain.get("measured")
    if not isinstance(measured, dict) or not measured:
        raise BadSpec("measured has what was measured of one way at least")
    ways = {Way.parse(name): _measured(one) for name, one in measured.items()}
    for name, one in ways.items():
        rates = [part.rate for part in (one, *(one.halves or ())) if part.rate is not None]
        if rates and found["messages"] > _LONGEST * min(rates):
            raise BadSpec(f"the messages of a block take {_LONGEST:g} s or less, and not those by {name} at their rate")
    return Block(**found, measured=ways, facts=_facts(plain.get("facts", ["process", True, True])))


def _measured(plain: object, *, whole: bool = True) -> Measured:
    if not isinstance(plain, dict):
        raise BadSpec("what was measured of a way is an object of JSON")
    found: dict[str, Any] = {name: number(plain, name) for name in _FIGURES if plain.get(name) is not None}
    if "latency_ns" not in found:
        raise BadSpec("latency_ns was not measured")
    if found.get("rate") == 0:
        raise BadSpec("rate is how many messages come a second, and some do")
    found["modelled"] = plain.get("modelled", False)
    if not isinstance(found["modelled"], bool):
        raise BadSpec("modelled is true for what was not measured, else false")
    if whole and (halves := plain.get("halves")) is not None:
        if not isinstance(halves, list) or len(halves) != 2:
            raise BadSpec("halves are two: what was measured in each of two runs")
        found["halves"] = tuple(_measured(half, whole=False) for half in halves)
        if "rate" in found and any(half.rate is None for half in found["halves"]):
            raise BadSpec("rate is of each half, too, where it is of the whole")
    return Measured(**found)


def _facts(plain: object) -> EdgeFacts:
    try:
        locality, same_user, same_trust = plain if isinstance(plain, list) else ("", True, True)
        return EdgeFacts(Locality[locality.upper()], bool(same_user), bool(same_trust))
    except (AttributeError, KeyError, ValueError):
        raise BadSpec(
            f"facts are [{' or '.join(place.name.lower() for place in Locality)}, same user, same trust], not {plain!r}"
        ) from None
