"""Links: joined in another process, given out once, apart from each other, and gone when they are closed."""

from __future__ import annotations

import pytest
from channels import HANG

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import RECEIVER, SENDER

from .conftest import Elsewhere, Lab
from .peer import COUNT, numbered


def test_joined_elsewhere_as_sender(lab: Lab, elsewhere: Elsewhere) -> None:
    made = lab.link()
    rx = lab.receiver(lab.joined(made, RECEIVER))
    child = elsewhere(made, SENDER, "all")
    made.close()
    for number in range(COUNT):
        assert rx.recv(timeout=HANG) == numbered(number)
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)
    assert child.result() == COUNT


def test_joined_elsewhere_as_sender_that_fails(lab: Lab, elsewhere: Elsewhere) -> None:
    made = lab.link()
    rx = lab.receiver(lab.joined(made, RECEIVER))
    child = elsewhere(made, SENDER, "fail")
    made.close()
    for number in range(COUNT):
        assert rx.recv(timeout=HANG) == numbered(number)
    with pytest.raises(cwasi.PeerDied):
        rx.recv(timeout=HANG)
    assert child.result() == COUNT


def test_joined_elsewhere_as_receiver(lab: Lab, elsewhere: Elsewhere) -> None:
    made = lab.link()
    tx = lab.sender(lab.joined(made, SENDER))
    child = elsewhere(made, RECEIVER, "all")
    made.close()
    for number in range(COUNT):
        tx.send(numbered(number), timeout=HANG)
    tx.close()
    assert child.result() == COUNT


def test_joined_elsewhere_by_both(lab: Lab, elsewhere: Elsewhere) -> None:
    made = lab.link()
    children = [elsewhere(made, SENDER, "all"), elsewhere(made, RECEIVER, "all")]
    made.close()
    assert [child.result() for child in children] == [COUNT, COUNT]


def test_given_out_once(lab: Lab) -> None:
    link = lab.link()
    tx, rx = lab.sender(link), lab.receiver(link)
    for role in (SENDER, RECEIVER):
        with pytest.raises(cwasi.Busy):
            link.open(role)
    tx.send(b"and they are whole")
    assert rx.recv(timeout=HANG) == b"and they are whole"


def test_apart(lab: Lab) -> None:
    one, other = lab.ends(), lab.ends()
    one[0].send(b"1")
    other[0].send(b"2")
    assert (one[1].recv(timeout=HANG), other[1].recv(timeout=HANG)) == (b"1", b"2")
    for _, rx in (one, other):
        with pytest.raises(cwasi.WouldWait):
            rx.recv(timeout=0)


@pytest.mark.parametrize("how", ["read", "unread", "failed", "receiver first", "never used", "never opened"])
def test_nothing_left(lab: Lab, how: str) -> None:
    """Many of them; what was there before and after is compared by a fixture, also in every other test here."""
    for _ in range(30):
        link = lab.link()
        if how != "never opened":
            tx, rx = lab.sender(link), lab.receiver(link)
            if how != "never used":
                for size in (10, 5_000, 100_000):
                    tx.send(bytes(size))
                rx.recv(timeout=HANG)
            if how == "read":
                rx.recv(timeout=HANG)
                rx.recv(timeout=HANG)
            if how == "failed":
                tx.finish(failed=True)
            for end in (rx, tx) if how == "receiver first" else (tx, rx):
                end.close()
        link.close()
