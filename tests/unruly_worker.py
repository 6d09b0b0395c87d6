"""A host process, instead of cwasi_fastpath.worker: the one that has the function "unruly" does what it likes, when it
hears a word.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import Any

from channels import HANG

from cwasi_fastpath import worker

ENVIRONMENT = "CWASI_TEST_UNRULY"
"""The word, and what it does then."""


class Unruly(worker._Child):
    """All others are honest."""

    _mine = False

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        self._mine = self._mine or any(function["name"] == "unruly" for function in message.get("load", ()))
        word, does = os.environ[ENVIRONMENT].split(":")
        if not self._mine or word not in message:
            super()._handle(message, fds)
        elif does == "dies, but not its child":
            if os.fork():
                os.kill(os.getpid(), signal.SIGKILL)
            self._outlive()
        elif does == "says nothing":
            self._socket.send(b"")
        elif does == "hangs up":
            self._socket.shutdown(socket.SHUT_WR)

    def _outlive(self) -> None:
        """Holds our sockets open, until the parent has hung up; but not for ever."""
        hung_up = select.poll()
        hung_up.register(self._socket, 0)
        hung_up.poll(int(1500 * HANG))
        os._exit(0)


if __name__ == "__main__":
    worker._Child = Unruly   # type: ignore[misc]
    worker.main()
