"""The other process of a live run, to which the guest that answers moves: `python -m cwasi_fastpath.live.elsewhere`.

It says in a line when it is ready, opens the ends of that guest as successor, says so in another one, and runs it. A
line on standard input: it hands the guest over again, and ends. The end of standard input: it ends as well, whatever
its guest does.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from .. import calibration, errors
from ..host import Host
from ..policy.comparisons import policy_named
from ..rendezvous import open_receiver, open_sender
from .pair import CHANNELS, MODULE

SECONDS = 30.0
"""In which ends meet, or move, and processes begin and end."""
_LOOK = 0.1


class Elsewhere:
    """That process, as the one sees it that started it."""

    def __init__(self, names: Sequence[str], policy: str) -> None:
        """names: under which the channels are found. policy: the name of that of its host."""
        # -P: modules come from where we come from, not from the current directory.
        argv = [sys.executable, "-P", "-m", "cwasi_fastpath.live.elsewhere", *names, policy]
        try:
            # A group of its own: what Ctrl-C means is for us to say.
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0
            )
        except OSError as error:
            what = f"the other process of a live run cannot be started: {error.strerror}"
            raise errors.Unavailable(f"{what}. Remedy: allow this user more processes") from error

    def hear(self, word: str) -> None:
        """Waits until it says that. Raises HostDied."""
        assert self._process.stdout is not None
        ready = select.select([self._process.stdout], [], [], SECONDS)[0]
        if not ready or self._process.stdout.readline() != f"{word}\n".encode():
            raise errors.HostDied("the other process of a live run ended, or does not answer")

    def send_home(self) -> None:
        """It is to hand the guest over."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):   # it has ended, and who opens its ends is told
            self._process.stdin.write(b"home\n")

    def check(self) -> None:
        """Raises HostDied where it is gone, or has failed."""
        if self._process.poll():
            raise errors.HostDied(f"the other process of a live run ended with status {self._process.returncode}")

    def end(self) -> None:
        """Waits for it. Raises HostDied where it did not end well."""
        with suppress(subprocess.TimeoutExpired):   # it is killed then
            self._process.wait(SECONDS)
        self.kill()
        self.check()

    def kill(self) -> None:
        """Twice is safe."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()


def main() -> None:
    """Runs there."""
    *names, policy = sys.argv[1:]
    try:
        _stay(names, policy)
    except (errors.Error, BrokenPipeError) as error:
        sys.exit(f"cwasi: the other process of a live run: {error}")


def _stay(names: Sequence[str], policy: str) -> None:
    with ThreadPoolExecutor(1) as thread, Host(policy=policy_named(policy, calibration.costs(None))) as host:
        reply = host.load(MODULE, "reply", arguments=("reply",))
        print("ready", flush=True)
        asked = open_receiver(names[0], timeout=SECONDS, successor=True)
        host.attach(reply, asked, port=CHANNELS[0])
        answers = open_sender(names[1], timeout=SECONDS, policy=host.policy, successor=True)
        host.attach(reply, answers, port=CHANNELS[1])
        running = thread.submit(host.run, reply)
        print("here", flush=True)
        if _told(running):
            host.move_out(reply, SECONDS)
        running.result()


def _told(running: Future[None]) -> bool:
    """Whether the guest is wanted back, before it ends. Ends this process where nobody wants it any more."""
    while not running.done():
        if select.select([0], [], [], _LOOK)[0]:
            if os.read(0, 100):
                return True
            if not running.done():
                os._exit(1)
    return False


if __name__ == "__main__":
    main()
