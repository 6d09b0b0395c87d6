"""Where OpenMetrics are put: on a port of this machine's loopback, or in a file."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..capabilities import keep_only
from ..errors import BadSpec, Error
from ..trace_report import TraceReport
from .trace_loop import Interval
from .trace_openmetrics import CONTENT_TYPE, openmetrics

_ADDRESS = re.compile(r"(?:(127\.\d+\.\d+\.\d+|localhost|\[::1\])?:)?(\d{1,5})")
_PATIENCE = 10.0
"""Seconds, for a client that says nothing."""
_CLIENTS = 16


class ExporterFailed(Error):
    """An address cannot be listened on, or a file cannot be written."""

    exit_code = 74


class _Server4(ThreadingHTTPServer):
    """Anybody on this machine may connect: no more threads than these, and nothing of it on the terminal."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(_CLIENTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked is gone."""


class _Server6(_Server4):
    address_family = socket.AF_INET6


class Server:
    """Answers GET /metrics with what was counted by the last interval."""

    def __init__(self, host: str, port: int, first: TraceReport) -> None:
        """Raises ExporterFailed."""
        self._page = openmetrics(first).encode()
        self.complete = True
        self.capabilities: tuple[str, ...] = ()
        """What to go on takes."""
        try:
            kind = _Server6 if ":" in host else _Server4
            self._server = kind((host, port), _handler(lambda: self._page))
        except (OSError, OverflowError) as error:
            raise ExporterFailed(f"cannot listen on {host}, port {port}: {error}") from error
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_address[1]}/metrics"
        self._thread = threading.Thread(target=self._serve, name="cwasi-metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        keep_only(())   # anybody may connect
        self._server.serve_forever()

    def show(self, interval: Interval) -> None:
        """See Sink."""
        self._page = openmetrics(interval.total).encode()

    def close(self) -> None:
        """Lets go of the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(page: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/", "/metrics"):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            body = page()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Standard error is for what matters."""

    return Handler


class TextFile:
    """Writes a file anew after every interval; a reader sees all of one or all of another."""

    def __init__(self, path: Path, first: TraceReport, failed: Callable[[str], None]) -> None:
        """failed: told once, if it cannot be written later. Raises ExporterFailed."""
        self._path = path
        self._failed = failed
        self.complete = True
        self._write(first)
        self.url = str(path)
        self.capabilities = () if _is_ours(path.parent) else ("CAP_DAC_OVERRIDE",)

    def show(self, interval: Interval) -> None:
        """See Sink. Tries again next time where it fails."""
        try:
            self._write(interval.total)
        except ExporterFailed as error:
            if self.complete:
                self._failed(f"{error}: what is in it is old")
            self.complete = False

    def close(self) -> None:
        """The file stays."""

    def _write(self, report: TraceReport) -> None:
        name = None
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            with os.fdopen(descriptor, "w") as file:
                file.write(openmetrics(report))
                os.fchmod(file.fileno(), 0o644)
            Path(name).replace(self._path)
        except OSError as error:
            if name is not None:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
            raise ExporterFailed(f"{self._path}: {error.strerror}") from error


def _is_ours(directory: Path) -> bool:
    """Whether our user may write there, with no capability: tried by a thread that has none."""
    found: list[bool] = []

    def look() -> None:
        keep_only(())
        found.append(os.access(directory, os.W_OK | os.X_OK, effective_ids=True))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found == [True]


def exporter(where: str, first: TraceReport, failed: Callable[[str], None]) -> Server | TextFile:
    """At an address of the loopback, or, where there is a slash in it, in a file. Raises BadSpec, ExporterFailed."""
    if "/" in where:
        return TextFile(Path(where), first, failed)
    found = _ADDRESS.fullmatch(where)
    if found is None or int(found[2]) > 65535:
        raise BadSpec(f"--openmetrics {where}: give PORT, 127.0.0.1:PORT or [::1]:PORT, or a file with a / in it")
    host = "127.0.0.1" if found[1] in (None, "localhost") else found[1].strip("[]")
    return Server(host, int(found[2]), first)
