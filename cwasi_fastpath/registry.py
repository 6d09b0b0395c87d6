"""Names on this node: which process holds which end of a channel. Entries are claims in the runtime directory, so that
an end whose process was killed is free at once, and nobody has to clean up.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import errors, runtime
from .claim import Claim, contents
from .connection import MESSAGE_BYTES
from .credentials import Credentials
from .names import checked
from .request import refusal

ROLES = {1: "sender", 2: "receiver"}
"""What the roles of ends are called."""

_PATIENCE = 1.0
"""Seconds for a holder to say who it is."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds an end."""

    address: str
    """Of its control thread."""
    pid: int
    """As it knows itself; another one where pid namespaces differ."""


def claim(name: str, role: int, address: str) -> Claim:
    """Takes the end of that name for the process at `address`, ours. Raises Busy, BadName, RegistryUnavailable."""
    directory = runtime.directory()
    path = directory / f"{checked(name, 'channel')}:{ROLES[role]}"
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            taken = Claim.take(path, {"pid": os.getpid(), "address": address})
        except OSError as error:
            raise runtime.unusable(directory, error) from error
        if taken is not None:
            return taken
        _refuse_second(name, role, late=time.monotonic() > until)
        time.sleep(0.002)   # its holder is just coming, or was killed and is just being swept away


def inherit(name: str, role: int, address: str, descriptor: int) -> Claim:
    """The same from the process that has it, which has passed its lock on. Owns the descriptor.

    Raises Corrupted, RegistryUnavailable.
    """
    directory = runtime.directory()
    path = directory / f"{checked(name, 'channel')}:{ROLES[role]}"
    try:
        taken = Claim.inherited(path, descriptor, {"pid": os.getpid(), "address": address})
    except OSError as error:
        raise runtime.unusable(directory, error) from error
    if taken is None:
        raise errors.Corrupted(f"channel {name!r}: who handed it over to us did not have that name")
    return taken


def _refuse_second(name: str, role: int, late: bool) -> None:
    found = holder(name, role)
    who = alive(found.address) if found is not None else None
    if who is not None or late:
        whom = who or "a process that does not answer"
        raise errors.Busy(f"channel {name!r} has a {ROLES[role]} already: {whom}; close it, or take another name")


def holder(name: str, role: int) -> Holder | None:
    """Who holds that end, or was killed with it; None where nobody does. Raises RegistryUnavailable."""
    directory = runtime.directory()
    try:
        found = contents(directory / f"{checked(name, 'channel')}:{ROLES[role]}")
    except OSError as error:
        raise runtime.unusable(directory, error) from error
    match found:
        case {"address": str(address), "pid": int(pid)} if runtime.ADDRESS.fullmatch(address):
            return Holder(address, pid)
    return None


def addresses() -> list[str]:
    """Of all processes that can be found here, and of those that were killed since somebody last looked."""
    directory = runtime.directory()
    try:
        return sorted(path.name for path in directory.iterdir() if runtime.ADDRESS.fullmatch(path.name))
    except OSError as error:
        raise runtime.unusable(directory, error) from error


def alive(address: str) -> Credentials | None:
    """The process that listens at `address`; None where it is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        try:
            return Credentials.of(sock) if _connected(sock, address) else None
        except BlockingIOError:   # so many want it that we cannot ask who it is
            return Credentials(0, os.geteuid())


def tell(address: str, kind: str, channel: str) -> None:
    """Says something to a process that needs no answer; nothing where it is dead, or has no time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock, suppress(OSError):
        if _connected(sock, address):
            sock.send(json.dumps({"ask": kind, "channel": channel}).encode())


def ask(
    address: str, kind: str, body: dict[str, Any], *, channel: str | None = None, timeout: float
) -> dict[str, Any]:
    """Asks a process one thing, without a control thread of our own.

    Raises PeerDied, Timeout, and what it refused it with.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(timeout)
        try:
            if not _connected(sock, address) or not Credentials.of(sock).trusted:
                raise errors.PeerDied(f"the process {address} is gone")
            sock.send(json.dumps({"ask": kind, "id": 1, "channel": channel, "body": body}).encode())
            data = sock.recv(MESSAGE_BYTES)
        except TimeoutError as error:
            raise errors.Timeout(f"the process {address} does not answer within {timeout:g} s") from error
        except OSError as error:
            raise errors.PeerDied(f"the process {address}: {error.strerror}") from error
    try:
        message = json.loads(data) if data else None
    except (ValueError, RecursionError):
        message = None
    if isinstance(message, dict):
        if "refused" in message:
            raise refusal(message)
        if isinstance(found := message.get("body"), dict):
            return found
    raise errors.PeerDied(f"the process {address} gave no answer")


def _connected(sock: socket.socket, address: str) -> bool:
    """Raises OSError where that cannot be told."""
    if not runtime.ADDRESS.fullmatch(address):
        return False
    try:
        sock.connect(str(runtime.socket_path(runtime.directory(), address)))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    return True
