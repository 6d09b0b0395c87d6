"""The policy of a host whose guest sends to another node: what it is told of the network, and what it makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from channels import eventually
from nodes import COMMON, Nodes, Process, unable

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

        before = eventually(told)
        assert before["observation"]["srtt_ns"] > 0 and before["observation"]["latency_ns"] is None
        assert "MB/s" in before["network"] and any("two clocks" in lack for lack in before["lacked"])
        command = ["tc", "-n", nodes.near.name, "qdisc", "add", "dev", nodes.near.device, "root", "tbf",
                   "rate", "16mbit", "burst", "64kb", "latency", "50ms"]   # fmt: skip
        subprocess.run(command, check=True)

        def dearer() -> dict[str, Any] | None:
            found = told()
            return found if found is not None and cost(found) > cost(before) + 3e6 else None

        after = eventually(dearer)   # 16 KiB at 2 MB/s are 8 ms
        assert after["observation"]["bytes_per_second"] < before["observation"]["bytes_per_second"]
        assert after["pinned"] == "tcp was asked for"
        assert "  the network: " in explained(rx), "and so its receiver hears"
