"""What one process asks of another, and the answer: its errors and descriptors, its turn, its time."""

from __future__ import annotations

import os
import threading
import time

import psutil
import pytest
from asking import On, echo
from channels import HANG, Start

import cwasi_fastpath as cwasi
from cwasi_fastpath import control
from cwasi_fastpath.connection import FDS_MAX, MESSAGE_BYTES
from cwasi_fastpath.request import InTurn, Request, close_all, duplicates


def test_a_request_is_answered(presence: control.Presence, on: On) -> None:
    on("echo", echo)
    connection = control.connect(presence.address)
    assert connection.peer.pid == os.getpid() and connection.peer.uid == os.geteuid()
    for number in range(100):
        answer = connection.request("echo", {"n": number}, channel="lab", timeout=HANG)
        assert answer.body == {"echo": {"n": number}, "channel": "lab"} and answer.fds == []
    connection.close()


def test_the_handler_of_the_channel_comes_first(presence: control.Presence, on: On) -> None:
    on("who", lambda request: request.answer({"who": "all"}))
    on("who", lambda request: request.answer({"who": "lab"}), "lab")
    connection = control.connect(presence.address)
    for channel, who in (("lab", "lab"), ("other", "all"), (None, "all")):
        assert connection.request("who", channel=channel, timeout=HANG).body == {"who": who}
    with pytest.raises(cwasi.NoSuchChannel, match="nobody here answers 'what' for channel 'lab'"):
        connection.request("what", channel="lab", timeout=HANG)
    connection.close()


def test_the_handler_before_is_on_again(presence: control.Presence) -> None:
    """Two channels of one name may come and go in any order."""
    names: list[int] = []

    def handler(number: int) -> control.Handler:
        def handle(request: Request) -> None:
            names.append(number)
            request.answer()

        return handle

    handlers = [handler(0), handler(1)]
    peer = control.connect(presence.address)
    for handler in handlers:
        control.on("x", handler, "lab")
        peer.request("x", channel="lab", timeout=HANG)
    assert control.rivals("x", "lab") == 2
    control.off("x", handlers[1], "lab")
    control.off("x", handlers[1], "lab")
    peer.request("x", channel="lab", timeout=HANG)
    control.off("x", handlers[0], "lab")
    assert (names, control.rivals("x", "lab")) == ([0, 1, 0], 0)
    with pytest.raises(cwasi.NoSuchChannel):
        peer.request("x", channel="lab", timeout=HANG)


def test_copies_of_descriptors_are_all_made_or_none(presence: control.Presence) -> None:
    read, write = os.pipe()
    before = psutil.Process().num_fds()
    copies = duplicates([read, write])
    assert psutil.Process().num_fds() == before + 2
    close_all(copies)
    with pytest.raises(OSError):
        duplicates([read, write, -1])
    assert psutil.Process().num_fds() == before
    close_all([read, write])


def test_a_refusal_is_the_same_error_at_the_other_side(presence: control.Presence, on: On) -> None:
    def refuse(request: Request) -> None:
        raise cwasi.NoTransport("nothing can \x1b[31mcarry it")

    def fail(request: Request) -> None:
        raise ZeroDivisionError("an error of the handler's")

    on("refuse", refuse)
    on("fail", fail)
    connection = control.connect(presence.address)
    with pytest.raises(cwasi.NoTransport, match=r"nothing can  \[31mcarry it"):
        connection.request("refuse", timeout=HANG)
    with pytest.raises(cwasi.Error, match="an error of the handler's"):
        connection.request("fail", timeout=HANG)
    connection.close()


def test_who_does_not_wait_finds_the_answer_later(presence: control.Presence, on: On) -> None:
    kept: list[Request] = []
    read, write = os.pipe()
    on("late", kept.append)
    on("echo", echo)
    connection = control.connect(presence.address)
    connection.request("echo", timeout=HANG)
    before = psutil.Process().num_fds()
    asked = connection.ask("late", channel="lab")
    assert asked is not None and not asked.told.is_set()
    connection.request("echo", timeout=HANG)
    kept[0].answer({"n": 7}, [read, write])
    assert asked.told.wait(HANG) and asked.answer is not None and asked.answer.body == {"n": 7}
    connection.request("echo", timeout=HANG)
    assert psutil.Process().num_fds() == before, "nobody has asked for descriptors"
    unanswered = connection.ask("late", channel="lab")
    connection.close()
    assert unanswered is not None and unanswered.told.wait(HANG)
    assert isinstance(unanswered.error, cwasi.PeerDied) and unanswered.answer is None
    with pytest.raises(cwasi.PeerDied):
        connection.ask("late", channel="lab")
    os.close(read)
    os.close(write)


def test_a_request_times_out_and_its_late_answer_is_dropped(presence: control.Presence, on: On) -> None:
    kept: list[Request] = []
    read, write = os.pipe()
    on("late", kept.append)
    on("echo", echo)
    connection = control.connect(presence.address)
    connection.request("echo", timeout=HANG)
    before = psutil.Process().num_fds()
    with pytest.raises(cwasi.Timeout, match="no answer to 'late' within 0"):
        connection.request("late", timeout=0.05)
    kept[0].answer({}, [read, write])
    connection.request("echo", timeout=HANG)
    assert psutil.Process().num_fds() == before, "the descriptors that came too late are closed"
    connection.close()
    os.close(read)
    os.close(write)


def test_an_answer_from_another_thread(presence: control.Presence, on: On) -> None:
    on("slow", lambda request: threading.Timer(0.05, request.answer, ({"slow": True},)).start())
    connection = control.connect(presence.address)
    assert connection.request("slow", timeout=HANG).body == {"slow": True}
    connection.close()


def test_many_threads_ask_at_once(presence: control.Presence, on: On, start: Start) -> None:
    on("echo", echo)
    connection = control.connect(presence.address)

    def ask(thread: int) -> None:
        for number in range(100):
            body = {"thread": thread, "number": number}
            assert connection.request("echo", body, timeout=HANG).body["echo"] == body

    for done in [start(ask, thread) for thread in range(8)]:
        done.result(HANG)
    connection.close()


def test_requests_wait_for_their_turn_and_too_many_are_refused(
    presence: control.Presence, on: On, start: Start
) -> None:
    go_on, order = threading.Event(), []

    def work(request: Request, fds: list[int]) -> None:
        order.append(request.body["number"])
        go_on.wait(HANG)
        request.answer()

    on("slow", InTurn().handler(work))
    link = control.connect(presence.address)
    before = threading.active_count()
    for number in range(1, 501):
        link.tell("slow", {"number": number})
        while not order:   # the first waits for us, and no more for its turn
            time.sleep(0.01)
        if number % 20 == 0:
            with pytest.raises(cwasi.NoSuchChannel):
                link.request("nothing", timeout=HANG)   # so that all before is read
    assert threading.active_count() <= before + 1
    with pytest.raises(cwasi.Busy, match="32 requests wait here already"):
        link.request("slow", {"number": 0}, timeout=HANG)
    go_on.set()
    while len(order) < 33:
        time.sleep(0.01)
    assert order == list(range(1, 34))
    link.request("slow", {"number": 0}, timeout=HANG)
    link.close()


def test_descriptors_that_no_handler_takes_are_closed(presence: control.Presence, on: On) -> None:
    on("echo", echo)
    connection = control.connect(presence.address)
    read, write = os.pipe()
    connection.request("echo", fds=[read, write] * 10, timeout=HANG)
    before = psutil.Process().num_fds()
    for _ in range(20):
        connection.request("echo", fds=[read, write] * 32, timeout=HANG)
    assert psutil.Process().num_fds() == before
    with pytest.raises(cwasi.BadSpec, match="65 descriptors is too long"):
        connection.request("echo", fds=[read] * (FDS_MAX + 1), timeout=HANG)
    with pytest.raises(cwasi.BadSpec, match="is too long"):
        connection.request("echo", {"long": "x" * MESSAGE_BYTES}, timeout=HANG)
    connection.close()
    os.close(read)
    os.close(write)
