"""A host process, instead of cwasi_fastpath.worker: its ends of the channel "lies" have counted, and their functions
have done, what it likes.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

from cwasi_fastpath import tally
from cwasi_fastpath.doings import Doings
from cwasi_fastpath.endpoint import Endpoint
from cwasi_fastpath.observing import Ends
from cwasi_fastpath.worker import main

ENVIRONMENT = "CWASI_TEST_LIE"
_honest = tally.tell


def rows(lie: str, ends: int, deeds: int) -> Iterator[bytes]:
    """deeds: bytes about functions."""
    most = struct.pack("=6Q", *[2**64 - 2] * 6) * ends + b"\xfe" * deeds
    nothing = bytes(48 * ends + deeds)
    while True:
        if lie == "garbage":
            yield b"\xff" * (len(nothing) - 1)
        elif lie == "too long":
            yield nothing + b"?"
        else:
            yield from (most, nothing) if lie == "back" else (nothing, most)


def tell(connection: socket.socket, ends: Sequence[Endpoint], did: Doings, longest: int) -> None:
    lie = os.environ[ENVIRONMENT]
    if ends[0].name != "lies" or lie == "none":
        _honest(connection, ends, did, longest)
    elif lie == "deeds":
        counted = Ends(ends)
        while connection.recv(1):
            connection.send(counted.rows() + os.urandom(len(did.rows())))
    elif lie != "silence":
        for told in rows(lie, len(ends), len(did.rows())):
            if not connection.recv(1):
                return
            connection.send(told)


if __name__ == "__main__":
    tally.tell = tell
    main()
