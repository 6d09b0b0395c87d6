"""What can go wrong with a Redis server: each time an error that names it and the remedy, or none at all."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from channels import eventually, held
from redis_servers import HANG, SAFE, Server, free_port, on_loopback

import cwasi_fastpath as cwasi
from cwasi_fastpath.transport.redis_client import SCHEMES, Address
from cwasi_fastpath.transport.redis_stream import LEASE_MS

KEY = "cwasi:{lab}"
SECRET = "hunter2"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "redis", *SAFE) as server:
        yield server


def both(url: str) -> tuple[cwasi.Sender, cwasi.Receiver]:
    return cwasi.durable_sender("lab", url), cwasi.durable_receiver("lab", url)


def fails(call: Callable[[], object], match: str) -> None:
    """Sooner or later."""
    until = time.monotonic() + HANG
    with pytest.raises(cwasi.PeerDied, match=match):
        while time.monotonic() < until:
            call()


# ---- at the start ----


@pytest.mark.parametrize("password", ["", f"{SECRET}@", f"user:{SECRET}@", f":{SECRET}@"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_password_is_wanted(tmp_path: Path, password: str, durable: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    with Server(tmp_path / "redis", "--requirepass", "another", *on_loopback(port)):
        url = f"redis://{password}127.0.0.1:{port}"
        with pytest.raises(cwasi.RedisUnavailable, match=r"wants another password: .*Give it in the URL") as caught:
            cwasi.durable_sender("lab", url) if durable else cwasi.open_channel("lab", url)
        assert SECRET not in str(caught.value) + caplog.text + repr(Address.parse(url).__str__())
        with pytest.raises(cwasi.RedisUnavailable, match="wants another password") as caught:
            cwasi.open_channel("lab", f"redis://127.0.0.1:{port}?password={SECRET}")
        assert SECRET not in str(caught.value) + caplog.text
        tx, rx = cwasi.open_channel("lab", f"redis://:another@127.0.0.1:{port}")
        tx.send(b"x")
        assert rx.recv(timeout=HANG) == b"x"
        rx.close()
        tx.close()
    assert SECRET not in caplog.text


def test_something_else_has_the_key(own: Server) -> None:
    with own.client() as client:
        client.set(KEY, "mine")
        for end in (cwasi.durable_sender, cwasi.durable_receiver):
            with pytest.raises(cwasi.RedisUnavailable, match=r"something else than a stream .*Delete it"):
                end("lab", own.url)
        assert client.get(KEY) == b"mine"


def test_a_user_who_may_not(own: Server) -> None:
    with own.client() as client:
        client.acl_setuser("ana", enabled=True, nopass=True, keys=["cwasi:*"], commands=["+@read", "+ping", "+info"])
    with pytest.raises(cwasi.RedisUnavailable, match=r"does not permit it: .*@stream"):
        cwasi.durable_sender("lab", own.url.replace("unix://", "unix://ana:x@"))


def test_the_user_that_the_message_asks_for_may(own: Server) -> None:
    commands = ["+@stream", "+@scripting", "+@keyspace", "+@connection", "+info", "+time", "+memory|usage"]
    with own.client() as client:
        client.acl_setuser("ana", enabled=True, nopass=True, keys=["cwasi:*"], commands=commands)
    tx, rx = both(own.url.replace("unix://", "unix://ana:x@"))
    for size in (10, 3_000_000):
        tx.send(bytes(size))
        assert len(rx.recv(timeout=HANG)) == size
    tx.close()
    with pytest.raises(cwasi.ChannelClosed):
        rx.recv(timeout=HANG)
    rx.close()


def test_a_replica_takes_no_messages(own: Server, tmp_path: Path) -> None:
    port = free_port()
    with (
        Server(tmp_path / "master", *on_loopback(port), "--repl-diskless-sync-delay", "0"),
        Server(tmp_path / "replica", "--replicaof", "127.0.0.1", str(port)) as replica,
    ):
        with replica.client() as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up")
        with pytest.raises(cwasi.RedisUnavailable, match=r"a replica, which takes no messages.*the URL of the master"):
            cwasi.durable_sender("lab", replica.url)


def test_a_server_that_is_stopped(own: Server) -> None:
    own.signal(signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(cwasi.RedisUnavailable, match="does not answer"):
        cwasi.open_channel("lab", f"{own.url}?socket_timeout=0.5")
    assert time.monotonic() - start < HANG
    own.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1?patience=soon", "patience='soon' is no number"),
        ("redis://127.0.0.1?patience=-1", "patience='-1' is no number"),
        ("redis://127.0.0.1?durable=", "durable='' is no number"),
        ("redis://127.0.0.1?socket_timeout=0.1", "socket_timeout= is 0.5 s at least"),
        ("redis+cluster://127.0.0.1:1?replicas=1", "replicas= is for one server and for Sentinel"),
    ],
)
def test_a_url_that_makes_no_sense(url: str, reason: str) -> None:
    with pytest.raises(cwasi.BadSpec, match=reason):
        cwasi.open_channel("lab", url)


@pytest.mark.parametrize(
    "rest", ["127.0.0.1", "127.0.0.1:port", "127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2/service", f"u:{SECRET}@a"]
)
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.endswith(("cluster", "sentinel"))])
def test_clusters_that_are_not_there(scheme: str, rest: str) -> None:
    with pytest.raises(cwasi.RedisUnavailable, match="does not answer") as caught:
        cwasi.open_channel("lab", f"{scheme}://{rest}")
    assert SECRET not in str(caught.value)


# ---- later ----


@pytest.mark.parametrize("durable", [False, True])
def test_somebody_deletes_everything(own: Server, durable: bool) -> None:
    tx, rx = both(own.url) if durable else cwasi.open_channel("lab", own.url)
    tx.send(b"x")
    assert rx.recv(timeout=HANG) == b"x"
    with own.client() as client:
        client.flushall()
    lost = "the server has lost what was sent: .*somebody has deleted the key"
    fails(lambda: tx.send(b"y"), lost)
    fails(lambda: rx.recv(timeout=HANG), lost)
    if durable:
        with pytest.raises(cwasi.PeerDied, match=lost):
            tx.close()
    tx.close()
    rx.close()


def test_somebody_puts_something_else_there(own: Server) -> None:
    tx, rx = both(own.url)
    tx.send(b"x")
    assert rx.recv(timeout=HANG) == b"x"
    with own.client() as client:
        client.set(KEY, "mine")
        fails(lambda: tx.send(b"y"), "something else than a stream")
        fails(lambda: rx.recv(timeout=HANG), "something else than a stream")
        with pytest.raises(cwasi.PeerDied):
            tx.close()
        rx.close()
        assert client.get(KEY) == b"mine"


@pytest.mark.parametrize("how", ["trim", "delete one", "delete the group", "forge", "nonsense"])
def test_somebody_meddles_with_the_stream(own: Server, how: str) -> None:
    """The receiver never gets less, or else, than what was sent without an error."""
    with cwasi.durable_sender("lab", own.url) as tx, own.client() as client:
        for i in range(50):
            tx.send(b"%d" % i)
        eventually(lambda: client.xlen(KEY) == 51)
        if how == "trim":
            client.xtrim(KEY, maxlen=10, approximate=False)
        if how == "delete one":
            client.xdel(KEY, client.xrange(KEY)[20][0])
        if how == "forge":
            client.xadd(KEY, {"data": b"forged", "stamp": 0}, id="9999999999999-77")
        if how == "nonsense":
            epoch, _, seq = client.xrevrange(KEY, count=1)[0][0].partition(b"-")
            client.xadd(KEY, {"data": b"forged", "stamp": "noon"}, id=f"{epoch.decode()}-{int(seq) + 1}")
        rx = cwasi.durable_receiver("lab", own.url)
        if how == "delete the group":
            assert rx.recv(timeout=HANG) == b"0"
            client.xgroup_destroy(KEY, client.xinfo_groups(KEY)[0]["name"])
        told = {"delete the group": "our group .* is gone", "nonsense": "no message of ours"}
        with pytest.raises(cwasi.PeerDied, match=told.get(how, "trimmed the stream or deleted entries")):
            for i in range(1 if how == "delete the group" else 0, 100):
                assert rx.recv(timeout=HANG) == b"%d" % i
        rx.close()
        if how in ("forge", "nonsense"):
            with pytest.raises(cwasi.PeerDied, match=r"taken over|another message under the id"):
                for _ in range(1 << 20):
                    tx.send(b"x")
            with pytest.raises(cwasi.PeerDied):
                tx.close()


def test_pending_entries_that_were_trimmed(own: Server) -> None:
    """They were given to a receiver that did not take them: its successor misses them."""
    with cwasi.durable_sender("lab", own.url) as tx, own.client() as client:
        for i in range(10):
            tx.send(b"%d" % i)
        eventually(lambda: client.xlen(KEY) == 11)   # or it is not given all of them
        with cwasi.durable_receiver("lab", own.url) as rx:
            assert rx.recv(timeout=HANG) == b"0"
        client.xtrim(KEY, maxlen=2, approximate=False)
        with cwasi.durable_receiver("lab", own.url) as rx, pytest.raises(cwasi.PeerDied, match="trimmed the stream"):
            rx.recv(timeout=HANG)


def test_a_full_server_goes_on_when_there_is_room(tmp_path: Path) -> None:
    options = (*SAFE, "--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
    with Server(tmp_path / "redis", *options) as server, ThreadPoolExecutor(1) as pool:
        tx, rx = both(server.url)
        sending = pool.submit(lambda: [tx.send(b"%d" % i + bytes(100_000)) for i in range(400)])
        with server.client() as client:
            eventually(lambda: client.info("memory")["used_memory"] > 11 << 20)
        time.sleep(0.3)
        for i in range(400):
            assert rx.recv(timeout=HANG).rstrip(b"\0") == b"%d" % i
        sending.result(HANG)
        tx.close()
        rx.close()


def test_a_server_that_stays_full(tmp_path: Path) -> None:
    options = ("--maxmemory", "6mb", "--maxmemory-policy", "noeviction")
    with Server(tmp_path / "redis", *options) as server:
        tx = cwasi.durable_sender("lab", f"{server.url}?patience=0.5")
        fails(lambda: tx.send(bytes(100_000)), "is full: .*Raise its maxmemory")
        with pytest.raises(cwasi.PeerDied, match=r"only the first \d+ messages .*is full") as caught:
            tx.close()
        with cwasi.durable_receiver("lab", server.url) as rx:
            stored = int(str(caught.value).partition("first ")[2].partition(" ")[0])
            assert stored > 0
            for _ in range(stored):
                rx.recv(timeout=HANG)
            with pytest.raises(cwasi.Timeout):
                rx.recv(timeout=0.3)


def test_a_disk_that_is_full_is_waited_for(own: Server) -> None:
    """As the server says it: MISCONF. Here it is a replica short, which it says in the same way."""
    tx, rx = both(own.url)
    with own.client() as client:
        client.config_set("min-replicas-to-write", 1)
        tx.send(b"x")
        with pytest.raises(cwasi.Timeout):
            rx.recv(timeout=0.5)
        client.config_set("min-replicas-to-write", 0)
    assert rx.recv(timeout=HANG) == b"x"
    tx.close()
    rx.close()


# ---- what a crash leaves ----

ABANDON = """
import os, sys, time
from cwasi_fastpath.transport import redis_stream
redis_stream.LEASE_MS = 1000
import cwasi_fastpath as cwasi
tx, rx = cwasi.open_channel("lab", sys.argv[1])
tx.send(b"x")
time.sleep(float(sys.argv[2]))
assert rx.recv(timeout=60) == b"x"
tx.send(b"unread")
print(flush=True)
time.sleep(60)
"""


def test_what_a_crash_leaves_expires(own: Server) -> None:
    """And as long as somebody lives it does not."""
    with (
        subprocess.Popen([sys.executable, "-c", ABANDON, own.url, "2"], stdout=subprocess.PIPE) as process,
        own.client() as client,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert len(client.keys("cwasi:*")) == 1
        process.kill()
    eventually(lambda: client.keys("cwasi:*") == [])


def test_only_a_durable_stream_is_kept_for_ever(own: Server) -> None:
    with own.client() as client:
        tx, rx = cwasi.open_channel("lab", own.url)
        (key,) = client.keys("cwasi:*")
        assert 0 < client.pttl(key) <= LEASE_MS
        rx.close()
        tx.close()
        with cwasi.durable_receiver("lab", own.url):
            assert client.pttl(KEY) == -1


def test_what_is_left_of_a_receiver_after_the_end(own: Server) -> None:
    """The sender has finished and gone; then the receiver is killed before it has read to the end."""
    program = (
        "import os, sys, cwasi_fastpath as cwasi\n"
        "tx, rx = cwasi.open_channel('lab', sys.argv[1])\ntx.send(b'x')\ntx.close()\n"
        "import time; time.sleep(0.3); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, own.url]).returncode == -signal.SIGKILL
    with own.client() as client:
        for key in client.keys("cwasi:*"):
            assert 0 < client.pttl(key) <= LEASE_MS


def test_threads_and_descriptors_go_with_their_ends(own: Server) -> None:
    def cycle() -> None:
        tx, rx = both(own.url)
        tx.send(b"x")
        assert rx.recv(timeout=HANG) == b"x"
        rx.close()
        tx.close()
        with own.client() as client:
            client.flushall()

    cycle()
    before = held()
    for _ in range(4):
        cycle()
    assert not held() - before
