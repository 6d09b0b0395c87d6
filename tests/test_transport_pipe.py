"""Pipes: small ones, as who has used up what a user may have gets them, and a process that has no descriptors left."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from channels import HANG, Start, content, descriptors, fill, in_child, status_of

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.transport.pipe import LONGEST_WHOLE, PipeLink

PAGE = 4096
SIZES = (0, 1, 4071, 4072, 4073, 16383, 16384, 100_000, 131_048, 700_000, 20, 3_000_000)


@contextmanager
def shrunk(capacities: list[int]) -> Iterator[tuple[cwasi.Sender, list[cwasi.Receiver]]]:
    """A sender with pipes of these sizes to its receivers, as if the kernel had granted no more."""
    link = PipeLink.create(len(capacities))
    reads = [os.dup(link._fds[RECEIVER, reader][0]) for reader in range(len(capacities))]
    tx = cwasi.Sender(link.open(SENDER), "lab")
    rxs = [cwasi.Receiver(link.open(RECEIVER, reader=reader), "lab") for reader in range(len(capacities))]
    for fd, capacity in zip(reads, capacities, strict=True):
        assert fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, capacity) == capacity
        os.close(fd)
    yield tx, rxs
    for end in (tx, *rxs):
        end.stop()
        end.close()


@pytest.mark.parametrize("capacities", [[PAGE], [2 * PAGE], [PAGE, PAGE], [1 << 20, PAGE, 1 << 16]])
def test_small_pipes(start: Start, capacities: list[int]) -> None:
    with shrunk(capacities) as (tx, rxs):
        messages = [content(size, size) for size in SIZES]
        sending = start(lambda: [tx.send(message) for message in messages])
        receiving = [start(lambda rx=rx: [rx.recv(HANG) for _ in messages]) for rx in rxs]
        assert [received.result(HANG) for received in receiving] == [messages] * len(rxs)
        sending.result(HANG)


@pytest.mark.parametrize("capacities", [[PAGE], [1 << 20, PAGE]])
def test_what_is_larger_than_a_small_pipe_cannot_go_without_waiting(capacities: list[int]) -> None:
    with shrunk(capacities) as (tx, rxs):
        for size in (5000, 16384, 200_000):
            with pytest.raises(cwasi.WouldWait):
                tx.send(bytes(size), timeout=0)
        tx.send(bytes(4000), timeout=0)
        assert [rx.recv(timeout=0) for rx in rxs] == [bytes(4000)] * len(rxs)


def test_a_reader_that_dies_inside_a_message_of_a_small_pipe(start: Start) -> None:
    with shrunk([PAGE, 1 << 20]) as (tx, (small, large)):
        sending = start(tx.send, bytes(2_000_000))
        receiving = start(large.recv)
        assert small.peek(HANG)[0] == 2_000_000
        small.finish(failed=True)
        sending.result(HANG)
        assert receiving.result(HANG) == bytes(2_000_000)
        assert tx.metrics().lost_peers == 1


def capacities() -> set[int]:
    """Of all pipes of this process."""
    found = set()
    for fd in range(1024):
        with suppress(OSError):
            found.add(fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ))
    return found


def test_more_than_a_user_may_have(start: Start) -> None:
    """Another user, who is not privileged: beyond 64 pipes of 1 MiB the kernel grants single pages."""
    if not 0 < int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text()) <= 64 * 256:
        pytest.skip("the limit is higher here, or there is none")
    if os.geteuid() != 0:
        pytest.skip("to become another user takes root")

    def many() -> None:
        signal.alarm(int(HANG))
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        channels = [cwasi.open_channel("lab", "pipe") for _ in range(90)]
        assert 2 * PAGE in capacities(), "the limit was not reached"
        for number, (tx, rx) in enumerate(channels):
            tx.send(content(number, 4000))
            assert rx.recv(HANG) == content(number, 4000)
        for tx, rx in channels:
            rx.close()
            tx.close()

    assert status_of(in_child(many)) == 0


@pytest.mark.parametrize("readers", [1, 3])
def test_no_descriptors_left(readers: int) -> None:
    """Wherever it happens: an error, and nothing stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    failures = 0
    highest = os.dup(0)
    os.close(highest)
    for spare in range(40):
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
        try:
            txs, rxs = cwasi.open_ends("lab", 1, readers, "pipe")
        except OSError as error:
            failures += 1
            assert error.strerror is None or "files" in str(error)
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for end in (*txs, *rxs):
                end.close()
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert descriptors() == before
    assert failures >= 4 * readers
    assert descriptors() == before


def test_a_bell_tells_of_a_reader(start: Start) -> None:
    """Without a send: the back of a receiver that ends hangs up."""
    (tx,), rxs = cwasi.open_ends("lab", 1, 2, "pipe")
    bells = tx.bells()
    assert len(bells) == 2 and rxs[0].bells() == []
    rxs[1].close()
    poll = select.poll()
    for bell in bells:
        poll.register(bell, 0)
    assert poll.poll(HANG * 1000) == [(bells[1], select.POLLHUP)]
    for end in (tx, rxs[0]):
        end.close()


def test_one_that_reads_too_slowly_keeps_the_last_word_from_nobody_else() -> None:
    (tx,), (slow, quick) = cwasi.open_ends("lab", 1, 2, "pipe")
    whole = b"x" * LONGEST_WHOLE   # a page each: nothing fits in behind the last
    sent = fill(tx, whole)
    for _ in range(sent):
        assert quick.recv(timeout=0) == whole
    with pytest.raises(cwasi.Timeout, match="could not be told"):
        tx.finish(linger=0.02)
    with pytest.raises(cwasi.ChannelClosed):
        quick.recv(timeout=HANG)
    for _ in range(sent):
        assert slow.recv(timeout=HANG) == whole
    with pytest.raises(cwasi.PeerDied):
        slow.recv(timeout=HANG)
    for end in (tx, slow, quick):
        end.close()
