"""Figures as a reader wants them. Pure."""

from __future__ import annotations


def size_text(size: int) -> str:
    """64 B, 1 KiB, 1.5 MiB, ...; 100 MB where that is rounder."""
    if size >= 1_000_000 and size % 1_000_000 == 0:
        return f"{size // 1_000_000} MB"
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} B"


def time_text(ns: float) -> str:
    """140 ns, 3.1 us, 27 ms, ..."""
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= factor:
            return f"{ns / factor:.3g} {unit}"
    return f"{ns:.3g} ns"


def rate_text(bytes_per_second: float) -> str:
    """800 MB/s, 17 GB/s, ..."""
    for unit, factor in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if bytes_per_second >= factor:
            return f"{bytes_per_second / factor:.3g} {unit}"
    return f"{bytes_per_second:.3g} B/s"


def share_text(share: float) -> str:
    """0.05 % of a core, ..."""
    return f"{100 * share:.2g} %"


def plain_text(value: float) -> str:
    """Three digits of it."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
