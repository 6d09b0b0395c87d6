"""Runs the cases in which two processes exchange messages over a Redis server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

from .. import errors
from .case import Case, Kind, Sample
from .redis_peer import Task
from .stats import quantile_of

_STOP_SECONDS = 2.0


class RedisPair:
    """Two processes that wait for work, so that none is started while others are measured."""

    def __init__(self, url: str) -> None:
        """url: of a server that answers."""
        self._url = url
        self._runs = 0
        self._peers: list[subprocess.Popen[str]] = []
        for _ in range(2):
            self._peers.append(_start_peer())

    def measure(self, case: Case, count: int) -> Sample:
        """One run of `case` with `count` messages each way. Raises RedisUnavailable."""
        return self._latency(case, count) if case.kind is Kind.LATENCY else self._throughput(case, count)

    def _latency(self, case: Case, count: int) -> Sample:
        seconds, ping, pong = self._do(("ping", "pong"), case, count)
        took = sorted([*ping["latencies"], *pong["latencies"]])
        return Sample(len(took), seconds, {"p50_ns": quantile_of(took, 0.5), "p99_ns": quantile_of(took, 0.99)})

    def _throughput(self, case: Case, count: int) -> Sample:
        seconds, source, sink = self._do(("source", "sink"), case, count)
        messages, ns = sink["messages"], sink["end"] - source["start"]
        return Sample(messages, seconds, {"bytes_per_second": messages * case.size * 1e9 / ns})

    def _do(self, roles: tuple[str, str], case: Case, count: int) -> tuple[float, dict[str, Any], dict[str, Any]]:
        """Gives both peers their roles; the seconds that it took, and their answers."""
        self._runs += 1
        start = time.perf_counter()
        for peer, role in zip(self._peers, roles, strict=True):
            _tell(peer, Task(role, case.path, self._url, f"bench:{self._runs}", case.size, count))
        first, second = (_answer(peer) for peer in self._peers)
        return time.perf_counter() - start, first, second

    def close(self) -> None:
        """Ends both. Closing twice is safe."""
        while self._peers:
            peer = self._peers.pop()
            peer.terminate()
            try:
                peer.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                peer.kill()
                peer.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _start_peer() -> subprocess.Popen[str]:
    # Its input ends when we end, however that is. A process group of its own: Ctrl-C is for us, we then close it.
    return subprocess.Popen(
        [sys.executable, "-m", "cwasi_fastpath.bench.redis_peer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def _tell(peer: subprocess.Popen[str], task: Task) -> None:
    assert peer.stdin is not None
    try:
        peer.stdin.write(task.to_json() + "\n")
        peer.stdin.flush()
    except BrokenPipeError:
        raise _died(peer) from None


def _answer(peer: subprocess.Popen[str]) -> dict[str, Any]:
    assert peer.stdout is not None
    line = peer.stdout.readline()
    if not line:
        raise _died(peer)
    answer: dict[str, Any] = json.loads(line)
    return answer


def _died(peer: subprocess.Popen[str]) -> errors.RedisUnavailable:
    assert peer.stderr is not None
    words = peer.stderr.read().strip().splitlines()
    return errors.RedisUnavailable(f"a process that used Redis failed: {words[-1] if words else 'without a word'}")
