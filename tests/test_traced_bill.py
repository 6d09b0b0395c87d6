"""What the data plane counts for a tracer is exact, whatever the transport; and what a hostile host may hand over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing import attached, calls, owner_name, traced, traced_host

from cwasi_fastpath.tax_bill import ChannelTax, FunctionTax, TaxBill, tax_bill
from cwasi_fastpath.tracer import Tracer


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    with attached() as tracer:
        yield tracer


def function(bill: TaxBill, name: str) -> FunctionTax:
    (found,) = [tax for tax in bill.functions if owner_name(tax.owner) == name]
    return found


def channel(bill: TaxBill, name: str, direction: str) -> ChannelTax:
    (found,) = [tax for tax in bill.channels if (tax.channel, tax.direction) == (name, direction)]
    return found


STREAM = """
import sys
import cwasi_fastpath as cwasi

with cwasi.Host() as host:
    ends = [host.load(f"{sys.argv[1]}/{name}.wasm", arguments=["20011", "64"]) for name in ("source", "sink")]
    host.connect("stream", *ends, transport=sys.argv[2], ports=("out", "in"))
    host.run()
"""


@pytest.mark.parametrize("transport", ["ring", "pipe", "tcp"])
def test_guests(tracer: Tracer, guests: Path, transport: str) -> None:
    bill = tax_bill(traced(tracer, [sys.executable, "-c", STREAM, str(guests), transport]))
    for name, direction, peer in (("source", "sends", "sink"), ("sink", "receives", "source")):
        end = channel(bill, "stream", direction)
        assert (end.messages, end.bytes) == (20_011, 20_011 * 64)
        assert (owner_name(end.owner), end.peers, end.transport) == (name, (peer,), transport)
        assert end.calls >= 20_011
        tax = function(bill, name)
        assert (tax.messages, tax.bytes) == (20_011, 20_011 * 64)
        # Of a hostcall that waits in a channel both count.
        assert tax.ns >= tax.calls_ns >= end.calls_ns >= end.waited_ns + end.copying_ns
        assert tax.calls >= end.calls and tax.waited_ns == end.waited_ns and tax.guest_ns > 0


WAITS = """
import threading, time
import cwasi_fastpath as cwasi

tx, rx = cwasi.open_channel("lab", transport="{transport}")

def receive():
    with cwasi.function("waits"):
        for _ in range(23):
            rx.recv()

thread = threading.Thread(target=receive)
thread.start()
with cwasi.function("sends"):
    for number in range(23):
        while rx.metrics().waits <= number:   # then it is inside, and has nothing
            time.sleep(0.0001)
        tx.send(b"x" * 1009)
thread.join()
with cwasi.function("idle"):
    pass
tx.close(); rx.close()
"""


@pytest.mark.parametrize("transport", ["ring", "pipe"])
def test_waiting_is_told_from_working(tracer: Tracer, transport: str) -> None:
    report = traced(tracer, [sys.executable, "-c", WAITS.format(transport=transport)])
    bill = tax_bill(report)
    receives, sends = channel(bill, "lab", "receives"), channel(bill, "lab", "sends")
    assert (receives.messages, receives.bytes, receives.waits) == (23, 23 * 1009, 23)
    assert (sends.messages, sends.bytes) == (23, 23 * 1009)
    assert owner_name(receives.owner) == "waits" and owner_name(sends.owner) == "sends"
    assert 0 < receives.timed <= 23 and receives.timed_ns >= 16 * receives.timed and sends.timed == sends.timed_ns == 0
    assert receives.waited_ns > 0 and receives.waited_ns == function(bill, "waits").waited_ns
    assert function(bill, "sends").calls == sends.calls == 23
    assert {owner_name(row.owner) for row in report.uses} == {"waits", "sends", "idle"}
    assert function(bill, "idle").calls == 0


SWITCHES = """
import cwasi_fastpath as cwasi

tx, rx = cwasi.open_channel("lab")
with cwasi.function("both"):
    for transport in ("pipe", "ring", "tcp", "ring"):
        for _ in range(23):
            tx.send(b"x"); rx.recv()
        tx.switch(transport)
        tx.send(b"x"); rx.recv()
tx.close(); rx.close()
"""


def test_a_channel_that_switches_is_counted_on(tracer: Tracer) -> None:
    bill = tax_bill(traced(tracer, [sys.executable, "-c", SWITCHES]))
    assert channel(bill, "lab", "sends").messages == channel(bill, "lab", "receives").messages == 4 * 24


FORKS = """
import os
import cwasi_fastpath as cwasi

tx, rx = cwasi.open_channel("lab", transport="pipe")
with cwasi.function("parent"):
    if os.fork() == 0:
        with cwasi.function("child"):
            own, back = cwasi.open_channel("own")
            for _ in range(101):
                own.send(b"x"); back.recv()
        os._exit(0)
    assert os.wait()[1] == 0
    for _ in range(23):
        tx.send(b"x"); rx.recv()
"""


def test_a_forked_child_hands_over_its_own(tracer: Tracer) -> None:
    bill = tax_bill(traced(tracer, [sys.executable, "-c", FORKS]))
    assert channel(bill, "own", "sends").messages == 101
    assert channel(bill, "lab", "sends").messages == 23
    assert function(bill, "child").calls == 202
    assert [tax.messages for tax in bill.functions if tax.owner == "parent"] == [46]   # the child's has its pid


def test_as_the_command_prints_it(guests: Path) -> None:
    with attached():
        pass   # or it is skipped
    trace = [sys.executable, "-m", "cwasi_fastpath.cli.trace", "--by", "channel"]
    command = ["--", sys.executable, "-c", STREAM, str(guests), "ring"]
    done = subprocess.run([*trace, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["stream", "source", "sends", "ring", "20011", str(20_011 * 64)] in [line[:6] for line in lines]
    assert {line[0] for line in lines if len(line) == 10} >= {"source", "sink"}
    done = subprocess.run([*trace, "--json", *command], capture_output=True, text=True, timeout=300)
    tax = json.loads(done.stdout)["tax"]
    assert {row["function"]: row["messages"] for row in tax["functions"]} == {"source": 20_011, "sink": 20_011}
    assert [(row["direction"], row["peers"], row["mode"]) for row in tax["channels"]] == [
        ("sends", ["sink"], "local"),
        ("receives", ["source"], "local"),
    ]
    assert all(row["ns_per_message"] > 0 for row in (*tax["functions"], *tax["channels"]))


# ---- hostile hosts ----

HAND_OVER = """
import ctypes, fcntl, random, struct
import cwasi_fastpath._native as native
size = native.ffi.sizeof("cwasi_statistics")

def hand_over(descriptor):
    socket.send_fds(control, [b'{"statistics": 1}'], [descriptor])
    return json.loads(control.recv(4096))

def sealed(content, length=size, seals=7):
    descriptor = os.memfd_create("mine", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, length)
    os.pwrite(descriptor, content, 0)
    fcntl.fcntl(descriptor, 1033, seals)
    return descriptor
"""


def test_what_could_block_or_shrink_is_refused(tracer: Tracer) -> None:
    report = traced_host(
        tracer,
        HAND_OVER
        + """
out, into = os.pipe()
a, b = socket.socketpair()
plain = os.open("/proc/self/exe", os.O_RDONLY)
for descriptor in (
    *(out, into, a.fileno(), plain, os.open("/", os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY)),
    *(sealed(b"", seals=seals) for seals in range(7)),
    *(sealed(b"", length) for length in (0, 1, size - 1, size + 1, 1 << 40)),
):
    assert "error" in hand_over(descriptor)
control.send(b'{"statistics": 1}')
assert b"error" in control.recv(4096)
control.send(b'{"statistics": 2}')
assert b"error" in control.recv(4096)
assert "taken" in hand_over(sealed(b""))
assert "error" in hand_over(sealed(b""))   # once
socket.send_fds(control, [HELLO], [a.fileno()] * 40)   # with those before fewer than it takes in
assert b"slots" in control.recv(4096)
enter(ask({"function": "refused"})["id"]); write(23); enter(0)
""",
    )
    assert calls(report, "refused") == (23, 23)


def test_garbage_is_about_the_host_itself(tracer: Tracer, guests: Path) -> None:
    """While it hands over nonsense, the bill of another host is exact."""
    before = tracer.snapshot()
    body = HAND_OVER + f"""
import subprocess
random.seed(1009)
magic = struct.pack("4I", 0x54535743, 1, 0xffffffff, 7)
noise = random.randbytes(size - 16)
descriptor = sealed(b"")
assert "taken" in hand_over(descriptor)
mine = ask({{"function": "source"}})["id"]
os.pwrite(descriptor, magic + noise, 0)   # what was there before would not count
enter(mine)
subprocess.run([sys.executable, "-c", {STREAM!r}, {str(guests)!r}, "ring"], check=True)
enter(0)
"""
    traced_host(tracer, body)
    bill = tax_bill(tracer.snapshot().since(before))
    honest = [tax for tax in bill.channels if tax.channel == "stream"]
    assert sorted((tax.direction, tax.messages) for tax in honest) == [("receives", 20_011), ("sends", 20_011)]
    sources = [tax for tax in bill.functions if owner_name(tax.owner) == "source"]
    assert sorted(tax.messages for tax in sources) == [0, 20_011]   # its own, and its namesake's
    assert all(len(str(tax.owner)) < 100 for tax in bill.functions)


def test_it_may_say_that_it_has_anothers_channel(tracer: Tracer) -> None:
    """Then there are two rows of that name, each with its own function."""
    report = traced_host(
        tracer,
        HAND_OVER
        + """
table = native.ffi.new("cwasi_statistics *")
table.magic, table.version, table.ends = 0x54535743, 1, 3
for number, name in enumerate((b"lab", b"\\x1b[31mred", b"lab")):
    end = table.end[number]
    end.channel, end.role, end.messages, end.function = name, 1, 2**64 - 1, 1 + 5 * number
table.end[2].peers = b"a b " * 31
descriptor = sealed(b"")
assert "taken" in hand_over(descriptor)
os.pwrite(descriptor, native.ffi.buffer(table), 0)
enter(ask({"function": "says"})["id"]); write(1); enter(0)
""",
    )
    bill = tax_bill(report)
    assert [(owner_name(tax.owner), tax.channel, tax.messages) for tax in bill.channels] == [
        ("other", "lab", 2**63 - 1),
        ("says", "lab", 2**63 - 1),
    ]
    assert report.missed_ends == 1
