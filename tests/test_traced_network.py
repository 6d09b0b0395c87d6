"""What goes through sockets is counted to the byte, by function; what TCP does later, by who used the socket last."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing import attached, owner_name, traced_host

from cwasi_fastpath.trace_report import NetworkRow, TraceReport
from cwasi_fastpath.tracer import Tracer

# Two functions on two threads of one process, joined by a TCP connection. `info` is what the kernel says of it.
PAIR = """
import json, struct, time

def info(connection):
    words = struct.unpack_from("24I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 8)
    return {"rtt": words[15], "cwnd": words[18]}

def exactly(connection, size):
    while size:
        size -= len(connection.recv(min(size, 65536)))

def pair(client, server):
    ids = {name: ask({"function": name})["id"] for name in ("client", "server")}
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        enter(ids["server"])
        server(connection)
        enter(0)
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    enter(ids["client"])
    connection = socket.create_connection(listener.getsockname())
    client(connection)
    enter(0)
    thread.join()
    connection.close()

def tell(path, what):
    with open(path, "w") as file:
        json.dump(what, file)
"""


@pytest.fixture(scope="module", params=[False, True], ids=["full", "light"])
def tracer(request: pytest.FixtureRequest) -> Iterator[Tracer]:
    with attached(light=request.param) as tracer:
        lacking = [lack for lack in tracer.snapshot().missing if lack.name == "network"]
        assert not any(lack.remedy.startswith("report it") for lack in tracer.snapshot().missing)
        if lacking:
            pytest.skip(f"the network cannot be traced here: {lacking}")
        yield tracer


def network(report: TraceReport, owner: str, kind: str = "tcp") -> NetworkRow:
    (row,) = [row for row in report.network if owner_name(row.owner) == owner and row.kind == kind]
    return row


def test_bytes_over_tcp_are_exact(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        PAIR
        + """
def client(connection):
    for _ in range(1009):
        connection.sendall(b"x" * 10007)
    connection.shutdown(socket.SHUT_WR)  # the connection may be closed before the rest is read
    exactly(connection, 101 * 7919)

def server(connection):
    exactly(connection, 1009 * 10007)
    for _ in range(101):
        connection.sendall(b"y" * 7919)

pair(client, server)
""",
    )
    client, server = network(report, "client"), network(report, "server")
    assert (client.sent_bytes, client.received_bytes) == (1009 * 10007, 101 * 7919)
    assert (server.sent_bytes, server.received_bytes) == (101 * 7919, 1009 * 10007)
    assert client.sends >= 1009 and server.sends >= 101  # a send may take only a part
    assert (client.connects, server.connects) == (1, 0)


def test_every_way_to_send_and_receive_counts_once(tracer: Tracer, tmp_path: Path) -> None:
    """What is only peeked at is not received, what is refused not sent."""
    (tmp_path / "file").write_bytes(b"z" * 50021)
    report = traced_host(
        tracer,
        PAIR
        + f"""
def client(connection):
    os.write(connection.fileno(), b"a" * 23)
    connection.sendmsg([b"b" * 100, b"c"])
    os.writev(connection.fileno(), [b"d" * 6, b"e"])
    with open({str(tmp_path / "file")!r}, "rb") as file:
        connection.sendfile(file)
    connection.shutdown(socket.SHUT_WR)
    try:
        connection.sendall(b"refused")
    except BrokenPipeError:
        pass

def server(connection):
    for _ in range(7):
        assert connection.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL) == b"aaaaa"
    assert os.read(connection.fileno(), 23) == b"a" * 23
    assert connection.recv(101, socket.MSG_WAITALL) == b"b" * 100 + b"c"
    exactly(connection, 7 + 50021)
    assert connection.recv(1) == b""

signal = __import__("signal")
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
pair(client, server)
""",
    )
    sent = 23 + 101 + 7 + 50021
    assert network(report, "client").sent_bytes == sent
    assert network(report, "server").received_bytes == sent


def test_other_sockets_are_told_apart_from_tcp(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        """
number = ask({"function": "mixed"})["id"]
here, there = socket.socketpair()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
enter(number)
for _ in range(101):
    here.send(b"x" * 7)
    there.recv(100)
for _ in range(11):
    udp.sendto(b"y" * 13, udp.getsockname())
    udp.recv(100)
enter(0)
""",
    )
    other = network(report, "mixed", "other")
    assert (other.sends, other.sent_bytes) == (112, 101 * 7 + 11 * 13)
    assert (other.receives, other.received_bytes) == (112, 101 * 7 + 11 * 13)
    assert [row.kind for row in report.network if owner_name(row.owner) == "mixed"] == ["other"]


def test_connects_and_what_a_function_hands_on(tracer: Tracer) -> None:
    """A connection that is refused was begun too. What is sent is the sender's, whoever connected."""
    report = traced_host(
        tracer,
        """
ids = {name: ask({"function": name})["id"] for name in ("connects", "sends")}
listener = socket.create_server(("127.0.0.1", 0))
shut = socket.create_server(("127.0.0.1", 0))
nowhere = shut.getsockname()
shut.close()
enter(ids["connects"])
connections = []
for _ in range(23):
    connections.append(socket.create_connection(listener.getsockname()))
    listener.accept()[0].close()
for _ in range(7):
    try:
        socket.create_connection(nowhere)
    except ConnectionRefusedError:
        pass
enter(ids["sends"])
connections[0].send(b"x" * 101)
enter(0)
""",
    )
    assert (network(report, "connects").connects, network(report, "connects").sent_bytes) == (30, 0)
    assert (network(report, "sends").connects, network(report, "sends").sent_bytes) == (0, 101)


def test_who_has_the_address_of_a_closed_socket_next_is_not_mistaken_for_it(tracer: Tracer) -> None:
    traced_host(
        tracer,
        """
enter(ask({"function": "before"})["id"])
with socket.create_server(("127.0.0.1", 0)) as listener:
    for _ in range(211):
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
            client.send(b"x")
            server.recv(1)
enter(0)
""",
    )
    before = tracer.snapshot()
    with socket.create_server(("127.0.0.1", 0)) as listener:  # here, where nothing is traced
        for _ in range(211):
            with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
                for _ in range(3):
                    client.send(b"x")
                    server.send(server.recv(1))
                    client.recv(1)
    assert tracer.snapshot().since(before).network == ()


def test_time_blocked_is_that_of_calls_that_receive(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        PAIR
        + """
def client(connection):
    time.sleep(0.3)  # is not the network's
    for _ in range(23):
        connection.send(b"q")
        exactly(connection, 1)

def server(connection):
    for _ in range(23):
        exactly(connection, 1)
        time.sleep(0.005)
        connection.send(b"a")

pair(client, server)
""",
    )
    row = network(report, "client")
    if report.light:
        assert row.blocked_ns == 0
        assert "time blocked in calls that send and receive" in {lack.name for lack in report.missing}
        return
    (scheduling,) = [row for row in report.scheduling if owner_name(row.owner) == "client"]
    assert row.blocked_ns >= 23 * 5_000_000 * 0.9 or scheduling.unseen
    assert row.blocked_ns <= scheduling.off_cpu_ns - 270_000_000


def test_round_trips_are_those_of_the_kernel(tracer: Tracer, tmp_path: Path) -> None:
    if lacking := [lack for lack in tracer.snapshot().missing if lack.name.startswith("round-trip")]:
        pytest.skip(f"no round-trip times here: {lacking}")
    report = traced_host(
        tracer,
        PAIR
        + f"""
def client(connection):
    seen = [info(connection)]
    for _ in range(101):
        connection.send(b"q")
        exactly(connection, 1)
        seen.append(info(connection))
    tell({str(tmp_path / "seen")!r}, seen)

def server(connection):
    for _ in range(101):
        exactly(connection, 1)
        connection.send(b"a")

pair(client, server)
""",
    )
    row = network(report, "client")
    seen = json.loads((tmp_path / "seen").read_text())
    assert row.samples >= 101
    assert row.srtt_us is not None and row.cwnd is not None
    assert min(look["rtt"] for look in seen) / 2 <= row.srtt_us <= max(look["rtt"] for look in seen) * 2
    assert min(look["cwnd"] for look in seen) <= row.cwnd <= max(look["cwnd"] for look in seen)


def test_text_and_json() -> None:
    with attached():
        pass
    argv = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
    command = ["--", sys.executable, "-c", "import socket; a, b = socket.socketpair(); a.send(b'x' * 23); b.recv(99)"]
    done = subprocess.run([*argv, *command], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert any(line.startswith("NETWORK") for line in lines), done.stderr
    (row,) = [line for line in lines if line.split()[1:4] == ["other", "23", "23"]]
    assert row.split()[-2:] == ["-", "-"]
    assert all(len(line) < 100 for line in lines)
    done = subprocess.run([*argv, "--json", *command], capture_output=True, text=True, timeout=60)
    (of_json,) = json.loads(done.stdout)["network"]
    assert (of_json["kind"], of_json["sent_bytes"], of_json["received_bytes"]) == ("other", 23, 23)
    assert (of_json["srtt_us"], of_json["cwnd"]) == (None, None)
