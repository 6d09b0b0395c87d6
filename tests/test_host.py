"""Hosts and guests: how functions run, how they end, and what a host refuses."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
import pytest
from channels import eventually
from conftest import WriteModule

import cwasi_fastpath as cwasi
from cwasi_fastpath import control
from cwasi_fastpath.modes import Mode, Transport
from cwasi_fastpath.policy import Decision, Request

HANG = 60.0
WATS = Path(__file__).parent / "guests"

EMPTY = '(module (memory (export "memory") 1) (func (export "_start")))'
TRAPS = {
    "unreachable": ("unreachable", "unreachable"),
    "out of bounds": ("(drop (i32.load (i32.const 65536)))", "out of bounds memory access"),
    "division": ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
    "stack overflow": ("(call $start)", "call stack exhausted"),
    "bad fill": ("(memory.fill (i32.const 65535) (i32.const 0) (i32.const 2))", "out of bounds memory access"),
}


def command(body: str) -> str:
    return (
        '(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        f' (memory (export "memory") 1) (func $start (export "_start") {body}))'
    )


def pair(host: cwasi.Host, guests: Path, count: int, size: int, **options: object) -> cwasi.Channel:
    """A source and a sink, connected."""
    source = host.load(guests / "source.wasm", arguments=[str(count), str(size)])
    sink = host.load(guests / "sink.wasm", arguments=[str(count), str(size)], stdout=os.devnull)
    return host.connect("frames", source, sink, ports=("out", "in"), **options)   # type: ignore[arg-type]


# ---- functions exchange messages ----


def test_a_pipeline_in_one_host(guests: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    with cwasi.Host() as host:
        source = host.load(guests / "source.wasm", arguments=["500", "1000"])
        echo = host.load(guests / "echo.wasm")
        sink = host.load(guests / "sink.wasm", arguments=["500", "1000"], stdout=output)
        first = host.connect("first", source, echo, ports=("out", "in"))
        second = host.connect("second", echo, sink, ports=("out", "in"))
        host.run(source, echo, sink)
        for channel in (first, second):
            assert (channel.mode, channel.transport) == (Mode.LOCAL, Transport.RING)
            metrics = channel.metrics()
            assert (metrics.sent, metrics.received, metrics.bytes) == (500, 500, 500_000)
        assert "local, ring" in first.explain() and "pipe" in first.explain()
        assert sink.cpu_seconds > 0
    assert second.metrics() == metrics, "readable after the host is closed"
    assert output.read_text() == "sink: 500 messages ok\n"


@pytest.mark.parametrize(("transport", "mode"), [("ring", Mode.LOCAL), ("pipe", Mode.PROXIMAL)])
@pytest.mark.parametrize("size", [0, 1, 100_000, 6_000_000])
def test_the_transport_that_was_asked_for(guests: Path, transport: str, mode: Mode, size: int) -> None:
    with cwasi.Host() as host:
        channel = pair(host, guests, 7, size, transport=transport)
        host.run()
        assert (channel.mode, channel.transport) == (mode, transport)
        assert channel.metrics().received == 7


def test_through_redis(guests: Path, redis_server: cwasi.RedisUnavailable) -> None:
    with cwasi.Host(redis=redis_server.url) as host:   # type: ignore[attr-defined]
        channel = pair(host, guests, 50, 10_000, transport="redis")
        host.run()
        assert (channel.mode, channel.transport) == (Mode.REMOTE, Transport.REDIS)
        assert channel.metrics().received == 50


def test_through_tcp(guests: Path) -> None:
    """Without a server it is what the remote mode has."""
    with cwasi.Host() as host:
        channel = pair(host, guests, 50, 10_000, mode="remote")
        host.run()
        assert (channel.mode, channel.transport) == (Mode.REMOTE, Transport.TCP)
        assert channel.metrics().received == 50


def test_one_module_twice_under_two_names(guests: Path, tmp_path: Path) -> None:
    with cwasi.Host() as host:
        outputs = [tmp_path / "a", tmp_path / "b"]
        for number, (name, output) in enumerate(zip("ab", outputs, strict=True), 3):
            host.load(guests / "writer.wasm", name, arguments=[str(number)], stdout=output)
        assert [guest.name for guest in host.guests] == ["a", "b"]
        host.run()
    assert [output.read_text() for output in outputs] == ["xxx", "xxxx"]


def test_two_hosts_in_one_process(guests: Path) -> None:
    with cwasi.Host() as one, cwasi.Host() as other, ThreadPoolExecutor(2) as pool:
        channels = [pair(host, guests, 300, 3000) for host in (one, other)]
        for running in [pool.submit(host.run) for host in (one, other)]:
            running.result(HANG)
        assert [channel.metrics().received for channel in channels] == [300, 300]


def test_two_runs_of_one_host_at_once(guests: Path) -> None:
    """Each waits for its own guests, and none for the other's."""
    with cwasi.Host() as host, ThreadPoolExecutor(4) as pool:
        for i in range(4):
            host.load(guests / "writer.wasm", f"w{i}", arguments=[str(20 * i)], stdout=os.devnull)
        for running in [pool.submit(host.run, guest) for guest in host.guests]:
            running.result(HANG)


def test_a_guest_that_grows_its_memory_between_sends(tmp_path: Path, module: WriteModule) -> None:
    """The base and the size of its memory are looked up afresh in every call."""
    tx, rx = cwasi.open_channel("unused")
    tx.close()
    rx.close()
    count = module(
        """(module
          (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
          (import "cwasi_v1" "channel_peek" (func $peek (param i32 i32) (result i32)))
          (import "cwasi_v1" "channel_recv" (func $recv (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "in")
          (func $check (param $handle i32) (local $at i32) (local $i i32)
            (if (i32.ne (call $peek (local.get $handle) (i32.const -1)) (i32.const 0x1000000)) (then unreachable))
            (local.set $at (i32.shl (memory.grow (i32.const 256)) (i32.const 16)))
            (drop (call $recv (local.get $handle) (local.get $at) (i32.const 0x1000000) (i32.const -1)))
            (loop $next
              (if (i32.ne (i32.load8_u (i32.add (local.get $at) (local.get $i)))
                          (i32.and (i32.mul (local.get $i) (i32.const 7)) (i32.const 255))) (then unreachable))
              (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 0x1000000)))))
          (func (export "_start") (local $handle i32)
            (local.set $handle (call $open (i32.const 0) (i32.const 2) (i32.const 2)))
            (call $check (local.get $handle))
            (call $check (local.get $handle))
            (if (i32.ne (call $peek (local.get $handle) (i32.const -1)) (i32.const -64)) (then unreachable))))""",
        "check",
    )
    with cwasi.Host() as host:
        grow, check = host.load(WATS / "grow.wat"), host.load(count)
        channel = host.connect("data", grow, check, ports=("out", "in"))
        host.run()
        assert channel.metrics().bytes == 2 << 24


def test_hostile_pointers(guests: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    with cwasi.Host() as host:
        bad = host.load(guests / "badptr.wasm", stdout=output)
        sink = host.load(guests / "sink.wasm", arguments=["0", "0"], stdout=os.devnull)
        host.connect("c", bad, sink, ports=("out", "in"))
        host.run()
    assert output.read_text() == "badptr: ok\n"


def test_arguments_environment_and_streams(guests: Path, module: WriteModule, tmp_path: Path) -> None:
    """A guest that copies stdin to stdout sees nothing of the host's own input."""
    cat = module(
        """(module
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
          (memory (export "memory") 2)
          (func (export "_start")
            (i32.store (i32.const 0) (i32.const 1024))
            (i32.store (i32.const 4) (i32.const 60000))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
            (drop (call $sizes (i32.const 1024) (i32.const 20)))
            (i32.store (i32.const 1024) (i32.add (i32.load (i32.const 1024)) (i32.const 48)))
            (i32.store (i32.const 4) (i32.const 1))
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))))""",
        "cat",
    )
    source, out, err = tmp_path / "in", tmp_path / "out", tmp_path / "err"
    source.write_bytes(b"hello\0world")
    with cwasi.Host() as host:
        host.load(cat, "full", stdin=source, stdout=out, stderr=err, environment={"A": "1", "B": "2"})
        host.load(cat, "empty", stdout=tmp_path / "nothing", stderr=tmp_path / "none")
        host.run()
    assert (out.read_bytes(), err.read_text()) == (b"hello\0world", "2")
    assert ((tmp_path / "nothing").read_bytes(), (tmp_path / "none").read_text()) == (b"", "0")


# ---- how functions end ----


@pytest.mark.parametrize("case", TRAPS)
def test_traps(module: WriteModule, case: str) -> None:
    body, reason = TRAPS[case]
    with cwasi.Host() as host:
        host.load(module(command(body)), "bad")
        with pytest.raises(cwasi.GuestTrap) as caught:
            host.run()
    assert str(caught.value).startswith("function bad trapped: ") and reason in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 134


def test_a_trap_before_start(module: WriteModule) -> None:
    text = '(module (memory (export "memory") 1) (func $init unreachable) (start $init) (func (export "_start")))'
    with cwasi.Host() as host:
        host.load(module(text), "bad")
        with pytest.raises(cwasi.GuestTrap, match="unreachable"):
            host.run()


@pytest.mark.parametrize(("status", "code"), [(1, 1), (42, 42), (125, 125)])
def test_exit_status(module: WriteModule, status: int, code: int) -> None:
    with cwasi.Host() as host:
        host.load(module(command(f"(call $exit (i32.const {status}))")), "quits")
        with pytest.raises(cwasi.GuestExit, match=f"function quits ended with status {status}") as caught:
            host.run()
    assert caught.value.exit_code == code


def test_exit_with_0_is_well(module: WriteModule) -> None:
    with cwasi.Host() as host:
        host.load(module(command("(call $exit (i32.const 0))")))
        host.run()


@pytest.mark.parametrize("status", [126, 255, 256, 1000, -1])
def test_an_exit_status_that_no_process_can_have_is_an_error_all_the_same(module: WriteModule, status: int) -> None:
    with cwasi.Host() as host:
        host.load(module(command(f"(call $exit (i32.const {status}))")), "quits")
        with pytest.raises(cwasi.GuestError) as caught:
            host.run()
    assert 0 < caught.value.exit_code < 256


def test_a_loop_is_interrupted_when_the_time_is_up(guests: Path) -> None:
    """Who has ended by then is not named; on a busy machine that takes longer."""
    for seconds in (0.2, 2, 20):
        with cwasi.Host(timeout=seconds) as host:
            host.load(guests / "spin.wasm")
            host.load(guests / "writer.wasm", arguments=["1"], stdout=os.devnull)
            with pytest.raises(cwasi.GuestTimeout) as caught:
                host.run()
        said = str(caught.value)
        if "writer" not in said:
            break
    assert said == f"after {seconds:g} s still running: spin" and caught.value.exit_code == 124


def test_a_wait_is_ended_when_the_time_is_up() -> None:
    with cwasi.Host(timeout=0.2) as host:
        a, b = (host.load(WATS / "wait.wat", name) for name in "ab")
        host.connect("there", a, b, ports=("out", "in"))
        host.connect("back", b, a, ports=("out", "in"))
        with pytest.raises(cwasi.GuestTimeout, match="a, b"):
            host.run()


def test_a_guest_that_ignores_the_cancellation_is_interrupted(module: WriteModule) -> None:
    """It asks again and again, whatever the answer."""
    stubborn = module(
        """(module
          (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
          (import "cwasi_v1" "channel_peek" (func $peek (param i32 i32) (result i32)))
          (memory (export "memory") 1) (data (i32.const 0) "c")
          (func (export "_start") (local $h i32)
            (local.set $h (call $open (i32.const 0) (i32.const 1) (i32.const 2)))
            (loop $for_ever (drop (call $peek (local.get $h) (i32.const -1))) (br $for_ever))))""",
        "stubborn",
    )
    with cwasi.Host(timeout=0.2) as host:
        sender, receiver = host.load(WATS / "wait.wat", "quiet"), host.load(stubborn)
        host.connect("c", sender, receiver, ports=("out", None))
        host.connect("d", receiver, sender, ports=(None, "in"))
        with pytest.raises(cwasi.GuestTimeout):
            host.run()
        before = set(threading.enumerate())   # those of guests that have ended, for a moment more
        listens = {thread for thread in before if thread.name == control.THREAD}
        assert listens
    assert set(threading.enumerate()) <= before - listens, "the control thread has ended, and nothing is added"


def test_a_host_goes_on_after_a_time_out(guests: Path) -> None:
    with cwasi.Host(timeout=0.3) as host:
        spin = host.load(guests / "spin.wasm")
        with pytest.raises(cwasi.GuestTimeout):
            host.run(spin)
        numbers = count()

        def writes() -> bool:
            writer = host.load(guests / "writer.wasm", f"w{next(numbers)}", arguments=["3"], stdout=os.devnull)
            with suppress(cwasi.GuestTimeout):   # the machine is busy
                host.run(writer)
                return True
            return False

        eventually(writes)


# ---- errors spread, and the cause is named ----


@pytest.mark.parametrize("transport", ["ring", "pipe"])
def test_neighbours_of_a_trap_end_and_the_trap_is_raised(guests: Path, transport: str) -> None:
    for _ in range(10):
        with cwasi.Host() as host:
            source = host.load(guests / "source.wasm", arguments=["1000000", "1000"], stderr=os.devnull)
            echo = host.load(guests / "echo.wasm", stderr=os.devnull)
            trap = host.load(guests / "trap.wasm")
            host.connect("a", source, echo, ports=("out", "in"), transport=transport)
            host.connect("b", echo, trap, ports=("out", "in"), transport=transport)
            with pytest.raises(cwasi.GuestTrap, match="function trap trapped"):
                host.run()


def test_the_neighbour_learns_that_it_died(guests: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with cwasi.Host() as host:
        source = host.load(guests / "source.wasm", arguments=["1000000", "1000"], stderr=said)
        trap = host.load(guests / "trap.wasm")
        host.connect("a", source, trap, ports=("out", "in"))
        with pytest.raises(cwasi.GuestTrap):
            host.run()
    assert said.read_text() == "source: send: -15\n"


def test_the_cause_is_raised_even_if_its_consequences_are_quicker(guests: Path) -> None:
    """The one that traps still has to tell a neighbour who does not read, when another one has failed over it."""
    with cwasi.Host(timeout=HANG) as host:
        fan = host.load(WATS / "fan.wat")
        quick = host.load(guests / "sink.wasm", "quick", arguments=["1", "1"], stderr=os.devnull)
        slow = host.load(WATS / "wait.wat", "slow")
        host.connect("quick", fan, quick, ports=("quick", "in"), transport="ring")
        host.connect("slow", fan, slow, ports=("slow", "in"), transport="pipe")
        with pytest.raises(cwasi.GuestTrap, match="function fan trapped"):
            host.run()


def test_a_receiver_that_reads_late_gets_everything_and_the_end(module: WriteModule, guests: Path) -> None:
    """Longer than any grace: it naps for 6 s while the sender, whose pipe is full, has long finished."""
    sender = module(
        """(module
          (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
          (import "cwasi_v1" "channel_send" (func $send (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1) (data (i32.const 0) "out")
          (func (export "_start") (local $h i32)
            (local.set $h (call $open (i32.const 0) (i32.const 3) (i32.const 1)))
            (loop $n (br_if $n (i32.eqz (call $send (local.get $h) (i32.const 64) (i32.const 4000) (i32.const 0)))))
            (loop $n (br_if $n (i32.eqz (call $send (local.get $h) (i32.const 64) (i32.const 1) (i32.const 0)))))))""",
        "sender",
    )
    receiver = module(
        """(module
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
          (import "cwasi_v1" "channel_recv" (func $recv (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1) (data (i32.const 0) "in")
          (func (export "_start") (local $h i32) (local $got i32)
            (i32.store (i32.const 1040) (i32.const 1))            ;; CLOCK_MONOTONIC
            (i64.store (i32.const 1048) (i64.const 6000000000))
            (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 4096)))
            (local.set $h (call $open (i32.const 0) (i32.const 2) (i32.const 2)))
            (loop $n
              (local.set $got (call $recv (local.get $h) (i32.const 8192) (i32.const 8192) (i32.const -1)))
              (br_if $n (i32.ge_s (local.get $got) (i32.const 0))))
            (if (i32.ne (local.get $got) (i32.const -64)) (then unreachable))))""",
        "receiver",
    )
    with cwasi.Host() as host:
        a, b = host.load(sender), host.load(receiver)
        channel = host.connect("c", a, b, ports=("out", "in"), transport="pipe")
        host.run()
        assert channel.metrics().sent == channel.metrics().received > 100


# ---- what is refused when a module is loaded ----


def test_files_that_are_no_modules(tmp_path: Path, guests: Path) -> None:
    whole = (guests / "sink.wasm").read_bytes()
    files = {
        "empty.wasm": b"",
        "random.wasm": bytes(range(7, 256)) * 9,
        "truncated.wasm": whole[: len(whole) // 2],
        "magic.wasm": whole[:4],
        "header.wasm": whole[:8] + b"\xff" * 64,
        "text.wasm": b"hello\n",
        "component.wasm": b"\0asm\x0d\0\x01\0",
        "elf.wasm": Path("/bin/true").read_bytes()[:4096],
        "broken.wat": b"(module (func (export",
    }
    with cwasi.Host() as host:
        for name, data in files.items():
            path = tmp_path / name
            path.write_bytes(data)
            with pytest.raises(cwasi.BadModule) as caught:
                host.load(path)
            assert str(path) in str(caught.value) and caught.value.exit_code == 65, name
        assert host.guests == ()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    loop = tmp_path / "loop.wasm"
    loop.symlink_to(loop)
    with cwasi.Host() as host:
        for path in (tmp_path / "missing.wasm", tmp_path, loop, tmp_path / "file" / "below.wasm", Path("x" * 300)):
            with pytest.raises(cwasi.BadModule, match=r"Give the path of a \.wasm file"):
                host.load(path, "name")


@pytest.mark.parametrize(
    ("module_name", "name"), [("cwasi_v1", "channel_fly"), ("cwasi_v2", "channel_open"), ("env", "printf")]
)
def test_missing_imports_are_named(module: WriteModule, module_name: str, name: str) -> None:
    text = f'(module (import "{module_name}" "{name}" (func)) (memory (export "memory") 1) (func (export "_start")))'
    with cwasi.Host() as host, pytest.raises(cwasi.MissingImport) as caught:
        host.load(module(text))
    assert f"imports {module_name}.{name}" in str(caught.value)
    assert "channel_recv" in str(caught.value), "what there is"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('(module (func (export "_start")))', "memory"),
        ('(module (memory (export "memory") 1))', "_start"),
        ('(module (memory (export "mem") 1) (func (export "_start")))', "memory"),
        ('(module (func (export "memory")) (func (export "_start")))', "memory"),
        ('(module (memory (export "_start") 1) (memory (export "memory") 1))', "_start"),
        ('(module (memory (export "memory") 1) (func (export "_start") (param i32)))', "_start"),
        ("(module)", "_start"),
    ],
)
def test_modules_that_are_no_commands(module: WriteModule, text: str, reason: str) -> None:
    with cwasi.Host() as host, pytest.raises(cwasi.BadModule, match=reason):
        host.load(module(text))


@pytest.mark.parametrize(
    "text",
    [
        '(module (import "cwasi_v1" "channel_open" (func (param i32))) (memory (export "memory") 1)'
        ' (func (export "_start")))',
        '(module (import "wasi_snapshot_preview1" "fly" (func)) (memory (export "memory") 1) (func (export "_start")))',
        '(module (memory (export "memory") 1 2 shared) (func (export "_start")))',
    ],
)
def test_modules_that_cannot_be_instantiated(module: WriteModule, text: str) -> None:
    path = module(text)
    with cwasi.Host() as host:
        host.load(path)
        with pytest.raises(cwasi.BadModule, match="cannot be instantiated") as caught:
            host.run()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ({"stdin": "/nowhere/in"}, "/nowhere/in: cannot be the stdin of function writer: No such file"),
        ({"stdout": "/nowhere/out"}, "/nowhere/out: cannot be the stdout of function writer: No such file"),
        ({"stdout": "/"}, "Is a directory"),
        ({"stderr": "/nowhere/err"}, "stderr"),
    ],
)
def test_streams_that_cannot_be_opened(guests: Path, streams: dict[str, str], reason: str) -> None:
    with cwasi.Host() as host:
        host.load(guests / "writer.wasm", arguments=["1"], **streams)   # type: ignore[arg-type]
        with pytest.raises(cwasi.BadModule, match=reason):
            host.run()


# ---- what a host refuses ----


@pytest.mark.parametrize("name", ["", "UPPER", "../x", "a b", "x\n", "-x", "x" * 64, "<b>", "\x1b[31m"])
def test_names_are_checked(guests: Path, name: str) -> None:
    with cwasi.Host() as host:
        with pytest.raises(cwasi.BadName):
            host.load(guests / "writer.wasm", name)
        with pytest.raises(cwasi.BadName):
            host.load(guests / "writer.wasm", "fine", trust=name)
        a, b = host.load(guests / "source.wasm"), host.load(guests / "sink.wasm")
        with pytest.raises(cwasi.BadName):
            host.connect(name, a, b)
        if name:   # without one, a port has the channel's name
            with pytest.raises(cwasi.BadName):
                host.connect("fine", a, b, ports=(name, None))


def test_a_name_is_given_once(guests: Path) -> None:
    with cwasi.Host() as host:
        host.load(guests / "writer.wasm")
        with pytest.raises(cwasi.BadSpec, match="give the second one another name"):
            host.load(guests / "writer.wasm")


def test_a_function_that_knows_no_channels(guests: Path) -> None:
    with cwasi.Host() as host:
        writer, sink = host.load(guests / "writer.wasm"), host.load(guests / "sink.wasm")
        with pytest.raises(cwasi.BadSpec, match=r"writer .* imports nothing from cwasi_v1"):
            host.connect("c", writer, sink)


def test_a_port_is_given_once(guests: Path) -> None:
    """The guest could never reach the second one."""
    with cwasi.Host() as host:
        source = host.load(guests / "source.wasm")
        sinks = [host.load(guests / "sink.wasm", name) for name in ("s1", "s2")]
        host.connect("a", source, sinks[0], ports=("out", "in"))
        with pytest.raises(cwasi.BadSpec, match="another port"):
            host.connect("b", source, sinks[1], ports=("out", "in"))


def test_a_guest_runs_once(guests: Path) -> None:
    with cwasi.Host() as host:
        writer = host.load(guests / "writer.wasm", arguments=["1"], stdout=os.devnull)
        with pytest.raises(cwasi.BadSpec, match="writer runs once"):
            host.run(writer, writer)
        host.run(writer)
        for guests_again in ((writer,), ()):
            with pytest.raises(cwasi.BadSpec, match="writer runs once"):
                host.run(*guests_again)


def test_guests_of_another_host(guests: Path) -> None:
    """Their stores belong to another engine: to run one here would not end well."""
    with cwasi.Host() as host, cwasi.Host() as other:
        mine, theirs = host.load(guests / "source.wasm"), other.load(guests / "sink.wasm")
        with pytest.raises(cwasi.BadSpec, match="sink is not loaded in this host"):
            host.run(mine, theirs)
        for edge in ((mine, theirs), (theirs, mine)):
            with pytest.raises(cwasi.BadSpec, match="sink is not loaded in this host"):
                host.connect("c", *edge)


def test_a_closed_host(guests: Path) -> None:
    host = cwasi.Host()
    source, sink = host.load(guests / "source.wasm"), host.load(guests / "sink.wasm")
    host.close()
    host.close()
    for call in (
        lambda: host.load(guests / "sink.wasm"),
        lambda: host.run(source),
        lambda: host.connect("c", source, sink),
    ):
        with pytest.raises(cwasi.BadSpec, match="closed"):
            call()


def test_modes_and_transports_that_do_not_fit(guests: Path) -> None:
    with cwasi.Host() as host:
        source = host.load(guests / "source.wasm")
        sink = host.load(guests / "sink.wasm", trust="others")
        for options, reason in (
            ({"transport": "redis"}, "give a Redis URL"),
            ({"mode": "local"}, "different trust domains"),
            ({"transport": "ring"}, "different trust domains"),
            ({"mode": "local", "transport": "pipe"}, "local was asked for"),
        ):
            with pytest.raises(cwasi.NoTransport, match=reason) as caught:
                host.connect("c", source, sink, **options)   # type: ignore[arg-type]
            assert "channel 'c' from source to sink" in str(caught.value) and caught.value.exit_code == 69
        for options in ({"mode": "near"}, {"transport": "pigeon"}):
            with pytest.raises(cwasi.BadSpec, match="is unknown: use"):
                host.connect("c", source, sink, **options)   # type: ignore[arg-type]
        assert host.connect("c", source, sink).transport is Transport.PIPE


class Always(cwasi.Policy):
    """A policy with a mind of its own."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def decide(self, request: Request) -> Decision:
        return Decision(Mode.LOCAL, self.transport, "because")


def test_no_policy_overrules_the_constraints(guests: Path) -> None:
    with cwasi.Host(policy=Always(Transport.RING)) as host:
        source, sink = host.load(guests / "source.wasm"), host.load(guests / "sink.wasm", trust="others")
        with pytest.raises(cwasi.NoTransport, match=r"the policy chose ring.*different trust domains"):
            host.connect("c", source, sink)


def test_a_policy_of_ones_own(guests: Path) -> None:
    with cwasi.Host(policy=Always(Transport.RING)) as host:
        assert pair(host, guests, 3, 3).explain() == "local, ring: because"
        host.run()


# ---- other threads ----


def test_run_on_another_thread(guests: Path) -> None:
    with cwasi.Host() as host, ThreadPoolExecutor(1) as pool:
        channel = pair(host, guests, 100, 100)
        pool.submit(host.run).result(HANG)
        assert channel.metrics().received == 100


def descriptors() -> int:
    gc.collect()
    return psutil.Process().num_fds()


def test_close_while_guests_wait(module: WriteModule) -> None:
    """They end with Cancelled, and nothing stays open."""
    with cwasi.Host() as warm:   # wasmtime opens some for good
        warm.run(warm.load(module(EMPTY)))
    before = descriptors()
    host = cwasi.Host()
    a, b = (host.load(WATS / "wait.wat", name) for name in "ab")
    there = host.connect("there", a, b, ports=("out", "in"), transport="pipe")
    back = host.connect("back", b, a, ports=("out", "in"))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run)
        waits = (there.receivers["b"], back.receivers["a"])
        eventually(lambda: all(end.metrics().waits > 0 for end in waits))
        assert host.running() == {"a": a, "b": b}
        host.close()
        with pytest.raises(cwasi.GuestExit, match="ended with status 3"):
            running.result(HANG)
        del running   # a trap keeps its module
    eventually(lambda: descriptors() <= before)   # and so does its thread, for a moment more


def test_stop_is_told_to_the_guests(tmp_path: Path, guests: Path) -> None:
    said = tmp_path / "said"
    with cwasi.Host() as host, ThreadPoolExecutor(1) as pool:
        source = host.load(guests / "source.wasm", arguments=["1000000000", "1000"], stderr=said)
        slow = host.load(WATS / "wait.wat", "slow")
        third = host.load(WATS / "wait.wat", "third")
        filled = host.connect("a", source, third, ports=("out", None))
        host.connect("b", slow, third, ports=("out", "in"))
        host.connect("c", third, slow, ports=("out", "in"))
        running = pool.submit(host.run)
        eventually(lambda: filled.senders["source"].metrics().waits > 0)
        host.stop()
        with pytest.raises(cwasi.GuestExit):
            running.result(HANG)
    # The latter where its receiver was told first.
    assert said.read_text() in ("source: send: -11\n", "source: send: -15\n")


def test_hosts_leave_no_descriptors_and_no_threads(guests: Path) -> None:
    def cycle() -> None:
        with cwasi.Host() as host:
            pair(host, guests, 10, 10)
            host.run()

    cycle()
    before, threads = descriptors(), set(threading.enumerate())
    for _ in range(20):
        cycle()
    # A guest's thread is there for a moment after its run, also of what was before.
    eventually(lambda: set(threading.enumerate()) <= threads and descriptors() <= before)


def test_a_connection_that_is_refused_leaves_nothing(guests: Path, module: WriteModule) -> None:
    mute = module('(module (memory (export "memory") 1) (func (export "_start")))', name="mute")
    with cwasi.Host(timeout=HANG) as host:
        source = host.load(guests / "source.wasm", arguments=("3", "10"))
        sink = host.load(guests / "sink.wasm", arguments=("3", "10"), stdout=Path(os.devnull))
        other = host.load(mute)
        before = descriptors()
        for pair in ((other, sink), (source, other)):
            with pytest.raises(cwasi.BadSpec, match="mute"):
                host.connect("lab", *pair)
        assert descriptors() <= before and host.channels == ()
        host.connect("lab", source, sink, ports=("out", "in"))
        host.run()
