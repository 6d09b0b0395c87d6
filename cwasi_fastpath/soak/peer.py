"""A process that holds one end of a channel, until it is told to close, killed, or left alone by its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from .. import transport, watch
from ..endpoint import SENDER, Endpoint
from ..receiver import Receiver, gathered
from ..sender import Sender
from ..transport import Link
from .tally import Ending, Tally
from .worker import work


class Peer:
    """The process, as its parent sees it."""

    def __init__(self, role: int, number: int, links: list[Link], tally: Tally, largest: int) -> None:
        """Starts it with its end of the links; number: which sender, or which receiver."""
        exported = [link.export(role, number if role != SENDER else 0) for link in links]
        fds = [tally.fd, *(fd for _, own in exported for fd in own)]
        description = {
            "role": role,
            "number": number,
            "tally": tally.fd,
            "largest": largest,
            "links": [[plain, own] for plain, own in exported],
        }
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, json.dumps(description)], stdin=subprocess.PIPE, pass_fds=fds
        )

    def kill(self) -> None:
        """By SIGKILL."""
        self._child.kill()

    def join(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Ends it, if it has not."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def _opened(description: dict[str, Any]) -> Endpoint:
    role, number = description["role"], description["number"]
    reader = 0 if role == SENDER else number
    links = [transport.join(plain, fds) for plain, fds in description["links"]]
    pointers = [link.open(role, reader=reader) for link in links]
    for link in links:
        link.close()
    return Sender(pointers[0], "soak") if role == SENDER else Receiver(gathered(pointers), "soak")


def main() -> None:
    """Runs in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    description = json.loads(sys.argv[1])
    tally = Tally(description["tally"])
    try:
        end = _opened(description)
        watch.watch(end)
        work(end, description["number"], tally, description["largest"])
    except BaseException:
        tally.end(Ending.UNEXPECTED)
        raise


if __name__ == "__main__":
    main()
