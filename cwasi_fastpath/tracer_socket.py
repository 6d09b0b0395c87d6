"""The tracer's control socket: gives each host of the traced command a slot map of its own, and functions their ids.

An AF_UNIX SOCK_SEQPACKET socket in the abstract namespace, so that no file is left behind; one JSON object a message.

    {"hello": 3, "namespace": [dev, ino]}
                           -> {"version": 3, "slots": N, "probes": P, "figures": 1} and the map's fd, see below
    {"statistics": 1}      -> {"taken": true}; with a sealed memfd, whose layout is cwasi_statistics: what it counts
    {"function": "name", "id": n}
                           -> {"id": n}: it is what stands in the slot of a thread that runs the function
    {"figures": [n, ...]}  -> {"at": ns, "figures": {"n": [...]}}: what these functions did until then, see figures;
                           not of those that are unknown, or have not been looked at yet
    anything else          -> {"error": "..."}

The map is a {u32 tid; u32 id}[N] to be mapped: an array of BPF, or a sealed memfd, as whoever could truncate it
could end the host. A thread's slot is the first with its tid from number tid % N on, of P; it claims one whose tid is
0. The tid is that in the host's own pid namespace, which is what stat() has of its /proc/self/ns/pid: in a wrong one
its threads are not found.

A host numbers its functions itself: an id's lower 10 bits, 1 to 1021, are an index, at which there is one function at a
time; the upper ones a generation, so that no id stands for two functions ever. Ids count within a connection, and so
does the map: what a host says is about its own threads, and names are told apart by host. An id that was not told is
OTHER's. Only processes that are traced are served, and only those that may listen to us. A host that does not read
what it asks for loses its connection. One that knows of no figures asks for none; one that finds no "figures", or
another number, in the answer to its hello, does not either.
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
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeGuard

from . import host_functions
from .caller import Caller, caller_of
from .capabilities import keep_only
from .errors import BadName
from .figures import MOST, Figures
from .figures import VERSION as FIGURES
from .host_functions import HostFunctions, Seat
from .host_statistics import VERSION as STATISTICS
from .host_statistics import HostStatistics, check_file
from .invitation import heard
from .names import checked
from .owner_names import OwnerNames
from .rubbish import Rubbish

ENVIRONMENT = "CWASI_TRACER"
DESCRIPTORS = 3
"""What a host takes: the connection, its map, its statistics."""
POOL = "wasi-pool"
"""Stands for the threads of a host on which wasmtime does what WASI's calls ask for."""

_VERSION = 3
_MESSAGE_BYTES = 4096
_DESCRIPTORS = 253   # a message has no more, and those that are not received would be closed on our thread
_HELLO = f'{{"hello": {_VERSION}, "namespace": [<dev>, <ino>]}}'
_EXPECTED = f'expected {_HELLO}, {{"statistics": {STATISTICS}}} and a file, or {{"function": "<name>", "id": <n>}}'
_NOT_SERVED = "only processes of the traced command, in a pid namespace that the tracer sees, are served"
_KEPT = 1 << 16   # functions and ends of channels of hosts that have left
_NOBODY = 0   # is no owner: of those that are not kept, how many ends there were
_PAUSE_SECONDS = 1.0   # of listening, while there is no room


class Seats(host_functions.Seats, Protocol):
    """Who lets hosts into the trace."""

    slots: int
    probes: int
    capabilities: list[str]
    """What letting one in takes."""

    def knows(self, pid: int) -> bool:
        """Whether that process is traced, and can be told from others."""

    def join(self, pid: int, namespace: tuple[int, int], alive: Callable[[], bool]) -> Seat | None:
        """For such a process; None where it is none. namespace: st_dev and st_ino, as it says. Raises OSError."""

    def figures(self, owners: list[int]) -> tuple[int, dict[int, Figures]]:
        """What is known of them, and since when, in ns of the monotonic clock. Does not wait."""

    def leave(self, seat: Any) -> None:
        """Its map counts no more."""


@dataclass(slots=True)
class _Client:
    """One connection; from its hello on it has functions, and a seat."""

    caller: Caller
    functions: HostFunctions | None = None


class ControlSocket:
    """The listening socket and the thread that serves it."""

    def __init__(self, seats: Seats, connections: int) -> None:
        """connections: how many hosts at a time; each takes DESCRIPTORS."""
        self._seats = seats
        self._most = connections
        self._clients: dict[socket.socket, _Client] = {}
        self._names = OwnerNames()
        self.unheard: set[int] = set()
        """The uids of hosts that do not listen to us."""
        self._lock = threading.Lock()
        """For who reads statistics while a host leaves."""
        self._last: dict[int, HostStatistics] = {}
        """The last words of those that have left, by their seat's owner."""
        self._kept = 0
        self._rubbish = Rubbish()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = f"@cwasi-tracer-{os.getpid()}-{secrets.token_hex(8)}"
        self._listener.bind("\0" + self.address[1:])
        self._listener.listen(64)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="cwasi-tracer", daemon=True)
        self._thread.start()

    def names(self) -> dict[int, str]:
        """The functions by owner. Who is not in it is OTHER."""
        return self._names.all()

    def statistics(self) -> dict[int, HostStatistics]:
        """What each host has said of itself, those that have left too; by its seat's owner."""
        with self._lock:
            now = [client.functions for client in self._clients.values() if client.functions is not None]
            return self._last | {functions.seat.owner: functions.statistics() for functions in now}

    def close(self) -> None:
        """Ends the thread and all connections; hosts keep their mapping of their map, which nobody reads any more."""
        self._wake.close()
        self._thread.join()
        self._rubbish.end()

    def _serve(self) -> None:
        keep_only(self._seats.capabilities)
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            stack.enter_context(self._listener)
            stack.enter_context(self._woken)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                listening = self._listener in selector.get_map()
                ready = selector.select(None if listening else _PAUSE_SECONDS)
                if not listening and not self._rubbish.full:
                    selector.register(self._listener, selectors.EVENT_READ)
                for key, _ in ready:
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
            self._let_go(connection)

    def _drop(self, connection: socket.socket) -> None:
        functions = self._let_go(connection)
        if functions is not None:
            self._seats.retire(functions.owners())

    def _let_go(self, connection: socket.socket) -> HostFunctions | None:
        """Returns what it had, if it was in the trace."""
        with self._lock:
            client = self._clients.pop(connection)
            self._throw_away(connection)
            functions = client.functions
            if functions is None:
                return None
            self._keep(functions.seat.owner, functions.leave())
        self._seats.leave(functions.seat)
        return functions

    def _throw_away(self, connection: socket.socket) -> None:
        """The host hears of it at once; what it has sent, and we have not read, may take its time."""
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        self._rubbish.put(connection.close)

    def _keep(self, owner: int, last: HostStatistics) -> None:
        if self._kept >= _KEPT:
            missed = self._last[_NOBODY].missed if _NOBODY in self._last else 0
            self._last[_NOBODY] = HostStatistics(missed=missed + len(last.ends) + last.missed)
        elif last.functions or last.ends:
            self._last[owner] = last
            self._kept += len(last.functions) + len(last.ends)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        if self._rubbish.full:
            selector.unregister(self._listener)
            return
        try:
            connection, _ = self._listener.accept()
        except OSError as error:   # or the client is gone already
            if error.errno in (errno.EMFILE, errno.ENFILE):
                selector.unregister(self._listener)
            return
        connection.setblocking(False)
        client = self._admitted(connection)
        if isinstance(client, _Client):
            with self._lock:
                self._clients[connection] = client
            selector.register(connection, selectors.EVENT_READ)
            return
        with contextlib.suppress(OSError):
            connection.send(_error(client))
        self._throw_away(connection)

    def _admitted(self, connection: socket.socket) -> _Client | str:
        """Who has connected, or why it is not served."""
        if len(self._clients) >= self._most:
            return "too many connections"
        caller = caller_of(connection)
        if not self._seats.knows(caller.pid):
            return _NOT_SERVED
        if not heard(os.geteuid(), caller.uid):
            self.unheard.add(caller.uid)
            return f"the tracer runs as uid {os.geteuid()}, neither as root nor as you do"
        return _Client(caller)

    def _join(self, connection: socket.socket, client: _Client, namespace: object) -> tuple[bytes, list[int]]:
        """Gives it its map; the same one again where it asks again."""
        if not _is_namespace(namespace):
            return _error(_EXPECTED), []
        lack = self._sit(connection, client, namespace) if client.functions is None else None
        if client.functions is None:
            return _error(lack or _NOT_SERVED), []
        reply = {"version": _VERSION, "slots": self._seats.slots, "probes": self._seats.probes, "figures": FIGURES}
        return _encoded(reply), [client.functions.seat.descriptor]

    def _sit(self, connection: socket.socket, client: _Client, namespace: tuple[int, int]) -> str | None:
        """Lets it in. Returns why not, if not."""
        try:
            pidfd = client.caller.descriptor(connection)
        except ProcessLookupError:
            return "your process has ended"   # it may have passed the connection on
        except OSError as error:
            return str(error)
        try:
            seat = self._seats.join(client.caller.pid, namespace, lambda: not _ended(pidfd))
        except OSError as error:
            return str(error)
        finally:
            os.close(pidfd)
        if seat is None:
            return _NOT_SERVED
        client.functions = HostFunctions(seat, self._seats, self._names, client.caller.pid)
        if not self._names.full:
            self._names.add(seat.owner + 1, POOL, client.caller.pid)
        return None

    def _answer(self, connection: socket.socket) -> bool:
        """Serves one message; False when the connection is to be closed."""
        try:
            message, given, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, _DESCRIPTORS)
            if not message and not given:
                return False
            try:
                reply, fds = self._reply(connection, message, given)
            finally:
                for descriptor in given:   # what is kept has been taken out
                    self._rubbish.put(partial(os.close, descriptor))
            if given and self._rubbish.full:
                return False
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
        if client.functions is None:
            return _error(f"expected {_HELLO} first"), []
        if request == {"statistics": STATISTICS} and given:
            return self._take(client.functions, given), []
        if isinstance(request, dict) and request.keys() == {"function", "id"}:
            return self._name(client.functions, request["function"], request["id"]), []
        if isinstance(request, dict) and request.keys() == {"figures"}:
            return self._figures(client.functions, request["figures"]), []
        return _error(_EXPECTED), []

    def _take(self, functions: HostFunctions, given: list[int]) -> bytes:
        try:
            check_file(given[0])
            with self._lock:
                functions.take(given[0])
        except (OSError, ValueError) as error:
            return _error(str(error))
        given.pop(0)
        return _encoded({"taken": True})

    def _name(self, functions: HostFunctions, name: Any, number: object) -> bytes:
        if type(number) is not int or not 0 < number < 1 << 32:
            return _error(f"{number!r} is no id")
        try:
            with self._lock:
                functions.say(number, checked(name, "function"))
        except (BadName, ValueError) as error:
            return _error(str(error))
        return _encoded({"id": number})

    def _figures(self, functions: HostFunctions, numbers: Any) -> bytes:
        if not isinstance(numbers, list) or len(numbers) > MOST or any(type(number) is not int for number in numbers):
            return _error(f"figures are asked for by at most {MOST} ids")
        owners = functions.owners_of(numbers)
        at, found = self._seats.figures(list(owners.values()))
        told = {number: found[owner].plain() for number, owner in owners.items() if owner in found}
        return _encoded({"at": at, "figures": told})


def _is_namespace(said: object) -> TypeGuard[tuple[int, int]]:
    """Two numbers of the kernel's."""
    return isinstance(said, list) and len(said) == 2 and all(type(word) is int and 0 <= word < 1 << 64 for word in said)


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _encoded(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode()


def _error(text: str) -> bytes:
    return _encoded({"error": text})
