"""Channels for measuring whose transport needs more than its name: a server, or certificates."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path as File
from types import TracebackType
from typing import Self

from .. import errors
from ..channel import open_channel
from ..endpoint import RECEIVER, SENDER, Endpoint
from ..receiver import Receiver
from ..sender import Sender
from ..transport.tcp import TcpLink
from ..transport.tls import TlsFiles
from .case import Case, Path

_ADDRESS = "127.0.0.1"


class RemoteEnds:
    """Opens them, and removes what it made for that."""

    def __init__(self, redis: str | None, no_redis: str = "") -> None:
        """redis: the URL of a server that answers, or None, and then why there is none."""
        self._redis, self._no_redis = redis, no_redis
        self._directory: File | None = None

    def open(self, name: str, case: Case) -> tuple[Sender, Receiver]:
        """Both ends of a new channel. Raises Unavailable."""
        if case.path is Path.REDIS:
            if self._redis is None:
                raise errors.RedisUnavailable(self._no_redis)
            return open_channel(name, self._redis)
        link = TcpLink.create(_ADDRESS, tls=self._files)
        tx, rx = Sender(link.open(SENDER), name), Receiver(link.open(RECEIVER), name)
        left = [tx, rx]

        def closed(end: Endpoint) -> None:
            left.remove(end)
            if not left:
                link.close()

        tx.on_close = rx.on_close = closed
        return tx, rx

    @cached_property
    def _files(self) -> TlsFiles:
        """A certificate that signs itself, for both ends."""
        if shutil.which("openssl") is None:
            raise errors.Unavailable("openssl is not installed. Remedy: apt install openssl")
        self._directory = File(tempfile.mkdtemp(prefix="cwasi-bench-"))
        certificate, key = (str(self._directory / name) for name in ("node.pem", "node.key"))
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=bench", "-addext", f"subjectAltName=IP:{_ADDRESS}", "-keyout", key, "-out", certificate],
            capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode:
            raise errors.Unavailable(f"openssl makes no certificate: {made.stderr.strip()}")
        return TlsFiles(certificate, certificate, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
