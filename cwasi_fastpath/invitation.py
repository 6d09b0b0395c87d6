"""How a tracer that comes later finds a host: a socket in the abstract namespace, and a thread that sleeps until then.

It carries no more than the address of the tracer's own socket. Only root and the host's own user are listened to.
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


class Unheard(Exception):
    """A host does not listen to us."""

    def __init__(self, uid: int) -> None:
        super().__init__(f"a host of uid {uid}")
        self.uid = uid


def heard(tracer: int, host: int) -> bool:
    """Whether a host tells a tracer what it runs, by their uids: those who see it anyway."""
    return tracer in (0, host)


def address_of(namespace: int, pid: int) -> str:
    """Where the process of that pid in the pid namespace of that inode listens."""
    return f"\0cwasi-host-{namespace}-{pid}"


def limit_waits(connection: socket.socket) -> None:
    """No call waits for ever. With settimeout, connect would not wait at all where many do it at once."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TIMEOUT_SECONDS, 0))


def listen(join: Callable[[str], bool]) -> None:
    """From now on join(address) is called when a tracer has come. Nothing where the address is taken, or twice,
    or where there can be no thread.
    """
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
    try:
        threading.Thread(target=_serve, args=(listener, join), name=THREAD, daemon=True).start()
    except RuntimeError:   # this user may have no more
        listener.close()
        return
    _listener = listener


def _after_fork() -> None:
    """The address is our parent's."""
    global _listener
    if _listener is not None:
        _listener.close()
        _listener = None


os.register_at_fork(after_in_child=_after_fork)


def invite(pid: int, tracer: str) -> None:
    """Tells the host of that pid, if it is one, where the tracer is. pid: in the caller's pid namespace.

    Raises Unheard; OSError where there is no such host, or somebody else has its address.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    pids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    # To look at another user's namespace takes more than we may have; mostly it is ours.
    namespace = Path(f"/proc/{'self' if len(pids) == 1 else pid}/ns/pid").stat().st_ino
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as host:
        limit_waits(host)
        host.connect(address_of(namespace, int(pids[-1])))
        found, uid = _peer(host)
        if found != pid:
            raise PermissionError(f"another process has the address of process {pid}")
        if not heard(os.geteuid(), uid):
            raise Unheard(uid)
        host.send(json.dumps({"tracer": tracer}).encode())
        host.recv(_MESSAGE_BYTES)   # when it has joined


def _serve(listener: socket.socket, join: Callable[[str], bool]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:   # this process has no descriptor left
            time.sleep(1.0)
            continue
        with connection, suppress(Exception):   # or nobody who comes later would be heard
            _answer(connection, join)


def _answer(connection: socket.socket, join: Callable[[str], bool]) -> None:
    if not heard(_peer(connection)[1], os.geteuid()):
        return
    limit_waits(connection)
    said = json.loads(connection.recv(_MESSAGE_BYTES))
    if isinstance(said, dict) and isinstance(said.get("tracer"), str):
        connection.send(json.dumps({"joined": join(said["tracer"])}).encode())


def _peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and the uid of the other side."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
