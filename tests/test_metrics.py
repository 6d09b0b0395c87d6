"""Quantiles, and records that join what the two ends of a channel counted."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import HISTOGRAM_BUCKETS
from cwasi_fastpath.metrics import STEPS, EndMetrics, Observation, bucket_bounds, channel_metrics, quantile


def bucket_of(ns: float) -> int:
    """As the data plane does it."""
    whole = max(int(ns), 16)
    octave = whole.bit_length() - 1
    return min(octave * STEPS + (whole >> (octave - 4)) % STEPS, HISTOGRAM_BUCKETS - 1)


def end(messages: int = 0, **counts: object) -> EndMetrics:
    names = ("bytes", "copied_bytes", "waits", "parks", "wakes", "lost_peers")
    fields = {**dict.fromkeys(names, 0), "latency": (), **counts}
    return EndMetrics(messages=messages, **fields)   # type: ignore[arg-type]


def test_buckets_cover_all_times_without_a_gap() -> None:
    for index in range(HISTOGRAM_BUCKETS - 1):
        low, high = bucket_bounds(index)
        assert low < high == bucket_bounds(index + 1)[0]
        assert (high - low) / low <= 1 / STEPS
    assert bucket_bounds(0) == (1.0, 1.0 + 1 / STEPS)


@given(st.floats(16, 2**39))
def test_a_time_lies_in_its_bucket(ns: float) -> None:
    low, high = bucket_bounds(bucket_of(ns))
    assert low <= math.floor(ns) < high


@given(st.lists(st.integers(16, 10**9), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_against_a_plain_computation(times: list[int], q: float) -> None:
    """As exact as a bucket is wide."""
    histogram = [0] * HISTOGRAM_BUCKETS
    for ns in times:
        histogram[bucket_of(ns)] += 1
    found = quantile(histogram, q)
    plain = sorted(times)[max(0, math.ceil(q * len(times)) - 1)]
    assert found is not None
    assert plain * (1 - 1 / STEPS) <= found <= plain * (1 + 2 / STEPS)


def test_quantiles_rise_with_q() -> None:
    histogram = [0] * HISTOGRAM_BUCKETS
    for index, count in ((160, 5), (200, 1), (201, 90), (400, 4)):
        histogram[index] = count
    values = [quantile(histogram, q / 100) for q in range(101)]
    assert values == sorted(values, key=float)   # type: ignore[arg-type]
    assert values[0] == bucket_bounds(160)[0] and values[100] == bucket_bounds(400)[1]


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([0] * HISTOGRAM_BUCKETS, 0.5) is None


def test_the_buckets_are_those_of_the_data_plane() -> None:
    tx, rx = cwasi.open_channel("lab")
    with rx, tx:
        for ns in (1_000, 1_000_000, 3_000_000_000):
            before, sent = rx.metrics().latency, time.monotonic_ns() - ns
            tx.forward(b"", sent)
            rx.recv()
            at_most, after = time.monotonic_ns() - sent, rx.metrics().latency
            assert len(after) == HISTOGRAM_BUCKETS
            [index] = [index for index, (was, now) in enumerate(zip(before, after, strict=True)) if now != was]
            low, high = bucket_bounds(index)
            assert ns < high and low <= at_most


def test_a_channel_is_its_two_ends() -> None:
    histogram = [0] * HISTOGRAM_BUCKETS
    histogram[bucket_of(1000)] = 7
    sender = end(9, bytes=90, copied_bytes=90, parks=1, wakes=2, latency=tuple([0] * HISTOGRAM_BUCKETS))
    receiver = end(7, bytes=70, copied_bytes=71, parks=3, wakes=4, latency=tuple(histogram))
    both = channel_metrics([sender], [receiver])
    assert (both.sent, both.received, both.bytes, both.copied_bytes) == (9, 7, 70, 161)
    assert (both.parks, both.wakes) == (4, 6)
    assert both.p50_ns == pytest.approx(1000, rel=0.07) and both.p99_ns == pytest.approx(1000, rel=0.07)


def test_a_channel_with_one_end_here() -> None:
    assert channel_metrics([end(9, copied_bytes=5)], []).sent == 9
    assert channel_metrics([end(9)], []).p50_ns is None
    assert channel_metrics([], [end(7, bytes=3)]).received == 7
    nothing = channel_metrics([], [])
    assert (nothing.sent, nothing.received, nothing.p99_ns) == (0, 0, None)


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        end().messages = 1   # type: ignore[misc]


@pytest.mark.parametrize(
    ("messages", "size", "parks", "mean", "parked"),
    [(10, 1000, 5, 100.0, 0.5), (10, 1000, 99, 100.0, 1.0), (0, 0, 0, 0.0, 0.0), (1, 0, 0, 0.0, 0.0)],
)
def test_observations(messages: int, size: int, parks: int, mean: float, parked: float) -> None:
    assert Observation.of(messages, size, parks) == Observation(messages, mean, parked)
