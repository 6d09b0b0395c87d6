"""What some transports offer beyond the rest: several receivers, and to connect again."""

from __future__ import annotations

import time

import pytest
from channels import HANG, Start, content

import cwasi_fastpath as cwasi
from cwasi_fastpath import watch
from cwasi_fastpath.endpoint import RECEIVER, SENDER

from .cases import Case
from .conftest import Elsewhere, Lab, gone
from .peer import COUNT, numbered

Fan = tuple[cwasi.Sender, list[cwasi.Receiver]]


def fan(lab: Lab, readers: int) -> Fan:
    link = lab.link(readers)
    return lab.sender(link), [lab.receiver(link, reader) for reader in range(readers)]


def stands_still(tx: cwasi.Sender) -> int:
    before = -1
    while (now := tx.metrics().messages) != before:
        before = now
        time.sleep(0.1)
    return now


@pytest.mark.fans_out
@pytest.mark.parametrize("readers", [2, 5])
def test_fan_out(lab: Lab, start: Start, readers: int) -> None:
    tx, rxs = fan(lab, readers)
    messages = [content(i, (0, 40, i * 997 % 50_000, 300_000)[i % 4]) for i in range(200)]
    receiving = [start(lambda rx=rx: list(rx)) for rx in rxs]
    for message in messages:
        tx.send(message, timeout=HANG)
    tx.close()
    for received in receiving:
        assert received.result(HANG) == messages


@pytest.mark.fans_out
def test_fan_out_of_a_very_long_message(lab: Lab, start: Start) -> None:
    tx, rxs = fan(lab, 3)
    message = content(1, 20 << 20)
    receiving = [start(rx.recv) for rx in rxs]
    tx.send(message, timeout=HANG)
    assert all(received.result(HANG) == message for received in receiving)


@pytest.mark.fans_out
@pytest.mark.parametrize("size", [1000, 100_000])
def test_fan_out_content_is_fixed(lab: Lab, start: Start, size: int) -> None:
    """Also what the last receiver gets, long after the first has read it."""
    tx, (quick, slow) = fan(lab, 2)
    rounds = 40

    def send_all() -> None:
        buffer = bytearray(size)
        for number in range(rounds):
            buffer[:] = bytes([number]) * size
            tx.send(buffer)
            buffer[:] = b"\xff" * size

    expected = [bytes([number]) * size for number in range(rounds)]
    sending = start(send_all)
    reading = start(lambda: [quick.recv(HANG) for _ in range(rounds)])
    found = []
    for _ in range(rounds):
        time.sleep(0.002)
        found.append(slow.recv(HANG))
    assert found == expected and reading.result(HANG) == expected
    sending.result(HANG)


@pytest.mark.fans_out
@pytest.mark.parametrize("size", [1000, 100_000])
def test_fan_out_waits_for_the_slowest(case: Case, lab: Lab, start: Start, size: int) -> None:
    if size < case.bound >> 14:
        pytest.skip("a server takes too long for so many small ones")
    tx, (quick, slow) = fan(lab, 2)
    wanted = 2 * case.bound // size
    sending = start(lambda: [tx.send(bytes(size)) for _ in range(wanted)])
    reading = start(lambda: [quick.recv() for _ in range(wanted)])
    sent = stands_still(tx)
    assert not sending.done() and sent * size <= case.bound
    for _ in range(wanted):
        slow.recv(timeout=HANG)
    sending.result(HANG)
    reading.result(HANG)


@pytest.mark.fans_out
@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("size", [1000, 300_000])
def test_fan_out_goes_on_without_who_leaves(case: Case, lab: Lab, start: Start, failed: bool, size: int) -> None:
    tx, (slow, steady, third) = fan(lab, 3)
    count = 8 * (1 << 20) // size
    sending = start(lambda: [tx.send(bytes(size)) for _ in range(count)])
    reading = [start(lambda rx=rx: [len(rx.recv()) for _ in range(count)]) for rx in (steady, third)]
    stands_still(tx)
    slow.finish(failed=failed)
    sending.result(HANG)
    assert tx.metrics().lost_peers == (failed and case.notices)
    assert [done.result(HANG) for done in reading] == [[size] * count] * 2
    steady.close()
    tx.send(b"there is still one")
    assert third.recv(timeout=HANG) == b"there is still one"
    third.close()
    if case.notices:
        with pytest.raises(cwasi.PeerDied if failed else cwasi.ChannelClosed):
            tx.send(b"nobody")
    else:
        with pytest.raises((cwasi.PeerDied, cwasi.ChannelClosed)):
            while True:
                tx.send(b"nobody")


@pytest.mark.fans_out
@pytest.mark.parametrize("verb", ["idle", "all"])
def test_fan_out_goes_on_without_who_is_killed(
    case: Case, lab: Lab, elsewhere: Elsewhere, start: Start, verb: str
) -> None:
    made = lab.link(3)
    link = lab.joined(made, SENDER)
    child = elsewhere(made, RECEIVER, verb, 1)
    rxs = [lab.receiver(lab.joined(made, RECEIVER, reader), reader) for reader in (0, 2)]
    made.close()
    tx = lab.sender(link)
    watch.watch(tx)
    expected = [numbered(number) for number in range(COUNT)]
    sending = start(lambda: [tx.send(message) for message in expected])
    reading = [start(lambda rx=rx: [rx.recv() for _ in expected]) for rx in rxs]
    while tx.metrics().messages < 2:
        time.sleep(0.001)
    child.kill()
    gone(case, link, tx, 1)
    sending.result(HANG)
    assert [done.result(HANG) for done in reading] == [expected] * 2
    while tx.metrics().lost_peers == 0:
        tx.send(b"who is still there?")
    assert tx.metrics().lost_peers == 1


@pytest.mark.fans_out
def test_fan_out_ends_for_all(lab: Lab) -> None:
    for failed, error in ((False, cwasi.ChannelClosed), (True, cwasi.PeerDied)):
        tx, rxs = fan(lab, 3)
        tx.send(b"the rest")
        tx.finish(failed=failed)
        for rx in rxs:
            assert rx.recv(timeout=HANG) == b"the rest"
            with pytest.raises(error):
                rx.recv(timeout=HANG)


@pytest.mark.fans_out
def test_fan_out_joined_elsewhere(lab: Lab, elsewhere: Elsewhere) -> None:
    made = lab.link(3)
    children = [elsewhere(made, RECEIVER, "all", reader) for reader in range(3)]
    children.append(elsewhere(made, SENDER, "all"))
    made.close()
    assert [child.result() for child in children] == [COUNT] * 4


@pytest.mark.reconnects
def test_reconnect(case: Case, lab: Lab, start: Start) -> None:
    assert case.cut is not None
    link = lab.link()
    tx, rx = lab.sender(link), lab.receiver(link)
    sending = start(lambda: [tx.send(numbered(number), timeout=HANG) for number in range(COUNT)])
    for number in range(COUNT):
        if number % 50 == 10:
            case.cut(link)
        assert rx.recv(timeout=HANG) == numbered(number)
    sending.result(HANG)
