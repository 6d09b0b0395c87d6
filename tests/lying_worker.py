"""A host process, instead of cwasi_fastpath.worker: its ends of the channel "lies" have counted what it likes."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

from cwasi_fastpath import tally
from cwasi_fastpath.endpoint import Endpoint
from cwasi_fastpath.worker import main

ENVIRONMENT = "CWASI_TEST_LIE"
_honest = tally.tell


def rows(lie: str, ends: int) -> Iterator[bytes]:
    most = 2**64 - 2
    while True:
        if lie == "garbage":
            yield b"\xff" * (48 * ends - 1)
        elif lie == "too long":
            yield bytes(48 * ends + 1)
        elif lie == "back":
            yield struct.pack("=6Q", *[most] * 6) * ends
            yield bytes(48) * ends
        else:
            yield bytes(48) * ends
            yield struct.pack("=6Q", *[most] * 6) * ends


def tell(connection: socket.socket, ends: Sequence[Endpoint], longest: int) -> None:
    lie = os.environ[ENVIRONMENT]
    if ends[0].name != "lies" or lie == "none":
        _honest(connection, ends, longest)
        return
    if lie == "silence":
        return
    for told in rows(lie, len(ends)):
        if not connection.recv(1):
            return
        connection.send(told)


if __name__ == "__main__":
    tally.tell = tell
    main()
