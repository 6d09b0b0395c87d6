"""Which function runs on this thread, told to a tracer where there is one.

A tracer names its socket in the environment (CWASI_TRACER), or comes later and says it. It answers with a map, which it
reads and nobody but us writes: one plain store when a function begins or ends on a thread. Without a tracer the store
goes to a private word. A forked child is a host of its own.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from . import watch
from ._native import check, lib
from .figures import VERSION as FIGURES
from .figures import Questions
from .function_ids import INDEXES, OTHER, FunctionIds
from .invitation import THREAD, heard, limit_waits, listen
from .names import checked

if TYPE_CHECKING:
    from .endpoint import Endpoint

ENVIRONMENT = "CWASI_TRACER"
_VERSION = 3
_MESSAGE_BYTES = 4096
_FIGURES_BYTES = 1 << 16

NO_TRACER = "no tracer: what system calls and the network take is not seen"
Told = tuple[int, object]
"""When the tracer looked, in ns of a clock of its own, and what it saw; neither has been checked."""

_log = logging.getLogger(__name__)
# A generator that dies while this thread gives numbers ends its block here, as a signal's handler may begin one.
_lock = threading.RLock()
_local = threading.local()
_ids = FunctionIds()
_tracer: _TracerClient | None = None
_asked = False


class _TracerClient:
    """Our end of the tracer's control socket."""

    def __init__(self, path: str) -> None:
        """Raises OSError, ValueError, IndexError; nothing has changed then."""
        with ExitStack() as stack:
            self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            limit_waits(self._socket)
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
            # Whoever has the map learns what we run: only root, and our own user, who see it anyway, may have it.
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            uid = struct.unpack("3i", credentials)[1]
            if not heard(uid, os.geteuid()):
                raise PermissionError(f"the tracer at {path} runs as uid {uid}, neither as root nor as we do")
            self.path = path
            self._watched = stack.enter_context(self._socket.dup())
            self._told: dict[int, Told] = {}
            self._unanswered = False
            """Whether we have asked for figures, and not heard yet."""
            self._questions = Questions()
            self.untold = ""
            """Why it is asked for no figures, if so."""
            self._map()
            stack.pop_all()

    def _map(self) -> None:
        """Its map is that of all threads from now on."""
        namespace = Path("/proc/self/ns/pid").stat()
        hello = {"hello": _VERSION, "namespace": [namespace.st_dev, namespace.st_ino]}
        with suppress(BrokenPipeError):   # it has said why
            self._socket.send(json.dumps(hello).encode())
        data, fds, _, _ = socket.recv_fds(self._socket, _MESSAGE_BYTES, 1)
        try:
            slots, probes, version = _hello(data)
            check(lib.cwasi_attribution_map(fds[0], slots, probes), "the tracer's map")
            if version != FIGURES:
                self.untold = "the tracer is of another version, and tells this one no figures"
        finally:
            for fd in fds:
                os.close(fd)

    def begin(self) -> None:
        """Tells it all that there is to tell. Raises OSError if it has gone."""
        self._account()
        for name, number in list(_ids.items()):
            self.tell(name, number)

    def _account(self) -> None:
        """Begins to count what the data plane's time goes into."""
        statistics = check(lib.cwasi_statistics_create(), "statistics for the tracer")
        try:
            for end in watch.ends():
                _describe(end)
            lib.cwasi_statistics_begin()
            request = json.dumps({"statistics": lib.CWASI_STATISTICS_VERSION})
            socket.send_fds(self._socket, [request.encode()], [statistics])
            self._await_answer()
        finally:
            os.close(statistics)

    def tell(self, name: str, number: int) -> None:
        """What the number stands for from now on. Returns when the tracer knows it."""
        self._socket.send(json.dumps({"function": name, "id": number}).encode())
        self._await_answer()

    def _await_answer(self) -> None:
        """It answers in the order in which it was asked."""
        if self._unanswered:
            self._hear(0)
        self._socket.recv(_MESSAGE_BYTES)

    def figures(self, numbers: Sequence[int]) -> Mapping[int, Told]:
        """What it has told of functions so far, some of them newer than others; asks for more. Does not wait.

        Raises OSError if it has gone.
        """
        with suppress(BlockingIOError):
            if self._unanswered:
                self._hear(socket.MSG_DONTWAIT)
            if numbers and not self.untold:
                self._ask(numbers)
        return self._told

    def _ask(self, numbers: Sequence[int]) -> None:
        """For those that were not asked for the longest. Raises OSError."""
        asked = self._questions.next(numbers)
        self._socket.send(json.dumps({"figures": asked}).encode(), socket.MSG_DONTWAIT)
        self._unanswered = True
        if len(self._told) > 2 * INDEXES:   # the others are no functions of ours any more
            self._told = {number: self._told[number] for number in numbers if number in self._told}

    def _hear(self, flags: int) -> None:
        """Takes the answer to our last question; one that makes no sense is the last. Raises OSError."""
        answer = self._socket.recv(_FIGURES_BYTES, flags)
        if not answer:
            raise BrokenPipeError("the tracer has gone")
        self._unanswered = False
        try:
            told = json.loads(answer)
            found = {int(number): (told["at"], figures) for number, figures in told["figures"].items()}
            found = {number: one for number, one in found.items() if number in self._questions.last}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.untold = "the tracer has told what is no answer, and is not asked any more"
        else:
            self._told.update(found)

    def wait(self) -> None:
        """Sleeps until it has gone, or we have left it."""
        poll = select.poll()
        poll.register(self._watched, 0)   # a hang-up is always told
        poll.poll()
        self._watched.close()

    def leave(self) -> None:
        """Another tracer has come, or this one has gone."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)   # for who waits
        self._socket.close()

    def forget(self) -> None:
        """Nobody waits for its end: it is our parent's, and goes on, or there was no thread."""
        self._socket.close()
        self._watched.close()


def _hello(data: bytes) -> tuple[int, int, int | None]:
    """How large the tracer's map is, how many slots a thread may have, and the version of what it tells of functions,
    if it does. Raises ValueError, PermissionError.
    """
    try:
        reply = json.loads(data)
    except RecursionError as error:
        raise ValueError("the tracer's hello is nested too deep") from error
    if isinstance(reply, dict) and "error" in reply:
        raise PermissionError(str(reply["error"]))
    found = [reply.get(name) for name in ("slots", "probes", "figures")] if isinstance(reply, dict) else []
    slots, probes, version = (one if type(one) is int and 0 < one < 1 << 31 else None for one in found or [None] * 3)
    if slots is None or probes is None:
        raise ValueError("the tracer's hello is none")
    return slots, probes, version


def _connect() -> _TracerClient | None:
    global _asked
    if not _asked:
        _asked = True
        path = os.environ.get(ENVIRONMENT)
        if path:
            _begin(path)
    return _tracer


def _begin(path: str) -> bool:
    """Goes over to a tracer; a failure is no reason to stop the work that it would watch. Returns whether we have."""
    global _tracer
    try:
        tracer = _TracerClient(path)
    except (OSError, ValueError, IndexError) as error:
        _log.warning("not traced: %s", error)
        return False
    try:
        threading.Thread(target=_wait_for_its_end, args=(tracer,), name=THREAD, daemon=True).start()
    except RuntimeError as error:   # this user may have no more
        _log.warning("not traced: %s", error)
        tracer.forget()
        return False
    if _tracer is not None:
        _tracer.leave()   # no thread writes to its map any more
    _tracer = tracer
    try:
        tracer.begin()
    except OSError as error:
        _log.warning("not traced: %s", error)
        _leave(tracer)
        return False
    return True


def _wait_for_its_end(tracer: _TracerClient) -> None:
    tracer.wait()
    with _lock:
        _leave(tracer)


def _leave(tracer: _TracerClient) -> None:
    """It has gone, or does not answer."""
    global _tracer
    if _tracer is tracer:
        _tracer = None
        lib.cwasi_statistics_stop()
        tracer.leave()
        listen(join)   # for the next


def _take(name: str) -> int:
    """The number of a function that is in use from now on, or OTHER. Raises BadName."""
    with _lock:
        if name in _ids:
            return _ids.take(name)
        checked(name, "function")
        tracer = _connect()
        if tracer is None:
            listen(join)
        number = _ids.take(name)
        if tracer is not None and number != OTHER:
            try:
                tracer.tell(name, number)
            except OSError as error:
                _log.warning("%s is not traced: %s", name, error)
                _leave(tracer)   # or each new name would wait as long
        return number


def figures(names: Iterable[str]) -> tuple[object, Mapping[str, Told]] | None:
    """Which tracer there is, and what it has told of these functions; asks for more. Does not wait.

    None while it is told something else. Nothing of a name that several have here: its sums are of all of them. Without
    a tracer, or where that tells nothing, there is nothing: see untold.
    """
    if not _lock.acquire(blocking=False):
        return None
    try:
        tracer = _tracer
        if tracer is None:
            return None, {}
        wanted = set(names)
        numbers = {name: number for name, number in _ids.items() if name in wanted and _ids.sole(name)}
        try:
            told = tracer.figures(list(numbers.values()))
        except OSError:   # who waits for its end will leave it
            return tracer, {}
        return tracer, {name: told[number] for name, number in numbers.items() if number in told}
    finally:
        _lock.release()


def is_traced_by(path: str) -> bool:
    """Whether that tracer is ours now."""
    tracer = _tracer
    return tracer is not None and tracer.path == path


def untold() -> str:
    """Why no figures are told to this process, if none are."""
    tracer = _tracer
    return NO_TRACER if tracer is None else tracer.untold


def _give_back(name: str) -> None:
    with _lock:
        _ids.give_back(name)


def _describe(end: Endpoint) -> None:
    pointer = end.told_pointer
    if pointer is not None:   # what exceeds the table is counted there
        lib.cwasi_statistics_end(pointer, end.name.encode(), " ".join(end.peers).encode(), end.transport.encode())


def describe_end(end: Endpoint) -> None:
    """Tells a tracer, where there is one, what an end of a channel is: whom it connects to, and by what.

    Does not wait for who tells it something else meanwhile: whoever changes channels has more to do. One that comes
    just now is told of all ends by who lets it in.
    """
    if not _asked:
        with _lock:
            _connect()
    if _tracer is not None:
        _describe(end)


def join(path: str) -> bool:
    """A tracer has come; one that was there before is left. Whether this process is in its trace now."""
    with _lock:
        return _begin(path)


def _after_fork() -> None:
    """Where our parent is traced: a map of our own, in which the names have the numbers that they had, or none."""
    global _asked, _tracer, _lock
    _lock = threading.RLock()
    if _tracer is None:
        return
    _tracer.forget()
    _tracer, _asked = None, False
    lib.cwasi_attribution_leave()   # there our numbers are our parent's functions
    with _lock:
        _connect()


# Not while another thread gives numbers: the child would have half of it.
os.register_at_fork(
    before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_after_fork
)


class _Block:
    """What a thread does inside it is a function's. Not a generator: that would take twice as long."""

    __slots__ = ("_before", "_name", "_number", "_thread")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._number, self._thread = _take(self._name), _this_thread()
        self._before = lib.cwasi_attribution_enter(self._number)

    def __exit__(self, *_error: object) -> None:
        if self._thread is _this_thread():
            lib.cwasi_attribution_enter(self._before)
            if self._number != OTHER:
                _give_back(self._name)


def function(name: str) -> AbstractContextManager[None]:
    """Charges what this thread does inside the block to the function `name`. Blocks may nest. Raises BadName.

    A block that ends on another thread, as a generator's may, ends nowhere: the thread that it began on keeps it.
    """
    return _Block(name)


def _this_thread() -> object:
    """Stands for it; idents and tids are used again."""
    try:
        return _local.thread
    except AttributeError:
        _local.thread = object()
        return _local.thread
