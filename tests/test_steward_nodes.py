"""The policy of a host whose guest sends to another node: what it is told of the network, and what it makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from channels import eventually
from nodes import COMMON, Nodes, Process, unable
from slow_cable import FAR, slow_cable

pytestmark = unable

SENDS = COMMON + """
with cwasi.Host() as host:
    guest = host.load(options.pop("guest"), arguments=("2000000000", "16384"), stderr=os.devnull)
    host.attach(guest, cwasi.open_sender("lab", timeout=60, **options), port="out")
    threading.Thread(target=host.run, daemon=True).start()
    tell(running=True)
    for line in sys.stdin:
        tell(explained=host.explain("lab").as_plain())
    host.stop()
"""

TAKES = COMMON + """
with cwasi.open_receiver("lab", timeout=60) as rx:
    threading.Thread(target=lambda: [tell(explained=rx.explain()) for line in sys.stdin], daemon=True).start()
    try:
        while True:
            rx.recv()
    except cwasi.Error as error:
        tell(over=type(error).__name__)
"""


ECHOES = COMMON + """
from dataclasses import replace
from cwasi_fastpath import calibration, kept, soundings
from cwasi_fastpath.policy import CostPolicy, Way, sounding
from cwasi_fastpath.policy.costs import Curve
kept._MESSAGES, soundings._BACK_OFF = 50, 0.1
sounding.SECONDS = soundings.FIRST_SECONDS = 120.0   # what was found holds, however slow the machine is
curves = {
    Way(transport): Curve((64.0, 65536.0), (ns, ns), error=0.1)
    for transport, ns in ((cwasi.Transport.TCP, 50e3), (cwasi.Transport.REDIS, 5e6))
}
costs = replace(calibration.costs(), curves=curves)
with cwasi.Host(policy=CostPolicy(costs)) as host:
    guest = host.load(options.pop("guest"), stderr=os.devnull)
    host.attach(guest, cwasi.open_receiver("feed", timeout=60), port="in")
    host.attach(guest, cwasi.open_sender("lab", timeout=60), port="out")
    threading.Thread(target=host.run, daemon=True).start()
    tell(running=True)
    for line in sys.stdin:
        tell(explained=host.explain("lab").as_plain())
    host.stop()
"""
"""A message costs so much by the server that it matters little how slow the machine is that runs the test."""

FEEDS = COMMON + """
import socket
from cwasi_fastpath import errors, reach
echo, listeners = reach.echo, []
def listening(says):
    listeners.append(socket.create_server((os.environ["CWASI_ADDRESS"], 0)))
    def serve():
        while True:
            connection, _ = listeners[-1].accept()
            connection.sendall(says)
            listeners.append(connection)
    threading.Thread(target=serve, daemon=True).start()
    host, port = listeners[-1].getsockname()
    return {"host": host, "port": port, "key": "00" * 32}
def refused():
    raise errors.TcpUnavailable("it does not echo")
odd = {
    "refuses": refused,
    "tells nonsense": lambda: {"host": 7, "port": "x"},
    "is not there": lambda: {"host": os.environ["CWASI_ADDRESS"], "port": 9, "key": "00" * 32},
    "is not honest": lambda: listening(b"HTTP/1.1 400 Bad Request" * 10),
    "says nothing": lambda: listening(b""),
}
odd = [odd[name] for name in options.pop("odd", [])]
def answer(server):
    tell(asked=True)
    return odd.pop(0)() if odd else echo(server)
reach.echo = answer
tx = cwasi.open_sender("feed", timeout=60, transport="redis")
rx = cwasi.open_receiver("lab", timeout=60)
def feed():
    number, waits = 0, threading.Event()
    while True:
        tx.send(message(number))
        number += 1
        waits.wait(0.02)
threading.Thread(target=feed, daemon=True).start()
for number, data in enumerate(rx):
    assert data == message(number), number
    if number % 50 == 0:
        tell(number=number)
"""


def explained(one: Process) -> Any:
    one.say("explain")
    return one.heard("explained")["explained"]


def cost(explanation: dict[str, Any]) -> float:
    """Of a message by tcp, ns."""
    return float(next(way["ns"] for way in explanation["alternatives"] if way["way"] == "tcp"))


def test_a_link_that_gets_slower_is_seen(nodes: Nodes, guests: Path) -> None:
    """A cable whose rate is limited meanwhile: the same message costs more there, and explain says why."""
    source = str(guests / "source.wasm")
    with nodes.near.run(SENDS, guest=source, transport="tcp") as tx, nodes.far.run(TAKES) as rx:
        tx.heard("running")

        def told() -> dict[str, Any] | None:
            found: dict[str, Any] = explained(tx)
            return found if found["observation"].get("bytes_per_second") else None

        def cheap() -> dict[str, Any] | None:
            """Not as long as messages still queue from the begin."""
            found = told()
            return found if found is not None and cost(found) < 3e6 else None

        before = eventually(cheap)
        assert before["observation"]["srtt_ns"] > 0 and before["observation"]["latency_ns"] is None
        assert "MB/s" in before["network"] and any("two clocks" in lack for lack in before["lacked"])
        command = ["tc", "-n", nodes.near.name, "qdisc", "add", "dev", nodes.near.device, "root", "tbf",
                   "rate", "16mbit", "burst", "64kb", "latency", "50ms"]   # fmt: skip
        subprocess.run(command, check=True)

        def dearer() -> dict[str, Any] | None:
            """The round trip may be told before the rate is."""
            found = told()
            if found is None or found["observation"]["bytes_per_second"] >= before["observation"]["bytes_per_second"]:
                return None
            return found if cost(found) > cost(before) + 3e6 else None

        after = eventually(dearer)   # 16 KiB at 2 MB/s are 8 ms
        assert after["pinned"] == "tcp was asked for"
        assert "  the network: " in explained(rx), "and so its receiver hears"


@pytest.mark.parametrize("odd", [
    [], ["refuses", "tells nonsense", "is not there", "is not honest", "says nothing"],
], ids=["honest", "odd"])   # fmt: skip
def test_a_link_that_recovers_is_seen_from_another_way(nodes: Nodes, guests: Path, odd: list[str]) -> None:
    """The network gets slow, and messages go by the server; it is sounded meanwhile, and they come back."""
    with slow_cable(nodes.near, nodes.far) as cable:
        feeding = nodes.far.run(FEEDS, {"CWASI_ADDRESS": FAR}, odd=odd)
        with feeding as rx, nodes.near.run(ECHOES, guest=str(guests / "echo.wasm")) as tx:
            tx.heard("running")

            def goes_by(way: str) -> dict[str, Any] | None:
                told: dict[str, Any] = explained(tx)
                return told if told["way"] == way else None

            def watched() -> dict[str, Any] | None:
                found = goes_by("redis")
                sounded = found is not None and "sounded" in found["network"]
                return found if sounded and found["observation"]["srtt_ns"] >= 0.1e9 else None

            eventually(lambda: goes_by("tcp"))
            cable.delay = 0.05
            eventually(lambda: goes_by("redis"))
            for _ in odd:
                rx.heard("asked")
            told = eventually(watched)
            assert "ms there and back" in told["network"] and told["observation"]["network_age"] is None
            cable.delay = 0.0
            eventually(lambda: goes_by("tcp"))
            back = eventually(lambda: found if (found := explained(tx))["changes"] > told["changes"] else None)
            assert back["changes"] == told["changes"] + 1, "it was not tried in vain"
            rx.heard("number")
