"""TLS for tcp links: version 1.3, and a certificate of each side that the same authority signed.

Python's ssl does it, in a thread for each connection: a pump between the connection and one side of a socket pair. The
other side of the pair is the end's connection, so that all else is as without TLS: the window, the records, the breaks.
"""

from __future__ import annotations

import errno
import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .. import attribution
from ..errors import BadSpec

_CHUNK = 256 * 1024
_PART_SECONDS = 1.0
_FLIGHTS = 3
_NEED = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)
_SILENT = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM form."""

    authority: str
    """The certificate of who must have signed the other side's."""
    certificate: str
    """Ours. That of a receiver must name the address at which it listens."""
    key: str
    """Ours, private, without a password."""

    def context(self, *, server: bool) -> ssl.SSLContext:
        """Raises BadSpec with the file and what is wrong with it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        if server:
            context.num_tickets = 0   # nobody resumes
        for name in (self.authority, self.certificate, self.key):
            try:
                Path(name).open("rb").close()
            except OSError as error:
                raise BadSpec(f"tls: {name}: {error.strerror}. Give PEM files that this user can read") from error
        try:
            context.load_verify_locations(self.authority)
        except ssl.SSLError as error:
            raise BadSpec(f"tls: {self.authority} holds no certificate in PEM form: {error.reason or error}") from error
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, _Locked) as error:
            raise BadSpec(
                f"tls: {self.certificate} and {self.key} are not a certificate and its private key: {error}"
            ) from error
        return context


    def check(self, host: str) -> None:
        """Whether two sides that have these files, the receiver's at `host`, will trust each other. Raises BadSpec."""
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = (
            self.context(server=False).wrap_bio(there, back, server_hostname=host),
            self.context(server=True).wrap_bio(back, there, server_side=True),
        )
        try:
            for _ in range(_FLIGHTS):
                for side in sides:
                    with suppress(*_NEED):
                        side.do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise BadSpec(
                f"tls: {self.certificate} will not be trusted at {host}: {error.verify_message}. Give a certificate "
                f"that {self.authority} has signed, that is valid now and that names {host}"
            ) from error
        except (ssl.SSLError, ValueError) as error:
            raise BadSpec(f"tls: {self.certificate}: {error}") from error


class _Locked(Exception):
    """A key with a password: nobody is there to type it."""


def _no_password() -> str:
    raise _Locked("the key has a password; give one without")


class Pump(threading.Thread):
    """Agrees on TLS over a connection, then moves bytes until either side hangs up."""

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, host: str | None, timeout: float, function: str | None
    ) -> None:
        """host: whom the other side must be; None for a receiver, which takes any that is signed."""
        super().__init__(name="cwasi tls", daemon=True)
        self._connection = connection
        self._context = context
        self._host = host
        self._secure: ssl.SSLSocket | None = None
        self._timeout = timeout
        self._function = function
        self._plain, self.end = socket.socketpair()
        """end: what the end gets as its connection."""
        self.agreed: bool | None = None
        """None while it is not known."""
        self.why = ""
        self.silent = False
        """It ended because nothing came back from the other node."""
        self.refused = False
        """The other side does not take our certificate, and says so."""
        self.told, self._tell = socket.socketpair()
        """told: readable when it is known."""

    @property
    def carrier(self) -> socket.socket:
        """The connection itself."""
        return self._connection if self._secure is None else self._secure

    def sockets(self, *, forked: bool) -> list[socket.socket]:
        """Those to close by who has done with it: it moves what is on its way, and closes the others. In a forked
        child, where it does not run, all of them.
        """
        if not forked:
            return [self.end, self.told]
        held = [self._connection, self._plain, self.end, self.told, self._tell]
        return [*held, self._secure] if self._secure is not None else held

    def run(self) -> None:
        charged = attribution.function(self._function) if self._function else nullcontext()
        try:
            with charged, self._agree() as secure:
                self.agreed = True
                self._tell.send(b"!")
                self._move(secure)
        except (OSError, ValueError) as error:   # ssl's own are OSErrors
            self.silent = isinstance(error, OSError) and error.errno in _SILENT
            self.refused = isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
            self.why = self.why or str(error)
        finally:
            self.agreed = bool(self.agreed)
            for held in (self._connection, self._plain, self._tell):
                held.close()

    def _agree(self) -> ssl.SSLSocket:
        self._connection.settimeout(self._timeout)
        secure = self._secure = self._context.wrap_socket(
            self._connection, server_side=self._host is None, server_hostname=self._host, do_handshake_on_connect=False
        )
        try:
            secure.do_handshake()
        except BaseException:
            with suppress(OSError):
                self._part(secure)
            secure.close()
            raise
        secure.setblocking(False)
        self._plain.setblocking(False)
        return secure

    def _part(self, secure: ssl.SSLSocket) -> None:
        """What is closed with something unread is reset, and with it what the other side is told."""
        socket.socket.shutdown(secure, socket.SHUT_WR)
        until = time.monotonic() + _PART_SECONDS
        while (left := until - time.monotonic()) > 0:
            secure.settimeout(left)
            if not socket.socket.recv(secure, _CHUNK):
                return

    def _move(self, secure: ssl.SSLSocket) -> None:
        """In both directions, until both have ended. When the end is gone, the other side has some seconds to take what
        it said.
        """
        out = _Flow(self._from_end, secure.send, partial(socket.socket.shutdown, secure))   # ssl's would end reading
        back = _Flow(secure.recv, self._to_end, self._plain.shutdown)
        gone, until = False, math.inf
        while time.monotonic() < until:
            out.move()
            back.move()
            if out.over and back.over:
                return
            if (secure.pending() and not back.left) or (gone and out.reads):
                continue   # that is there already
            if self._wait(secure, out, back, gone, until):
                gone, until = True, time.monotonic() + _PART_SECONDS

    def _from_end(self, size: int) -> bytes:
        """Nothing where it has hung up. Raises BlockingIOError."""
        try:
            return self._plain.recv(size)
        except ConnectionResetError:   # with something unread
            return b""

    def _to_end(self, data: memoryview) -> int:
        """How much it took: all of it where it is gone. Raises BlockingIOError."""
        try:
            return self._plain.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return len(data)

    def _wait(self, secure: ssl.SSLSocket, out: _Flow, back: _Flow, gone: bool, until: float) -> bool:
        """Until one of them can move; whether the end is gone since."""
        poll = select.poll()
        # A side with nothing to wait for would report its hang-up again and again.
        if not gone:
            poll.register(self._plain, (select.POLLIN if out.reads else 0) | (select.POLLOUT if back.left else 0))
        wanted = (select.POLLIN if back.reads else 0) | (select.POLLOUT if out.left else 0)
        if wanted or not back.over:
            poll.register(secure, wanted)
        ready = dict(poll.poll(None if until == math.inf else max(0.0, until - time.monotonic()) * 1000))
        return bool(ready.get(self._plain.fileno(), 0) & (select.POLLHUP | select.POLLERR))


class _Flow:
    """Bytes on their way in one direction."""

    def __init__(
        self, read: Callable[[int], bytes], write: Callable[[memoryview], int], end: Callable[[int], None]
    ) -> None:
        """end: the source has hung up."""
        self._read, self._write, self._end = read, write, end
        self.left = memoryview(b"")
        """What is to be written."""
        self.over = False

    @property
    def reads(self) -> bool:
        return not (self.left or self.over)

    def move(self) -> None:
        """Whatever is possible now."""
        if self.reads:
            with suppress(*_NEED):
                self.left = memoryview(self._read(_CHUNK))
                if not self.left:
                    self.over = True
                    self._end(socket.SHUT_WR)
        if self.left:
            with suppress(*_NEED):
                self.left = self.left[self._write(self.left) :]
