"""How a tracer that comes later finds a host: a socket in the abstract namespace, and a thread that sleeps until then.

It carries no more than the address of the tracer's own socket. Only root is listened to.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_MESSAGE_BYTES = 4096
_TIMEOUT_SECONDS = 10
THREAD = "cwasi tracers"
"""The name of the thread."""

_listener: socket.socket | None = None


def address_of(namespace: int, pid: int) -> str:
    """Where the process of that pid in the pid namespace of that inode listens."""
    return f"\0cwasi-host-{namespace}-{pid}"


def limit_waits(connection: socket.socket) -> None:
    """No call waits for ever. With settimeout, connect would not wait at all where many do it at once."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TIMEOUT_SECONDS, 0))


def listen(join: Callable[[str], bool]) -> None:
    """From now on join(address) is called when a tracer has come. Nothing where the address is taken, or twice."""
    global _listener
    if _listener is not None:
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(address_of(Path("/proc/self/ns/pid").stat().st_ino, os.getpid()))
        listener.listen(4)
    except OSError:
        listener.close()
        return
    _listener = listener
    threading.Thread(target=_serve, args=(listener, join), name=THREAD, daemon=True).start()


def _after_fork() -> None:
    """The address is our parent's."""
    global _listener
    if _listener is not None:
        _listener.close()
        _listener = None


os.register_at_fork(after_in_child=_after_fork)


def invite(pid: int, tracer: str) -> None:
    """Tells the host of that pid, if it is one, where the tracer is. pid: in the caller's pid namespace.

    Raises OSError where there is no such host, or somebody else has its address.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as host:
        limit_waits(host)
        host.connect(address_of(Path(f"/proc/{pid}/ns/pid").stat().st_ino, int(inner)))
        if _peer(host)[0] != pid:
            raise PermissionError(f"another process has the address of process {pid}")
        host.send(json.dumps({"tracer": tracer}).encode())
        host.recv(_MESSAGE_BYTES)   # when it has joined


def _serve(listener: socket.socket, join: Callable[[str], bool]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:   # this process has no descriptor left
            time.sleep(1.0)
            continue
        with connection, suppress(OSError, ValueError, RecursionError):
            _answer(connection, join)


def _answer(connection: socket.socket, join: Callable[[str], bool]) -> None:
    if _peer(connection)[1] != 0:
        return
    limit_waits(connection)
    said = json.loads(connection.recv(_MESSAGE_BYTES))
    if isinstance(said, dict) and isinstance(said.get("tracer"), str):
        connection.send(json.dumps({"joined": join(said["tracer"])}).encode())


def _peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and the uid of the other side."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
