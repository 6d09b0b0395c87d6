"""What TCP sends again is counted to the segment and charged to who sent it; the kernel's own counts are referees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hidden import hidden_events
from test_traced_network import PAIR, network
from tracing import attached, traced_host

from cwasi_fastpath.tracer import Tracer

# ld len; jge 1000; ld rand; mod 5; jeq 0: drop (TC_ACT_SHOT); else pass.
DROP = "7,128 0 0 0,53 0 4 1000,32 0 0 4294963256,148 0 0 5,21 0 1 0,6 0 0 2,6 0 0 0"
SIZE = 10007


@pytest.fixture(scope="module", params=[False, True], ids=["full", "light"])
def tracer(request: pytest.FixtureRequest) -> Iterator[Tracer]:
    with attached(light=request.param) as tracer:
        wanted = ("network", "round-trip times and congestion windows")  # both, as the referee reads tracefs too
        lacking = [lack for lack in tracer.snapshot().missing if lack.name in wanted]
        if lacking:
            pytest.skip(f"the network cannot be traced here, or tracefs not be read: {lacking}")
        yield tracer


def test_segments_sent_again_are_those_of_the_sender(tracer: Tracer, tmp_path: Path) -> None:
    """A filter in a network namespace of the host's own drops one in five of the large segments on their way.

    Messages of one segment: the kernel's own count is of segments, also where several are sent as one packet. What it
    did not show to any program is told by a referee; most kernels show all.
    """
    if not shutil.which("tc") or not shutil.which("ip"):
        pytest.skip("no tc and ip here (apt install iproute2)")
    with hidden_events("tcp/tcp_retransmit_skb") as hidden:
        report = traced_host(
            tracer,
            PAIR
            + f"""
import ctypes, subprocess
if ctypes.CDLL(None).unshare(0x40000000):  # CLONE_NEWNET; the tracer was asked for its map before
    tell({str(tmp_path / "seen")!r}, "no network namespace of its own")
    sys.exit()
for command in (
    ["ip", "link", "set", "lo", "up"],
    ["tc", "qdisc", "add", "dev", "lo", "clsact"],
    ["tc", "filter", "add", "dev", "lo", "ingress", "bpf", "da", "bytecode", {DROP!r}],
):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        tell({str(tmp_path / "seen")!r}, f"{{' '.join(command)}}: {{done.stderr}}")
        sys.exit()

def again(connection):
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return {{"segments": struct.unpack_from("I", raw, 100)[0], "bytes": struct.unpack_from("Q", raw, 208)[0]}}

seen = {{}}
def client(connection):
    for _ in range(211):
        connection.sendall(b"x" * {SIZE})
        exactly(connection, 1)
    seen["client"] = again(connection)

def server(connection):
    for _ in range(211):
        exactly(connection, {SIZE})
        connection.send(b"a")
    seen["server"] = again(connection)

pair(client, server)
while any(line.split()[3] in ("04", "09", "0B") for line in open("/proc/self/net/tcp")):  # what waits for the last word
    time.sleep(0.01)
names, values = [line.split() for line in open("/proc/self/net/snmp") if line.startswith("Tcp:")]
seen["namespace"] = int(values[names.index("RetransSegs")])
tell({str(tmp_path / "seen")!r}, seen)
""",
        )
        unshown = hidden.count()
    seen = json.loads((tmp_path / "seen").read_text())
    if isinstance(seen, str):
        pytest.skip(f"packets cannot be dropped here: {seen}")
    segments = {name: seen[name]["segments"] for name in ("client", "server")}
    assert segments["client"] > 0
    assert [seen[name]["bytes"] for name in segments] == [segments["client"] * SIZE, segments["server"]]
    counted = {name: network(report, name).retransmits for name in segments}
    late = seen["namespace"] - sum(segments.values())  # of the end of the connection
    for name in segments:
        assert segments[name] - unshown <= counted[name] <= segments[name] + late, (counted, seen, unshown)
    assert seen["namespace"] - unshown <= sum(counted.values()) <= seen["namespace"], (counted, seen, unshown)
    assert network(report, "client").sent_bytes == network(report, "server").received_bytes == 211 * SIZE
