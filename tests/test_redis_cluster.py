"""Redis Cluster, Sentinel and TLS: real servers on loopback, a slot that moves, a node that dies, a failover."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster
from redis_servers import HANG, SAFE, Server, free_port, on_loopback

import cwasi_fastpath as cwasi
from cwasi_fastpath.transport.redis_send import SendPump

SLOTS = 16384
KEY = "cwasi:{lab}"


def eventually(check: Callable[[], object]) -> None:
    until = time.monotonic() + HANG
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if check():
                return
        assert time.monotonic() < until, "never happened"
        time.sleep(0.02)


class Stream:
    """A sender and a receiver that check each message, until they are told to end."""

    def __init__(self, url: str, pool: ThreadPoolExecutor) -> None:
        self._tx, self._rx = cwasi.durable_sender("lab", url), cwasi.durable_receiver("lab", url)
        self.received = 0
        self._ending = False
        self._ends: list[Future[int]] = [pool.submit(self._send), pool.submit(self._receive)]

    def _send(self) -> int:
        sent = 0
        while not self._ending:
            self._tx.send(b"%d" % sent + bytes(sent % 1000))
            sent += 1
            if sent % 4 == 0:
                time.sleep(0.002)
        self._tx.close()
        return sent

    def _receive(self) -> int:
        for message in self._rx:
            assert message.rstrip(b"\0") == b"%d" % self.received
            self.received += 1
        self._rx.close()
        return self.received

    def goes_on(self) -> None:
        """Messages come through that were sent from now on."""
        before = self._tx.metrics().messages
        eventually(lambda: self.received > before or any(end.done() for end in self._ends))
        for end in self._ends:
            if end.done():
                end.result()

    def end(self) -> None:
        self._ending = True
        sent, received = (end.result(HANG) for end in self._ends)
        assert received == sent > 0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


# ---- a cluster of three ----


class Cluster:
    """Three masters with a third of the slots each."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.servers = []
        for number, port in enumerate(self.ports):
            cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
            server = Server(directory / str(number), *on_loopback(port), *SAFE, *cluster)
            self.servers.append(stack.enter_context(server))
        self.nodes = [stack.enter_context(server.client()) for server in self.servers]
        borders = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for number, node in enumerate(self.nodes):
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", borders[number], borders[number + 1] - 1)
            bus = self.servers[number].options[self.servers[number].options.index("--cluster-port") + 1]
            self.nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", self.ports[number], bus)
        for node in self.nodes:
            eventually(lambda node=node: self._knows_all(node))

    @staticmethod
    def _knows_all(node: redis.Redis) -> bool:
        state = node.execute_command("CLUSTER", "INFO")
        return b"cluster_state:ok" in state and b"cluster_known_nodes:3" in state

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def owner(self) -> int:
        """Which node has our stream."""
        with RedisCluster(host="127.0.0.1", port=self.ports[0]) as client:
            return self.ports.index(client.get_node_from_key(KEY).port)

    def move(self, target: int) -> None:
        """Our slot, with what is in it, as redis-cli does it."""
        source = self.owner()
        slot = self.nodes[0].execute_command("CLUSTER", "KEYSLOT", KEY)
        ids = [node.execute_command("CLUSTER", "MYID").decode() for node in self.nodes]
        self.nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        time.sleep(0.05)
        for key in self.nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            place = ("127.0.0.1", self.ports[target])
            self.nodes[source].execute_command("MIGRATE", *place, key, 0, 5000)
        time.sleep(0.05)   # requests are sent on by ASK meanwhile
        for node in (self.nodes[target], self.nodes[source], *self.nodes):
            node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("cluster"), stack)


def test_channels_are_spread_over_a_cluster(cluster: Cluster) -> None:
    url = cluster.url
    channels = [cwasi.open_channel(f"lab{number}", url) for number in range(12)]
    for tx, _ in channels:
        for size in (0, 10, 3_000_000):
            tx.send(bytes(size))
    assert all(node.dbsize() > 0 for node in cluster.nodes), "each of the three has some"
    for tx, rx in channels:
        assert [len(rx.recv(timeout=HANG)) for _ in range(3)] == [0, 10, 3_000_000]
        tx.close()
        with pytest.raises(cwasi.ChannelClosed):
            rx.recv(timeout=HANG)
        rx.close()
    eventually(lambda: not any(node.dbsize() for node in cluster.nodes))


def move_about(cluster: Cluster, pool: ThreadPoolExecutor, moves: int) -> None:
    stream = Stream(cluster.url, pool)
    for _ in range(moves):
        stream.goes_on()
        target = (cluster.owner() + 1) % 3
        cluster.move(target)
        eventually(lambda target=target: cluster.owner() == target)
        stream.goes_on()
    stream.end()


def test_a_slot_that_moves_under_load(cluster: Cluster, pool: ThreadPoolExecutor) -> None:
    move_about(cluster, pool, 4)


@pytest.mark.stress
def test_a_slot_that_moves_often(cluster: Cluster, pool: ThreadPoolExecutor) -> None:
    move_about(cluster, pool, 60)


def kill_owners(cluster: Cluster, pool: ThreadPoolExecutor, kills: int) -> None:
    stream = Stream(cluster.url, pool)
    for _ in range(kills):
        stream.goes_on()
        server = cluster.servers[cluster.owner()]
        server.kill()
        time.sleep(0.2)
        server.start()
        stream.goes_on()
    stream.end()


def test_a_node_that_is_killed_and_comes_back(cluster: Cluster, pool: ThreadPoolExecutor) -> None:
    kill_owners(cluster, pool, 1)


@pytest.mark.stress
def test_a_node_that_is_killed_often(cluster: Cluster, pool: ThreadPoolExecutor) -> None:
    kill_owners(cluster, pool, 10)


# ---- Sentinel ----


class Watched:
    """A master with two replicas, and a Sentinel that promotes one of them."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        ports = [free_port() for _ in range(3)]
        self._servers = {}
        for number, port in enumerate(ports):
            follows = () if number == 0 else ("--replicaof", "127.0.0.1", str(ports[0]))
            options = (*on_loopback(port), *SAFE, "--repl-diskless-sync-delay", "0", *follows)
            self._servers[port] = stack.enter_context(Server(directory / str(number), *options))
        for server in self._servers.values():
            client = stack.enter_context(server.client())
            if server is not self._servers[ports[0]]:
                eventually(lambda client=client: client.info("replication")["master_link_status"] == "up")
        port = free_port()
        config = directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor lab 127.0.0.1 {ports[0]} 1\nsentinel down-after-milliseconds lab 1500\n"
            "sentinel failover-timeout lab 6000\nsentinel parallel-syncs lab 2\n"
        )
        self._process = subprocess.Popen(
            ["redis-server", str(config), "--sentinel", *on_loopback(port), "--logfile", str(directory / "log")]
        )
        stack.callback(self._end)
        self.url = f"redis+sentinel://127.0.0.1:{port}/lab"
        self._sentinel = stack.enter_context(redis.Redis(port=port))
        eventually(lambda: self._state()["num-slaves"] == 2)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _state(self) -> dict[str, object]:
        found: dict[str, object] = self._sentinel.sentinel_masters()["lab"]
        return found

    def cut_replicas(self) -> None:
        """The master goes on without them, and does not let them back."""
        for port, server in self._servers.items():
            with server.client() as client:
                if port == self._state()["port"]:
                    client.acl_setuser("default", commands=["-psync", "-sync", "-replconf"])
                    client.execute_command("CLIENT", "KILL", "TYPE", "replica")
                else:
                    eventually(lambda client=client: client.info("replication")["master_link_status"] == "down")

    def kill_master(self) -> None:
        """Until another one is there."""
        old = self._state()["port"]
        assert isinstance(old, int)
        self._servers[old].kill()
        eventually(lambda: self._state()["port"] != old)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with contextlib.ExitStack() as stack:
        yield Watched(tmp_path, stack)


def test_a_failover_loses_nothing_that_a_replica_has(watched: Watched, pool: ThreadPoolExecutor) -> None:
    """With replicas=1 a message counts as stored when one of them has it."""
    stream = Stream(f"{watched.url}?replicas=1", pool)
    stream.goes_on()
    watched.kill_master()
    stream.goes_on()
    stream.end()


def test_a_failover_may_lose_what_no_replica_has(watched: Watched) -> None:
    """Then both ends get an error. Here the replicas are cut off first, so that it is sure to happen."""
    tx, rx = cwasi.durable_sender("lab", watched.url), cwasi.durable_receiver("lab", watched.url)
    tx.send(b"one")
    assert rx.recv(timeout=HANG) == b"one"
    time.sleep(0.3)
    watched.cut_replicas()
    tx.send(b"two")
    assert rx.recv(timeout=HANG) == b"two"
    # Were the server killed before it has answered the sender, that would send it again, and nothing would be lost.
    pump = next(thread for thread in threading.enumerate() if isinstance(thread, SendPump))
    eventually(lambda: pump.stored == 2)
    watched.kill_master()
    lost = "the server has lost what was sent: .*a replica was promoted that was behind"
    until = time.monotonic() + HANG
    with pytest.raises(cwasi.PeerDied, match=lost):
        while time.monotonic() < until:
            tx.send(b"three", timeout=HANG)
    with pytest.raises(cwasi.PeerDied, match="the server has lost them"):
        rx.recv(timeout=HANG)
    with pytest.raises(cwasi.PeerDied):
        tx.close()
    rx.close()


def test_replicas_that_do_not_follow(tmp_path: Path) -> None:
    """There are none."""
    with Server(tmp_path / "redis", *SAFE) as server:
        tx = cwasi.durable_sender("lab", f"{server.url}?replicas=1&patience=0.5")
        tx.send(b"x")
        with pytest.raises(cwasi.PeerDied, match=r"first 0 messages .*fewer replicas than replicas= asks for"):
            tx.close()


# ---- TLS ----


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and what it has signed for 127.0.0.1."""
    place = tmp_path_factory.mktemp("tls")
    commands = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key"
        " -out ca.crt -addext keyUsage=critical,keyCertSign",
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout other.key"
        " -out other.crt -addext keyUsage=critical,keyCertSign",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr"
        " -addext subjectAltName=IP:127.0.0.1",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy"
        " -out server.crt",
    )
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=place, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def secured(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that wants a certificate of the client, too."""
    port = free_port()
    files = {"--tls-key-file": "server.key", "--tls-cert-file": "server.crt", "--tls-ca-cert-file": "ca.crt"}
    options = [word for option, name in files.items() for word in (option, str(certificates / name))]
    place = ("--tls-port", str(port), "--bind", "127.0.0.1")
    with Server(tmp_path_factory.mktemp("secured"), *place, *options, *SAFE):
        yield port


def secure(certificates: Path, port: int, authority: str = "ca", ours: str = "server") -> str:
    options = f"ssl_ca_certs={certificates}/{authority}.crt&ssl_certfile={certificates}/{ours}.crt"
    return f"rediss://127.0.0.1:{port}?{options}&ssl_keyfile={certificates}/{ours}.key"


def test_tls_with_certificates_of_both(certificates: Path, secured: int, pool: ThreadPoolExecutor) -> None:
    stream = Stream(secure(certificates, secured), pool)
    stream.goes_on()
    stream.end()


@pytest.mark.parametrize("authority, ours", [("other", "server"), ("ca", "other")])
def test_tls_with_a_certificate_of_somebody_else(certificates: Path, secured: int, authority: str, ours: str) -> None:
    with pytest.raises(cwasi.RedisUnavailable, match="does not answer"):
        cwasi.open_channel("lab", secure(certificates, secured, authority, ours))


def test_tls_is_not_left_out(secured: int) -> None:
    with pytest.raises(cwasi.RedisUnavailable, match="does not answer"):
        cwasi.open_channel("lab", f"redis://127.0.0.1:{secured}?socket_timeout=1")
