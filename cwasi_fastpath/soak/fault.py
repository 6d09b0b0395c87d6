"""What is done to a channel while it works."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """What happens to one end."""

    KILL = "kill"
    """SIGKILL of the process that holds it."""
    CLOSE = "close"
    """It closes in the middle."""
    STOP = "stop"
    """stop() of it, or of its host, from another thread."""
    NONE = "none"
    """None: all is sent, and received."""
