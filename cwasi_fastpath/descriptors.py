"""How many files this process may have open."""

from __future__ import annotations

import resource


def allow_many() -> None:
    """A channel takes four; many systems let a process have 1,024 of them unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
