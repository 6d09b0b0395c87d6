"""Real redis-servers with settings of the test's choice, which it may kill, stop and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

HANG = 60.0

SAFE = ("--appendonly", "yes", "--appendfsync", "always")
"""What a durable channel wants."""


_given: set[int] = set()
"""Ports, of which a server may still have to take its."""


def free_port() -> int:
    """Another one each time."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def on_loopback(port: int) -> tuple[str, ...]:
    return ("--port", str(port), "--bind", "127.0.0.1")


class Server:
    """A redis-server in `directory`, on a unix socket there, and on whatever the options say."""

    def __init__(self, directory: Path, *options: str, inside: Sequence[str] = ()) -> None:
        """inside: a command that runs another one, there where it shall run."""
        directory.mkdir(exist_ok=True)
        self._inside = inside
        self.directory = directory
        self.socket = directory / "s"
        self.url = f"unix://{self.socket}"
        self.options: Sequence[str] = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Also again, after kill()."""
        place = ["--dir", str(self.directory), "--unixsocket", str(self.socket), "--logfile", "log"]
        port = [] if "--port" in self.options else ["--port", "0"]
        self._process = subprocess.Popen(
            [*self._inside, "redis-server", *port, "--save", "", *place, *self.options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.wait()

    def wait(self) -> None:
        """Until it answers, be it with a refusal."""
        until = time.monotonic() + HANG
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.BusyLoadingError:
                pass
            except (redis.AuthenticationError, redis.ResponseError):
                return
            except redis.ConnectionError:
                assert self._process is not None
                assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As by a crash."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
