"""Policies on a trace as figures, and as the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..policy.regret import Regret, regret
from ..policy.replay import Replay
from ..policy.trace import Trace


@dataclass(frozen=True, slots=True)
class Compared:
    """Policies on a trace."""

    trace: Trace
    oracle: Replay
    fair: Replay | None
    """The oracle without luck, where the trace tells of it."""
    found: Sequence[Replay]
    """These first."""

    def regrets(self, one: Replay) -> tuple[Regret, Regret | None]:
        """Against the oracle, and against that without luck."""
        return regret(one, self.oracle), None if self.fair is None else regret(one, self.fair)


def figures(one: Replay, compared: Compared) -> dict[str, Any]:
    """Of a policy, for JSON."""
    least, fair = compared.regrets(one)
    return {
        "policy": one.policy,
        "cost_ns": one.total_ns,
        "regret": least.share,
        "regret_interval": [least.low, least.high],
        "regret_without_luck": None if fair is None else fair.share,
        "regret_without_luck_interval": None if fair is None else [fair.low, fair.high],
        "switches": one.switches,
        "forced": one.forced,
        "refused": one.refused,
        "switches_per_minute": _a_minute(one, compared.trace),
        "adapt_seconds": one.time_to_adapt,
        "adaptations": [
            {"at": answer.at, "seconds": answer.seconds, "messages": answer.messages, "in_time": answer.in_time}
            for answer in one.adaptations
        ],
    }


def table(compared: Compared, *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each policy. wide: all of it, with the intervals."""
    messages = sum(block.messages for block in compared.trace.blocks)
    rows = []
    for one in compared.found:
        least, fair = compared.regrets(one)
        adapt, answers = one.time_to_adapt, one.adaptations
        rows.append({
            "policy": one.policy,
            "a message": f"{one.total_ns / max(1, messages) / 1000:,.3g} us",
            "regret": _percent(least.share),
            **({"between": _between(least)} if wide else {}),
            **({} if fair is None else {"without\nluck": _percent(fair.share)}),
            **({} if fair is None or not wide else {"between ": _between(fair)}),
            "switches": f"{one.switches}",
            **({"a minute": f"{_a_minute(one, compared.trace):.1f}"} if fair is None or wide else {}),
            "to adapt": "" if adapt is None else f"{1000 * adapt:,.0f} ms" if adapt < 10 else f"{adapt:,.0f} s",
            "in time": f"{sum(answer.in_time for answer in answers)} of {len(answers)}" if answers else "",
        })
    return list(rows[0]), [list(row.values()) for row in rows]


def _between(one: Regret) -> str:
    return f"{_percent(one.low)} to {_percent(one.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.{2 if abs(share) < 0.1 else 1 if abs(share) < 1 else 0}f} %"


def _a_minute(one: Replay, trace: Trace) -> float:
    return 60 * one.switches / trace.seconds
