"""What the kernel tells of a network, and what it is taken for."""

from __future__ import annotations

import socket
import struct

import pytest
from channels import HANG

import cwasi_fastpath as cwasi
from cwasi_fastpath.kept import Kept
from cwasi_fastpath.transport.tcp import TcpLink
from cwasi_fastpath.transport.tcp_info import Network, network_of, parsed


def info(rtt: int = 0, least: int = 0, rate: int = 0, limited: int = 0, again: int = 0) -> bytes:
    data = bytearray(232)
    data[7] = limited
    struct.pack_into("=I", data, 68, rtt)
    struct.pack_into("=I", data, 100, again)
    struct.pack_into("=I", data, 148, least)
    struct.pack_into("=Q", data, 160, rate)
    return bytes(data)


def test_what_is_in_it() -> None:
    full = parsed(info(rtt=300, least=200, rate=5_000_000, again=7))
    assert full == Network(300e3, 200e3, 5e6, 7) and full.srtt_ns == 200e3, "behind what was sent before"
    assert str(full) == "0.30 ms there and back (at least 0.20), 5.0 MB/s, 7 segments sent again"
    slow = parsed(info(rtt=300, least=200, rate=5_000_000, limited=1 if socket.htons(1) != 1 else 0x80))
    assert slow is not None and slow.bytes_per_second is None and slow.srtt_ns == 300e3


@pytest.mark.parametrize(
    "data", [info(), info(rtt=2**32 - 1, least=2**32 - 1, rate=2**64 - 1), b"\xff" * 232], ids=["zeros", "most", "ones"]
)
def test_what_cannot_be_is_not_known(data: bytes) -> None:
    found = parsed(data)
    assert found is not None and (found.rtt_ns, found.least_rtt_ns, found.bytes_per_second) == (None, None, None)


def test_of_an_old_kernel_and_of_what_is_no_tcp() -> None:
    assert parsed(b"") is None and parsed(info()[:160]) is None
    one, other = socket.socketpair()
    with one, other:
        assert network_of(one) is None
    assert network_of(one) is None, "closed"


def test_of_a_channel_that_goes_by_it() -> None:
    tx, rx = cwasi.open_channel("lab", transport="tcp")
    link = TcpLink.create()
    assert link.network is None, "nobody is connected"
    link.close()
    with tx, rx:
        tx.send(b"x" * 100)
        assert rx.recv(HANG) == b"x" * 100


def test_what_a_network_gave_stays_known_for_some_time() -> None:
    kept = Kept(None, None, 1, frozenset(), frozenset())   # type: ignore[arg-type]
    kept.met_network(Network(1e6, 1e6, 5e6, 0), 100.0, True)
    kept.met_network(Network(2e6, 1e6, None, 0), 120.0, True)
    assert kept.network == Network(2e6, 1e6, 5e6, 0)
    kept.met_network(Network(2e6, 1e6, None, 0), 131.0, True)
    assert kept.network == Network(2e6, 1e6, None, 0)
    kept.met_network(None, 132.0, True)
    assert kept.network is not None, "it goes by a server now"
    kept.met_network(None, 732.0, True)
    assert kept.network is None


def test_of_a_channel_on_one_node_it_is_known_while_it_goes_by_tcp() -> None:
    kept = Kept(None, None, 1, frozenset(), frozenset())   # type: ignore[arg-type]
    kept.met_network(Network(1e6, 1e6, 5e6, 0), 100.0, False)
    kept.met_network(None, 101.0, False)
    assert kept.network is None
