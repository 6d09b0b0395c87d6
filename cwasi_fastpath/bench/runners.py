"""Who runs which case on this machine."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import RedisUnavailable
from ..redis_server import RedisServer
from . import c_ends, floors, guests
from .case import RAW_PATHS, Case, Ends, Kind, Path, Sample
from .pair import Pair
from .remote_ends import RemoteEnds
from .rounds import Outcome, Settings, run_rounds


def measure_channels(settings: Settings, cases: tuple[Case, ...], before_case: Callable[[Case], None]) -> Outcome:
    """Runs everything, with a redis-server of its own where there is one."""
    try:
        server = RedisServer()
    except RedisUnavailable as error:
        return _measure(settings, cases, before_case, Pair(None, str(error)), RemoteEnds(None, str(error)))
    with server:
        return _measure(settings, cases, before_case, Pair(server.url), RemoteEnds(server.url))


def _measure(
    settings: Settings, cases: tuple[Case, ...], before_case: Callable[[Case], None], pair: Pair, remote: RemoteEnds
) -> Outcome:
    def measure(case: Case, count: int) -> Sample:
        if case.kind is Kind.FLOOR or case.path in (Path.BUFFERS, *RAW_PATHS):
            return floors.measure(case, count)
        if case.path in (Path.TLS, Path.REDIS):
            return c_ends.measure(case, count, remote.open)
        runners = {Ends.GUEST: guests.measure, Ends.C: c_ends.measure, Ends.PYTHON: pair.measure}
        return runners[case.ends](case, count)

    with pair, remote:
        return run_rounds(settings, cases, measure, floors.plausible_hop_ns, before_case)
