"""The tracer's control socket: gives each host of the traced command a slot map of its own, and functions their ids.

An AF_UNIX SOCK_SEQPACKET socket in the abstract namespace, so that no file is left behind; one JSON object a message.

    {"hello": 3, "namespace": [dev, ino]}
                           -> {"version": 3, "slots": N, "probes": P} and the map's fd, see below
    {"statistics": 1}      -> {"taken": true}; with a sealed memfd, whose layout is cwasi_statistics: what it counts
    {"function": "name"}   -> {"id": n}, n >= 1: what to store in the slot of the thread that runs the function
    anything else          -> {"error": "..."}

The map is a {u32 tid; u32 id}[N] to be mapped. A thread's slot is the first with its tid from number tid % N on, of P;
it claims one whose tid is 0. The tid is that in the host's own pid namespace, which is what stat() has of its
/proc/self/ns/pid: in a wrong one its threads are not found.

Ids count within a connection, and so does the map: what a host says is about its own threads, and names are told apart
by host. Only processes that are traced are served, and only those that may listen to us.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import select
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from .capabilities import keep_only
from .errors import BadName
from .host_statistics import NOTHING, HostStatistics, check_file, read_file
from .host_statistics import VERSION as STATISTICS
from .invitation import heard
from .names import checked

ENVIRONMENT = "CWASI_TRACER"
OTHER = "other"
"""Stands for all functions that have no id of their own."""
POOL = "wasi-pool"
"""Stands for the threads of a host on which wasmtime does what WASI's calls ask for."""

_VERSION = 3
_MESSAGE_BYTES = 4096
_HELLO = f'{{"hello": {_VERSION}, "namespace": [<dev>, <ino>]}}'
_EXPECTED = f'expected {_HELLO}, {{"statistics": {STATISTICS}}} and a file, or {{"function": "<name>"}}'
_NOT_SERVED = "only processes of the traced command, in a pid namespace that the tracer sees, are served"
_NAMES = 1 << 16   # of all hosts that ever were
_KEPT = 1 << 16   # functions and ends of channels of hosts that have left
_SO_PEERPIDFD = 77


class Seat(Protocol):
    """A host's place in the trace."""

    @property
    def owner(self) -> int:
        """What its function 0 would be charged to."""

    @property
    def descriptor(self) -> int:
        """Of its map."""


class Seats(Protocol):
    """Who lets hosts into the trace."""

    ids: int
    """Of a host, 0 included. The last is for what exceeds them."""
    pool: int
    """The one before it: for the threads that wasmtime starts for WASI."""
    slots: int
    probes: int
    capabilities: list[str]
    """What letting one in takes."""

    def knows(self, pid: int) -> bool:
        """Whether that process is traced, and can be told from others."""

    def join(self, pid: int, namespace: tuple[int, int], alive: Callable[[], bool]) -> Seat | None:
        """For such a process; None where it is none. namespace: st_dev and st_ino, as it says. Raises OSError."""

    def leave(self, seat: Any) -> None:
        """Its map counts no more."""


@dataclass(slots=True)
class _Client:
    """One connection."""

    pid: int
    seat: Seat | None = None
    """From its hello on."""
    statistics: int | None = None
    """The descriptor of its file."""
    before: HostStatistics = NOTHING
    """What stood in it when we got it."""
    ids: dict[str, int] = field(default_factory=dict)


class ControlSocket:
    """The listening socket and the thread that serves it."""

    def __init__(self, seats: Seats, connections: int = 384) -> None:
        """connections: how many hosts at a time; each takes two descriptors."""
        self._seats = seats
        self._most = connections
        self._other = seats.ids - 1
        self._pool = seats.pool
        self._clients: dict[socket.socket, _Client] = {}
        self._names: dict[int, str] = {}
        self.unheard: set[int] = set()
        """The uids of hosts that do not listen to us."""
        self._lock = threading.Lock()
        """For who reads statistics while a host leaves."""
        self._last: dict[int, HostStatistics] = {}
        """The last words of those that have left, by their seat's owner."""
        self._labels = {OTHER: 1}
        """How often each was wanted."""
        self._kept = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = f"@cwasi-tracer-{os.getpid()}-{secrets.token_hex(8)}"
        self._listener.bind("\0" + self.address[1:])
        self._listener.listen(64)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="cwasi-tracer", daemon=True)
        self._thread.start()

    def names(self) -> dict[int, str]:
        """The functions by owner: that of their host's function 0, and their id. Who is not in it is OTHER.

        Two hosts that have a function of one name are told apart: the second one's has its pid behind an @.
        """
        return self._names.copy()

    def statistics(self) -> dict[int, HostStatistics]:
        """What each host has said of itself, those that have left too; by its function 0."""
        with self._lock:
            now = [client for client in self._clients.values() if client.statistics is not None]
            return self._last | {_owner(client): _read(client) for client in now}

    def close(self) -> None:
        """Ends the thread and all connections; hosts keep their mapping of their map, which nobody reads any more."""
        self._wake.close()
        self._thread.join()

    def _serve(self) -> None:
        keep_only(self._seats.capabilities)
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            stack.enter_context(self._listener)
            stack.enter_context(self._woken)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock is self._woken:
                        self._drop_all()
                        return
                    if sock is self._listener:
                        self._accept(selector)
                    elif not self._answer(sock):
                        selector.unregister(sock)
                        self._drop(sock)

    def _drop_all(self) -> None:
        for connection in list(self._clients):
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        with self._lock:
            client = self._clients.pop(connection)
            connection.close()
            if client.statistics is not None:
                self._keep(_owner(client), _read(client))
                os.close(client.statistics)
        if client.seat is not None:
            self._seats.leave(client.seat)

    def _keep(self, owner: int, last: HostStatistics) -> None:
        if self._kept < _KEPT and (last.functions or last.ends):
            self._last[owner] = last
            self._kept += len(last.functions) + len(last.ends)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the client is gone already
        connection.setblocking(False)
        client = self._admitted(connection)
        if isinstance(client, _Client):
            with self._lock:
                self._clients[connection] = client
            selector.register(connection, selectors.EVENT_READ)
            return
        with connection, contextlib.suppress(OSError):
            connection.send(_error(client))

    def _admitted(self, connection: socket.socket) -> _Client | str:
        """Who has connected, or why it is not served."""
        if len(self._clients) >= self._most:
            return "too many connections"
        pid, uid = _credentials(connection)
        if not self._seats.knows(pid):
            return _NOT_SERVED
        if not heard(os.geteuid(), uid):
            self.unheard.add(uid)
            return f"the tracer runs as uid {os.geteuid()}, neither as root nor as you do"
        return _Client(pid)

    def _join(self, connection: socket.socket, client: _Client, namespace: object) -> tuple[bytes, list[int]]:
        """Gives it its map; the same one again where it asks again."""
        if not _is_namespace(namespace):
            return _error(_EXPECTED), []
        if client.seat is None:
            lack = self._sit(connection, client, namespace)
            if lack is not None:
                return _error(lack), []
        assert client.seat is not None
        reply = {"version": _VERSION, "slots": self._seats.slots, "probes": self._seats.probes}
        return _encoded(reply), [client.seat.descriptor]

    def _sit(self, connection: socket.socket, client: _Client, namespace: tuple[int, int]) -> str | None:
        """Lets it in. Returns why not, if not."""
        try:
            pidfd = _descriptor_of(connection, client.pid)
        except OSError:
            return "your process has ended"   # it may have passed the connection on
        try:
            client.seat = self._seats.join(client.pid, namespace, lambda: not _ended(pidfd))
        except OSError as error:
            return str(error)
        finally:
            os.close(pidfd)
        if client.seat is None:
            return _NOT_SERVED
        if len(self._names) < _NAMES:
            self._names[client.seat.owner + self._pool] = self._label(POOL, client.pid)
        return None

    def _answer(self, connection: socket.socket) -> bool:
        """Serves one message; False when the connection is to be closed."""
        try:
            message, given, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
            if not message and not given:
                return False
            try:
                reply, fds = self._reply(connection, message, given)
            finally:
                for descriptor in given:   # what is kept has been taken out
                    os.close(descriptor)
            socket.send_fds(connection, [reply], fds)
        except OSError:
            return False
        return True

    def _reply(self, connection: socket.socket, message: bytes, given: list[int]) -> tuple[bytes, list[int]]:
        client = self._clients[connection]
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            return _error("not JSON"), []
        if isinstance(request, dict) and request.keys() == {"hello", "namespace"} and request["hello"] == _VERSION:
            return self._join(connection, client, request["namespace"])
        if client.seat is None:
            return _error(f"expected {_HELLO} first"), []
        if request == {"statistics": STATISTICS} and given:
            return self._take(client, given), []
        if not isinstance(request, dict) or request.keys() != {"function"}:
            return _error(_EXPECTED), []
        try:
            return _encoded({"id": self._id(client, checked(request["function"], "function"))}), []
        except BadName as error:
            return _error(str(error)), []

    def _take(self, client: _Client, given: list[int]) -> bytes:
        if client.statistics is not None:
            return _error("there are statistics already")
        try:
            check_file(given[0])
        except (OSError, ValueError) as error:
            return _error(str(error))
        with self._lock:
            client.before = read_file(given[0])
            client.statistics = given.pop(0)
        return _encoded({"taken": True})

    def _id(self, client: _Client, name: str) -> int:
        if name == OTHER:
            return self._other
        if name not in client.ids and len(client.ids) + 1 < self._pool and len(self._names) < _NAMES:
            number = client.ids[name] = len(client.ids) + 1
            self._names[_owner(client) + number] = self._label(name, client.pid)
        return client.ids.get(name, self._other)

    def _label(self, name: str, pid: int) -> str:
        """Of a function of this host alone. A name has no @."""
        if name not in self._labels:
            self._labels[name] = 1
            return name
        label = f"{name}@{pid}"
        again = self._labels[label] = self._labels.get(label, 0) + 1
        return label if again == 1 else f"{label}.{again}"


def _credentials(connection: socket.socket) -> tuple[int, int]:
    """The pid and the uid of who has connected."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def _descriptor_of(connection: socket.socket, pid: int) -> int:
    """Of who has connected: its pid may be another's by now. Raises OSError."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return os.pidfd_open(pid)   # before Linux 6.5


def _is_namespace(said: object) -> TypeGuard[tuple[int, int]]:
    """Two numbers of the kernel's."""
    return isinstance(said, list) and len(said) == 2 and all(type(word) is int and 0 <= word < 1 << 64 for word in said)


def _owner(client: _Client) -> int:
    assert client.seat is not None
    return client.seat.owner


def _read(client: _Client) -> HostStatistics:
    assert client.statistics is not None
    try:
        return read_file(client.statistics).since(client.before)
    except OSError:
        return HostStatistics()


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _encoded(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode()


def _error(text: str) -> bytes:
    return _encoded({"error": text})
