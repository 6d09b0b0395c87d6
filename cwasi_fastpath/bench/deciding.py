"""What the policy costs a node: its decisions, the looks for them, and nothing of messages. In interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from ..pace import QUICKEST, SHARE
from .attended import message_ns
from .decisions import Deciding
from .goals import Goal
from .looking import looking
from .report import GOAL_COLUMNS, Topic, goal_texts, print_machine, print_topic
from .stats import estimate

_TRIPS = 20_000
_LOOK = "look_ms, busy: "
_LOOKS = {"none": 0.0, "a tenth": 0.1, "all": 1.0}
METHOD = (
    "CPU time of one thread; messages by the clock. A decision: edges whose messages have noise, and a size and a rate "
    "of their own; where nothing changes, all ways are compared ever more seldom. A look: of the steward, at "
    "channels between guests, of which so many carried messages since the last; of many busy ones a part is asked "
    "about. Messages: 64 bytes there and back between two guests on one core, with a steward and without, the order "
    "changing from round to round. Intervals: 95%, bootstrap of the median over rounds; ratios are of one round."
)

Values = dict[str, float]


@dataclass(frozen=True)
class PolicyReport:
    """All that one run gave."""

    edges: int
    environment: dict[str, str | int]
    rounds: list[Values]

    @cached_property
    def goals(self) -> tuple[Goal, ...]:
        """Every figure, with what it should be at most."""
        return (
            self._goal("a decision where nothing is new", "us", None, lambda of: of["steady_us"]),
            self._goal("a decision where nothing changes, the mean", "us", None, lambda of: of["mean_us"]),
            self._goal("a decision where everything has changed", "us", None, lambda of: of["changed_us"]),
            self._goal(
                f"{self.edges:,} edges, each decided about once a second", "% of a core", 1.0,
                lambda of: of["mean_us"] * self.edges / 1e4,
            ),
            *(self._look(name) for name in _LOOKS),
            *(self._pause(name) for name in _LOOKS),
            self._goal("a message without a steward", "ns", None, lambda of: of["alone_ns"]),
            self._goal("a message with one", "times that", 1.02, lambda of: of["attended_ns"] / of["alone_ns"]),
        )  # fmt: skip

    def _look(self, busy: str) -> Goal:
        return self._goal(f"a look at {self.edges:,} channels, {busy} busy", "ms", None, lambda of: of[_LOOK + busy])

    def _pause(self, busy: str) -> Goal:
        """How often that may be."""
        return self._goal(
            f"with {busy} busy one every", "ms", None, lambda of: max(1e3 * QUICKEST, of[_LOOK + busy] / SHARE)
        )

    def _goal(self, name: str, unit: str, wanted: float | None, value: Callable[[Values], float]) -> Goal:
        return Goal(name, unit, wanted, False, estimate([value(found) for found in self.rounds]))

    def to_json(self) -> dict[str, Any]:
        """Plain values; `schema` changes when their meaning does."""
        return {
            "schema": 2,
            "edges": self.edges,
            "environment": self.environment,
            "rounds": self.rounds,
            "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in self.goals],
        }

    def print(self, console: Console) -> None:
        """For people."""
        print_machine(console, self.environment)
        console.print(f"{len(self.rounds)} rounds", highlight=False)
        print_topic(console, Topic("The policy", GOAL_COLUMNS, [goal_texts(goal) for goal in self.goals]))
        console.print()
        console.print(METHOD, style="dim", highlight=False)


def measure(edges: int, rounds: int) -> Iterator[Values]:
    """Round by round; one before them does not count."""
    deciding = Deciding(edges)
    with looking(edges) as looks:
        for number in range(rounds + 1):
            cost = deciding.round()
            found = {"steady_us": cost.steady, "mean_us": cost.mean, "changed_us": cost.changed}
            found |= {_LOOK + name: 1e3 * looks.seconds(busy) for name, busy in _LOOKS.items()}
            for attended in (False, True) if number % 2 else (True, False):
                found["attended_ns" if attended else "alone_ns"] = message_ns(_TRIPS, attended=attended)
            if number:
                yield found
