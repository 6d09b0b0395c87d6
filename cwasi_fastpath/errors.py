"""What can go wrong, one class each. `exit_code` is what commands end with."""

from __future__ import annotations


class Error(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1
    happened_ns = 0
    """CLOCK_MONOTONIC when a function failed: tells a cause from its consequences, also in another process."""


# ---- what the user gave ----


class BadName(Error):
    """A name that is not safe everywhere it may appear."""

    exit_code = 2


class BadSpec(Error):
    """A request that contradicts itself: an unknown function in an edge, two senders on one ring, ..."""

    exit_code = 2


class BadModule(Error):
    """A file that is missing, unreadable or no WebAssembly module that can run as a function."""

    exit_code = 65


class MissingImport(BadModule):
    """A module wants something that this host does not provide."""


# ---- channels ----


class ChannelError(Error):
    """Base of what send and recv raise."""

    exit_code = 74


class ChannelClosed(ChannelError):
    """The other side finished: all was read, or nobody will read any more. Also: this end was closed."""


class PeerDied(ChannelError):
    """The other side failed or its process died. What it had sent before was delivered first."""


class Moved(ChannelError):
    """The sender goes on by another transport, and this end was not told of it; only who passes messages on sees it."""

    def __init__(self, message: str, epoch: int = 0) -> None:
        super().__init__(message)
        self.epoch = epoch


class WouldWait(ChannelError):
    """With timeout=0: the channel is full (send) or empty (recv)."""


class Timeout(ChannelError, TimeoutError):
    """Nothing came, or there was no room, in the time given."""


class MessageTooLong(ChannelError, ValueError):
    """Over 1 GiB, or longer than the buffer; in that case the message is kept."""


class Busy(ChannelError):
    """Another thread or process uses this end."""


class Cancelled(ChannelError):
    """The host is closing, or the run was cancelled."""


class Corrupted(ChannelError):
    """The shared memory or the stream holds what no honest peer writes; the channel cannot be used any more."""


# ---- functions ----


class GuestError(Error):
    """Base of how a function can end badly."""


class GuestTrap(GuestError):
    """The function trapped: unreachable code, an access out of bounds, ..."""

    exit_code = 134


class GuestExit(GuestError):
    """The function ended with a status other than 0, which is the exit code."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_code = status if 0 < status < 256 else 1


class GuestTimeout(GuestError):
    """The function still ran when its time was up, and was interrupted."""

    exit_code = 124


class OutputFailed(GuestError):
    """What the function printed could not be written, for example to a full disk."""

    exit_code = 74


class HostDied(GuestError):
    """A host process ended without a word, for example by SIGKILL."""

    exit_code = 137


# ---- the machine ----


class Unavailable(Error):
    """Something on this machine is missing; the message names it and the remedy."""

    exit_code = 69


class RedisUnavailable(Unavailable):
    """No redis-server, or it does not answer."""


class TcpUnavailable(Unavailable):
    """An address that is taken, unknown or not reachable, or where nobody listens."""


class RegistryUnavailable(Unavailable):
    """Names cannot be found: no runtime directory that is ours alone, or no server."""


class NoSuchChannel(Unavailable):
    """Nobody here holds an end of a channel of that name."""


class NoTransport(Unavailable):
    """Nothing can carry this edge; the message says what ruled out each transport."""


def happened(error: BaseException) -> tuple[bool, int]:
    """Sorts causes before their consequences; a host's death is never a consequence."""
    return (not isinstance(error, HostDied), error.happened_ns if isinstance(error, Error) else 0)
