"""TCP between two network namespaces, which stand for two nodes: the cable is pulled and put back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from channels import HANG
from nodes import Namespace, unable

PATIENCE = 4.0
COUNT = 4000

RECEIVER = """
import json, sys
import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.transport.tcp import TcpLink
link = TcpLink.create(sys.argv[1], 0, patience=float(sys.argv[2]))
print(json.dumps(link.export(SENDER)[0]), flush=True)
number = 0
with cwasi.Receiver(link.open(RECEIVER), "lab") as rx:
    for message in rx:
        assert message == number.to_bytes(4, "little") * (1 + number % 2000), number
        number += 1
        if number % 100 == 0:
            print(number, flush=True)
print("all", number, flush=True)
link.close()
"""

SENDER = """
import json, sys, time
import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import SENDER
from cwasi_fastpath.transport import join
link = join(json.loads(sys.argv[1]), [])
with cwasi.Sender(link.open(SENDER), "lab") as tx:
    for number in range(int(sys.argv[2])):
        tx.send(number.to_bytes(4, "little") * (1 + number % 2000))
        time.sleep(0.001)
link.close()
print("sent", tx.metrics().messages, flush=True)
"""

pytestmark = unable

Ends = tuple[subprocess.Popen[str], subprocess.Popen[str]]


@pytest.fixture
def ends(wired: tuple[Namespace, Namespace], request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A sender and a receiver, one on each node, that have exchanged some messages."""
    near, far = wired
    with far.start(RECEIVER, far.address, str(PATIENCE)) as receiver:
        try:
            assert receiver.stdout is not None
            description = receiver.stdout.readline()
            with near.start(SENDER, description, str(getattr(request, "param", COUNT))) as sender:
                try:
                    assert receiver.stdout.readline() == "100\n"
                    yield sender, receiver
                finally:
                    sender.kill()
        finally:
            receiver.kill()


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_a_cable_that_is_pulled_and_put_back(wired: tuple[Namespace, Namespace], ends: Ends, seconds: float) -> None:
    """For less than what a connection survives, and for so long that it is made again."""
    sender, receiver = ends
    wired[1].cable("down")
    time.sleep(seconds)
    wired[1].cable("up")
    told, _ = receiver.communicate(timeout=HANG)
    assert receiver.returncode == 0 and told.splitlines()[-1] == f"all {COUNT}"
    assert sender.communicate(timeout=HANG)[0] == f"sent {COUNT}\n" and sender.returncode == 0


@pytest.mark.parametrize("ends", [1 << 30], indirect=True)
def test_a_cable_that_stays_out(wired: tuple[Namespace, Namespace], ends: Ends) -> None:
    sender, receiver = ends
    wired[1].cable("down")
    for end in (sender, receiver):
        end.communicate(timeout=HANG)
        assert end.returncode == 1, "PeerDied"
