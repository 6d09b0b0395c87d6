"""How often a host sounds a network through which no messages go, and how long what it found holds. No I/O, no clock.

A sounding is a connection without messages: it tells how long there and back takes, and what the network gives.
"""

from __future__ import annotations

BYTES = 1 << 16
"""That are sent in one, to see what the network gives."""
SECONDS = 2.0
"""That one may take."""
FIRST_SECONDS = 3 * SECONDS
"""For the first one: its place is asked for, and others may be under way."""
_SHARE = 0.1
"""Of the time, at most, for soundings;"""
_OFTEN = 0.25
"""and seconds between two of them to one address, at least."""
_ROUNDS, _IDLE_ROUNDS = 6, 3
"""Times there and back in one: in all, to connect, to greet, and for so many bytes; and for these, of which TCP sends a
few at first, then twice as many, and so on.
"""
_CLEARLY = 1.5
"""Times that so many bytes take longer than these rounds where what the network gives is seen."""
_FAR_LESS = 3.0
"""Times that they would take longer where it would certainly have been."""


def pause(took: float, among: int = 1) -> float:
    """Seconds from the end of one to the begin of the next to the same address. among: so many addresses are sounded,
    and have equal parts of the time.
    """
    return max(_OFTEN, among * took / _SHARE)


def holds(took: float, among: int = 1) -> float:
    """Seconds for which the network counts as watched after one: until there is the next, or two."""
    return 2 * (pause(took, among) + SECONDS)


def gives(took: float, answered: float, rtt: float) -> float | None:
    """Bytes a second that the network gives, if that is what has made so many bytes take long; None where it was not.

    took, answered: seconds for these bytes, and for a few, until the other side has answered. rtt: there and back.
    """
    rounds = answered + (_IDLE_ROUNDS - 1) * rtt
    return BYTES / (took - rounds) if took > _CLEARLY * rounds else None


def shows(srtt_ns: float) -> float:
    """Bytes a second that a sounding certainly sees, if the network gives no more."""
    return BYTES / (_FAR_LESS * _IDLE_ROUNDS * max(1.0, srtt_ns) / 1e9)


def sounded(rtt: float, bytes_per_second: float | None) -> tuple[float, float | None]:
    """Seconds that one takes where nothing goes wrong, SECONDS if it is not over by then; and what it says that the
    network gives. bytes_per_second: what it does give, where that matters.
    """
    bulk = BYTES / bytes_per_second if bytes_per_second else 0.0
    took = min(SECONDS, _ROUNDS * rtt + bulk)
    return took, gives(_IDLE_ROUNDS * rtt + bulk, rtt, rtt)
