"""A redis-server of our own: private, on a unix socket, without persistence, gone when we are gone."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from . import errors

_REMEDY = "apt install redis-server"
_PREFIX = "cwasi-redis-"
_SOCKET = "redis.sock"
_SOCKET_PATH_MAX = 107
_FRESH_SECONDS = 60.0
_POLL_SECONDS = 0.005
_STOP_SECONDS = 5.0
_LOG_TAIL = 4096

# A message may have 1 GiB; the server's own limits are 512 MiB for a value and 1 GiB for a request.
_OPTIONS = (
    "--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning",
    "--proto-max-bulk-len", "2gb", "--client-query-buffer-limit", "3gb",
)  # fmt: skip


class RedisServer:
    """Starts a server that only this user can reach. Use it in a `with` block, or close it.

    The kernel kills the server when the thread that made it ends, however that ends: make it on a thread that lives as
    long as the server is needed.
    """

    def __init__(self, timeout: float = 10.0, settings: Sequence[str] = ()) -> None:
        """timeout: seconds until it must answer. settings: other ones than ours, as redis-server takes them.

        Raises RedisUnavailable.
        """
        program = shutil.which("redis-server")
        if program is None:
            raise errors.RedisUnavailable(f"redis-server is not installed. Remedy: {_REMEDY}")
        self._process: subprocess.Popen[bytes] | None = None
        _tidy()
        self._directory, self._lock = _fresh_directory()
        # In memory, so that a full disk does not swallow the very line that says so.
        self._log = os.memfd_create("redis-server.log", os.MFD_CLOEXEC)
        try:
            self._socket = _socket_in(self._directory)
            self._process = self._start(program, settings)
            self._wait_for_answer(timeout)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """For clients: unix://..."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Of the server. Raises RedisUnavailable when it is closed."""
        if self._process is None:
            raise errors.RedisUnavailable("this redis-server was closed")
        return self._process.pid

    def _start(self, program: str, settings: Sequence[str]) -> subprocess.Popen[bytes]:
        setpriv = shutil.which("setpriv")
        leash = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        place = ["--dir", str(self._directory), "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        try:
            return subprocess.Popen(
                [*leash, program, *_OPTIONS, *place, *settings],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                process_group=0,   # Ctrl-C is for us; we end the server when we have finished with it
            )
        except OSError as error:
            raise errors.RedisUnavailable(f"{program} cannot be started: {error.strerror}") from error

    def _wait_for_answer(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while not _answers(self._socket):
            assert self._process is not None
            status = self._process.poll()
            if status is not None:
                raise errors.RedisUnavailable(f"redis-server ended at once (status {status}): {self._last_words()}")
            if time.monotonic() > until:
                raise errors.RedisUnavailable(
                    f"redis-server does not answer after {timeout:g} s: {self._last_words()}"
                )
            time.sleep(_POLL_SECONDS)

    def _last_words(self) -> str:
        """The last line of the server's log."""
        start = max(0, os.fstat(self._log).st_size - _LOG_TAIL)
        lines = os.pread(self._log, _LOG_TAIL, start).decode(errors="replace").split("\n")
        printable = ("".join(filter(str.isprintable, line)).strip() for line in reversed(lines))
        return next(filter(None, printable), "it left no message")

    def close(self) -> None:
        """Ends the server and removes what it had on disk. Closing twice is safe."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _fresh_directory() -> tuple[Path, int]:
    """Nobody else can look into it (0700); and the lock that says that it is in use. Raises RedisUnavailable."""
    try:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        return directory, _locked(directory)
    except OSError as error:
        raise errors.RedisUnavailable(
            f"no directory for redis-server: {error.strerror}. Make room, or set TMPDIR to another place"
        ) from error


def _locked(directory: Path) -> int:
    """The kernel gives the lock back when its owner ends, however that ends. Raises OSError: somebody has it."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _tidy() -> None:
    """Removes the directories of those that were killed before they could."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = directory.lstat()
            # A fresh one may not be locked yet.
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _FRESH_SECONDS:
                continue
            lock = _locked(directory)
            try:
                if not _answers(directory / _SOCKET):
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


def _socket_in(directory: Path) -> Path:
    """Raises RedisUnavailable where the kernel would cut the path off."""
    path = directory / _SOCKET
    length = len(os.fsencode(path))
    if length > _SOCKET_PATH_MAX:
        raise errors.RedisUnavailable(
            f"{path} is too long for a socket ({length} bytes, {_SOCKET_PATH_MAX} at most). "
            "Set TMPDIR to a shorter path"
        )
    return path


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
