"""The child's side of cwasi_fastpath.process: a host that does what its parent says, and ends with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

from . import errors, final_report, tally, transport, watch
from .doings import Doings
from .endpoint import Endpoint
from .host import Host
from .policy import Policy
from .process import MESSAGE_BYTES
from .shield import shield
from .switch_part import SwitchPart, decision_of

_MAX_FDS = 253   # the most that the kernel passes at once


class _Child:
    """A host that does what its parent says, and ends with it."""

    def __init__(self, connection: socket.socket, counting: socket.socket) -> None:
        self._socket = connection
        self._counting = counting
        self._ends: list[Endpoint] = []
        """In the order in which they were joined."""
        self._host: Host | None = None
        self._worker: threading.Thread | None = None
        self._part: SwitchPart | None = None

    def serve(self) -> None:
        """Handles messages until the parent hangs up; after a failure it only waits for that."""
        failed = False
        while True:
            data, fds = self._receive()
            if not data:
                break
            if failed:
                continue
            try:
                self._handle(json.loads(data), fds)
            except Exception as error:
                failed = True
                self._report({"error": _described(error)})
        self._end()

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, _MAX_FDS)
        except ConnectionResetError:
            return b"", []
        return data, fds

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        if "load" in message:
            if message["shielded"]:
                shield()
            self._host = Host(policy=_NoChoice(), timeout=message["timeout"])
            self._host.switcher = message["switcher"]
            self._part = SwitchPart(self._host, self._answer)
            for function in message["load"]:
                self._host.load(function.pop("path"), function.pop("name"), **function)
        host = self._host
        if host is None:
            return
        if "join" in message:
            self._join(host, message, fds)
        elif "number" in message:
            assert self._part is not None
            self._part.heard(message, fds)
        elif "run" in message:
            self._worker = threading.Thread(target=self._run, args=(host,), daemon=True)
            self._worker.start()
            did = Doings({guest.name: guest.thread for guest in host.guests})
            told = (self._counting, self._ends, did, MESSAGE_BYTES)
            threading.Thread(target=tally.tell, args=told, name=tally.THREAD, daemon=True).start()
        elif "peer_died" in message:
            host.peer_died(message["peer_died"], tuple(message["edge"]))
        elif "stop" in message:
            host.stop()
        elif "ready" in message:
            self._report({"ready": True})

    def _join(self, host: Host, message: dict[str, Any], fds: list[int]) -> None:
        decisions = {
            (sender, receiver): decision_of(plain)
            for sender, receiver, plain in message["decisions"]
        }
        links = []
        for description in message["links"]:
            count = description.pop("fds")
            links.append(transport.join(description, fds[:count]))
            fds = fds[count:]
        end = host.join(
            message["join"],
            decisions,
            message["role"],
            next(guest for guest in host.guests if guest.name == message["function"]),
            links,
            reader=message["reader"],
            port=message["port"],
            backs=message["backs"],
            private=message["private"],
        )
        watch.watch(end)
        end.sample(message["sample"])
        self._ends.append(end)

    def _run(self, host: Host) -> None:
        error: BaseException | None = None
        try:
            host.run()
        except BaseException as raised:
            error = raised
        guests = {guest.name: guest.cpu_seconds for guest in host.guests}
        channels = host.channels
        host.close()
        ends = tuple(report for channel in channels for report in channel.reports())
        done = final_report.plain(final_report.Outcome(ends, guests))
        self._report({"done": done} if error is None else {"done": done, "error": _described(error)})

    def _answer(self, number: int, error: Exception | None) -> None:
        self._report({"answer": number, "error": None if error is None else _described(error)})

    def _report(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        if len(data) > MESSAGE_BYTES:
            error = errors.Error(f"a report of {len(data):,} bytes is too long")
            data = json.dumps({"error": _described(error)}).encode()
        with suppress(BrokenPipeError, ConnectionResetError):   # serve() sees the hang-up
            self._socket.send(data)

    def _end(self) -> None:
        """The parent is done with us, or dead: nothing here may outlive it, not even a guest in an endless loop."""
        if self._host is not None:
            self._host.stop()
        if self._worker is not None:
            self._worker.join(1.0)
        sys.stderr.flush()
        os._exit(0)


class _NoChoice(Policy):
    """The parent decides."""

    def decide(self, request: object) -> None:
        return None


def _described(error: BaseException) -> dict[str, Any]:
    if isinstance(error, errors.Error):
        kind, message, exit_code, happened_ns = type(error).__name__, str(error), error.exit_code, error.happened_ns
    else:
        kind, message, exit_code, happened_ns = "Error", f"{type(error).__name__}: {error}", 1, 0
    return {"type": kind, "message": message, "exit_code": exit_code, "happened_ns": happened_ns}


def main() -> None:
    """Runs in the child: `python -m cwasi_fastpath.worker FD FD`."""
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Child(*(socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])).serve()


if __name__ == "__main__":
    main()
