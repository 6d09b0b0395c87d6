"""TLS under the tcp transport: both sides show a certificate; the rest is as without."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from authority import Authority, openssl
from channels import HANG, Start, content
from proxy import Proxy

import cwasi_fastpath as cwasi
from cwasi_fastpath.endpoint import RECEIVER, SENDER
from cwasi_fastpath.modes import Mode, Transport
from cwasi_fastpath.policy import Decision
from cwasi_fastpath.spanned import SpannedChannel
from cwasi_fastpath.switch import Target, switch_here
from cwasi_fastpath.transport import tls
from cwasi_fastpath.transport.target import link_to
from cwasi_fastpath.transport.tcp import TcpLink
from cwasi_fastpath.transport.tls import TlsFiles

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl (apt install openssl)")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def files(authority: Authority) -> TlsFiles:
    return authority.files("node")


@pytest.fixture
def link(files: TlsFiles) -> Iterator[TcpLink]:
    link = TcpLink.create(tls=files, patience=4.0)
    yield link
    link.close()


def sender_with(link: TcpLink, files: TlsFiles | None, port: int | None = None) -> TcpLink:
    """The sender's end of a link, which has other files, or none."""
    description, _ = link.export(SENDER)
    plain = None if files is None else {name: getattr(files, name) for name in ("authority", "certificate", "key")}
    return TcpLink.joined({**description, "tls": plain, "port": port or description["port"]}, [])


def message(number: int) -> bytes:
    return content(number, (20, 700, 9000, 200_000)[number % 7 % 4])


def test_messages_go_through(link: TcpLink, start: Start) -> None:
    tx, rx = cwasi.Sender(link.open(SENDER), "lab"), cwasi.Receiver(link.open(RECEIVER), "lab")
    sending = start(lambda: [tx.send(message(number)) for number in range(1000)])
    for number in range(1000):
        assert rx.recv(timeout=HANG) == message(number)
    sending.result(HANG)
    huge = content(1, 70_000_000)
    sending = start(tx.send, huge)
    assert rx.recv(timeout=HANG) == huge
    sending.result(HANG)
    tx.close()
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)
    rx.close()


def test_what_an_end_says_last_is_heard(link: TcpLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long TLS takes for it after the end is gone."""
    real = tls._Flow.move

    def slow(flow: tls._Flow) -> None:
        time.sleep(0.02)
        real(flow)

    monkeypatch.setattr(tls._Flow, "move", slow)
    tx, rx = cwasi.Sender(link.open(SENDER), "lab"), cwasi.Receiver(link.open(RECEIVER), "lab")
    for number in range(10):
        tx.send(message(number))
    switch_here(tx, [Target(rx)], link_to("ring", key="lab"), Mode.LOCAL, HANG)
    for number in range(10):
        assert rx.recv(timeout=HANG) == message(number)
    tx.send(b"on the ring")
    assert rx.recv(timeout=HANG) == b"on the ring"
    link.close()
    assert tx.unread == 0
    tx.send(b"and none is lost")
    for end in (tx, rx):
        end.close()


def test_its_threads_end(link: TcpLink) -> None:
    tx, rx = cwasi.Sender(link.open(SENDER), "lab"), cwasi.Receiver(link.open(RECEIVER), "lab")
    tx.send(b"x")
    rx.recv(timeout=HANG)
    pumps = [thread for thread in threading.enumerate() if isinstance(thread, tls.Pump)]
    assert len(pumps) == 2
    for end in (rx, tx, link):
        end.close()
    for pump in pumps:
        pump.join(HANG)
        assert not pump.is_alive()


def test_nothing_goes_in_the_clear(link: TcpLink, files: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = bytearray()
    with Proxy(link.export(SENDER)[0]["port"], seen) as proxy:
        far = sender_with(link, files, proxy.port)
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        tx = cwasi.Sender(far.open(SENDER), "lab")
        tx.send(b"secret" * 1000)
        assert rx.recv(timeout=HANG) == b"secret" * 1000
        for end in (tx, rx, far):
            end.close()
    assert len(seen) > 6000 and b"secret" not in seen


def test_resets_lose_and_double_nothing(link: TcpLink, files: TlsFiles, start: Start) -> None:
    with Proxy(link.export(SENDER)[0]["port"]) as proxy:
        far = sender_with(link, files, proxy.port)
        rx = cwasi.Receiver(link.open(RECEIVER), "lab")
        tx = cwasi.Sender(far.open(SENDER), "lab")
        sending = start(lambda: [tx.send(message(number)) for number in range(1500)])
        for number in range(1500):
            if number % 300 == 100:
                proxy.cut()
            assert rx.recv(timeout=HANG) == message(number)
        sending.result(HANG)
        for end in (tx, rx, far):
            end.close()


def refused(link: TcpLink, far: TcpLink) -> None:
    """The sender gets an error; the receiver gets nothing, and still takes the right one."""
    rx = cwasi.Receiver(link.open(RECEIVER), "lab")
    thief = cwasi.Sender(far.open(SENDER), "lab")
    thief.send(b"from a thief")
    with pytest.raises(cwasi.PeerDied):
        while True:
            thief.send(b"more", timeout=1)
            time.sleep(0.01)
    with pytest.raises(cwasi.WouldWait):
        rx.recv(timeout=0)
    thief.close()
    tx = cwasi.Sender(link.open(SENDER), "lab")
    tx.send(b"from the right one")
    assert rx.recv(timeout=HANG) == b"from the right one"
    for end in (tx, rx, far):
        end.close()


def test_a_sender_of_another_authority_is_refused(link: TcpLink, tmp_path: Path, files: TlsFiles) -> None:
    other = Authority(tmp_path / "theirs").files("thief")
    refused(link, sender_with(link, replace(other, authority=files.authority)))


def test_a_receiver_of_another_authority_is_not_trusted(
    link: TcpLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        refused(link, sender_with(link, Authority(tmp_path / "theirs").files("other")))
    assert "is not trusted" in caplog.text and "certificate verify failed" in caplog.text


def test_a_sender_without_tls_is_refused(link: TcpLink) -> None:
    refused(link, sender_with(link, None))


def test_a_receiver_must_be_who_it_is_said_to_be(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """Its certificate is signed, but names another address."""
    link = TcpLink.create(tls=authority.files("node"))
    elsewhere = asdict(authority.files("elsewhere", "192.0.2.7"))
    description, fds = link.export(RECEIVER)
    far = TcpLink.joined({**description, "tls": elsewhere}, [os.dup(fds[0])])
    rx, tx = cwasi.Receiver(far.open(RECEIVER), "lab"), cwasi.Sender(link.open(SENDER), "lab")
    tx.why = lambda: link.why
    with pytest.raises(cwasi.PeerDied, match=r"it is not trusted: .*IP address mismatch"):
        while True:
            tx.send(b"x", timeout=1)
            time.sleep(0.01)
    assert "IP address mismatch" in caplog.text
    for end in (tx, rx, far, link):
        end.close()


def test_the_sender_learns_that_it_is_not_trusted(link: TcpLink, tmp_path: Path, files: TlsFiles) -> None:
    far = sender_with(link, replace(Authority(tmp_path / "theirs").files("thief"), authority=files.authority))
    rx, thief = cwasi.Receiver(link.open(RECEIVER), "lab"), cwasi.Sender(far.open(SENDER), "lab")
    thief.why = lambda: far.why
    with pytest.raises(cwasi.PeerDied, match=r"it does not trust our certificate: .*ALERT_UNKNOWN_CA"):
        while True:
            thief.send(b"x", timeout=1)
            time.sleep(0.01)
    for end in (thief, rx, far):
        end.close()


def test_certificates_that_will_not_be_trusted(files: TlsFiles, authority: Authority, tmp_path: Path) -> None:
    foreign = replace(Authority(tmp_path / "theirs").files("other"), authority=files.authority)
    for wrong, reason in (
        (foreign, "unable to get local issuer certificate"),
        (authority.files("late", until="20200102000000Z"), "certificate has expired"),
        (authority.files("elsewhere", "192.0.2.7"), "IP address mismatch"),
    ):
        with pytest.raises(cwasi.BadSpec, match=f"will not be trusted at 127.0.0.1: {reason}.*Give a certificate"):
            TcpLink.create(tls=wrong)


def cwasi_run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "cwasi_fastpath.cli", "run", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG)


CASES = {
    "two of three": (["--tls-authority", "authority", "--tls-key", "key"], "TLS needs all of"),
    "missing": (["--tls-authority", "none", "--tls-certificate", "certificate", "--tls-key", "key"], "No such file"),
    "foreign": (["--tls-authority", "other", "--tls-certificate", "certificate", "--tls-key", "key"], "local issuer"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files_on_the_command_line(case: str, files: TlsFiles, tmp_path: Path) -> None:
    words, reason = CASES[case]
    found = {"authority": files.authority, "certificate": files.certificate, "key": files.key, "none": "/none.pem"}
    found["other"] = str(Authority(tmp_path / "theirs").certificate) if "other" in words else ""
    done = cwasi_run("x.wasm", *(found.get(word, word) for word in words))
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr


def test_on_the_command_line(files: TlsFiles, guests: Path) -> None:
    words = ["--tls-authority", files.authority, "--tls-certificate", files.certificate, "--tls-key", files.key]
    functions = [f"source={guests}/source.wasm 50 3000", f"sink={guests}/sink.wasm 50 3000"]
    edge = ["--connect", "frames:source/out:sink/in", "--mode", "remote", "--json"]
    done = cwasi_run(*functions, *edge, *words)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["edges"]
    assert (row["decision"]["transport"], row["metrics"]["received"]) == ("tcp", 50)


def test_the_ends_of_host_processes_are_given_the_files(files: TlsFiles) -> None:
    given: list[dict[str, Any]] = []

    class Process:
        neighbours: ClassVar[list[object]] = []

        def join(self, message: object, links: list[tuple[dict[str, Any], list[int]]]) -> None:
            given.extend(description for description, _ in links)

    process: Any = Process()
    decision = Decision(Mode.REMOTE, Transport.TCP, "a test")
    channel = SpannedChannel("lab", {("a", "b"): decision}, (("a", None),), (("b", None),))
    channel.connect({"a": process, "b": process}, None, 64, files)
    assert [description["tls"] for description in given] == [asdict(files)] * 2


def test_files_that_do_not_fit(files: TlsFiles, authority: Authority, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", files.key, "-aes256", "-passout", "pass:secret", "-out", locked)
    other = authority.files("other")
    for wrong, reason in (
        (replace(files, authority="/none.pem"), "/none.pem: No such file"),
        (replace(files, key=str(tmp_path)), "Is a directory"),
        (replace(files, authority=str(empty)), "empty.pem holds no certificate"),
        (replace(files, certificate=str(empty)), "not a certificate and its private key"),
        (replace(files, key=other.key), "not a certificate and its private key"),
        (replace(files, key=str(locked)), "give one without"),
    ):
        with pytest.raises(cwasi.BadSpec, match=reason):
            TcpLink.create(tls=wrong)
