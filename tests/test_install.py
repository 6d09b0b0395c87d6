"""The channels in wasmtime programs that are not ours: an Engine, a Linker and a Store of their own."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

import cwasi_fastpath as cwasi

REPOSITORY = Path(__file__).parent.parent
DRIVER = (REPOSITORY / "tests/guests/driver.wat").read_text()
SEND, RECEIVE = 1, 2
EBADF, ENOTCAPABLE = -8, -76


class Program:
    """What a wasmtime program has."""

    def __init__(self, engine: wasmtime.Engine | None = None) -> None:
        self.engine = engine or wasmtime.Engine()
        self.linker = wasmtime.Linker(self.engine)
        self.store = wasmtime.Store(self.engine)

    def instantiate(self, store: wasmtime.Store | None = None) -> wasmtime.Instance:
        return self.linker.instantiate(store or self.store, wasmtime.Module(self.engine, DRIVER))

    def call(self, instance: wasmtime.Instance, name: str, *values: int, store: wasmtime.Store | None = None) -> int:
        function = instance.exports(store or self.store)[name]
        assert isinstance(function, wasmtime.Func)
        result = function(store or self.store, *values)
        assert isinstance(result, int)
        return result

    def open(self, instance: wasmtime.Instance, name: bytes, flags: int) -> int:
        memory = instance.exports(self.store)["memory"]
        assert isinstance(memory, wasmtime.Memory)
        memory.write(self.store, name, 100)
        return self.call(instance, "open", 100, len(name), flags)


def test_the_example(guests: Path) -> None:
    argv = [sys.executable, REPOSITORY / "examples/existing_host.py", guests / "source.wasm", guests / "sink.wasm"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "sink: 1000 messages ok\n1000 messages, 4096000 bytes\n"


def test_the_example_is_about_twenty_lines() -> None:
    lines = (REPOSITORY / "examples/existing_host.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 26


def test_several_channels_and_directions() -> None:
    program = Program()
    out, back, both = (cwasi.open_channel(name) for name in ("out", "back", "both"))
    cwasi.install(program.linker, program.store, {"out": out[0], "back": back[1], "both": (both[0], both[1])})
    instance = program.instantiate()
    handles = [program.open(instance, name, flags) for name, flags in ((b"out", SEND), (b"back", RECEIVE))]
    assert program.call(instance, "send", handles[0], 100, 4, -1) == 0
    assert out[1].recv() == b"back"
    back[0].send(b"12345")
    assert program.call(instance, "recv", handles[1], 0, 64, -1) == 5
    sending, receiving = (program.open(instance, b"both", flags) for flags in (SEND, RECEIVE))
    assert program.call(instance, "send", sending, 0, 5, 0) == 0
    assert program.call(instance, "peek", receiving, 0) == 5
    assert program.open(instance, b"out", RECEIVE) == ENOTCAPABLE
    assert program.open(instance, b"other", SEND) == ENOTCAPABLE
    for end in (*out, *back, *both):
        end.close()


@pytest.mark.parametrize(("transport", "mode"), [("ring", 0), ("pipe", 1)])
def test_the_guest_is_told_the_mode(transport: str, mode: int) -> None:
    program = Program()
    tx, rx = cwasi.open_channel("c", transport)
    with rx, tx:
        cwasi.install(program.linker, program.store, {"c": tx})
        instance = program.instantiate()
        assert program.call(instance, "mode", program.open(instance, b"c", SEND)) == mode


def test_another_store_traps() -> None:
    """The guest's memory would be looked for in the wrong place."""
    program = Program()
    tx, rx = cwasi.open_channel("c")
    with rx, tx:
        cwasi.install(program.linker, program.store, {"c": tx})
        other = wasmtime.Store(program.engine)
        instance = program.instantiate(other)
        for name, values in (("mode", (0,)), ("send", (0, 0, 1, 0)), ("open", (0, 1, 1))):
            with pytest.raises((wasmtime.Trap, wasmtime.WasmtimeError), match="installed for another store"):
                program.call(instance, name, *values, store=other)


def test_two_installs_in_one_linker() -> None:
    program = Program()
    tx, rx = cwasi.open_channel("c")
    with rx, tx:
        cwasi.install(program.linker, program.store, {"c": tx})
        with pytest.raises(wasmtime.WasmtimeError, match=r"cwasi_v1::channel_open.*defined twice"):
            cwasi.install(program.linker, program.store, {"d": rx})
        instance = program.instantiate()
        assert program.open(instance, b"c", SEND) == 0, "the first one still works"


def test_two_instances_in_one_store_each_use_their_own_memory() -> None:
    program = Program()
    tx, rx = cwasi.open_channel("c")
    with rx, tx:
        cwasi.install(program.linker, program.store, {"c": tx})
        for text in (b"one", b"two"):
            instance = program.instantiate()
            handle = program.open(instance, b"c", SEND)
            memory = instance.exports(program.store)["memory"]
            assert isinstance(memory, wasmtime.Memory)
            memory.write(program.store, text, 0)
            assert program.call(instance, "send", handle, 0, 3, -1) == 0
            assert rx.recv() == text


def test_two_engines_in_one_process() -> None:
    tx, rx = cwasi.open_channel("c")
    with rx, tx:
        sender, receiver = Program(), Program()
        cwasi.install(sender.linker, sender.store, {"c": tx})
        cwasi.install(receiver.linker, receiver.store, {"c": rx})
        a, b = sender.instantiate(), receiver.instantiate()
        assert sender.call(a, "send", sender.open(a, b"c", SEND), 0, 200, -1) == 0
        assert receiver.call(b, "recv", receiver.open(b, b"c", RECEIVE), 0, 200, -1) == 200


def test_an_end_that_is_closed_under_the_guest() -> None:
    """An error for the guest, and nothing worse."""
    program = Program()
    tx, rx = cwasi.open_channel("c")
    cwasi.install(program.linker, program.store, {"c": tx})
    instance = program.instantiate()
    handle = program.open(instance, b"c", SEND)
    tx.close()
    rx.close()
    padding = [bytes(size) for size in range(1000, 12000)]   # takes over memory that would have been freed
    assert program.call(instance, "send", handle, 0, 8, 0) == EBADF
    assert program.call(instance, "close", handle) == 0
    assert padding


def test_install_keeps_what_the_guest_can_reach() -> None:
    program = Program()
    tx, rx = cwasi.open_channel("c")
    with rx:
        cwasi.install(program.linker, program.store, {"c": tx})
        del tx
        gc.collect()
        instance = program.instantiate()
        assert program.call(instance, "send", program.open(instance, b"c", SEND), 100, 1, 0) == 0
        assert rx.recv() == b"c"
        del program, instance
        gc.collect()
        with pytest.raises(cwasi.PeerDied):
            rx.recv(timeout=60)


@pytest.mark.parametrize("name", ["", "Out", "a\0b", "x" * 64, "../x"])
def test_names_are_checked(name: str) -> None:
    program = Program()
    tx, rx = cwasi.open_channel("c")
    with rx, tx, pytest.raises(cwasi.BadName):
        cwasi.install(program.linker, program.store, {name: tx})


def test_a_closed_end_is_refused() -> None:
    program = Program()
    tx, rx = cwasi.open_channel("c")
    tx.close()
    with rx, pytest.raises(cwasi.ChannelClosed):
        cwasi.install(program.linker, program.store, {"c": tx})


def test_another_release_of_wasmtime_is_refused(tmp_path: Path) -> None:
    """Its C interface may be laid out in another way: better not to try."""
    (tmp_path / "wasmtime-49.0.0.dist-info").mkdir()
    (tmp_path / "wasmtime-49.0.0.dist-info/METADATA").write_text("Name: wasmtime\nVersion: 49.0.0\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import wasmtime, cwasi_fastpath as cwasi\n"
        "engine = wasmtime.Engine()\n"
        "try: cwasi.install(wasmtime.Linker(engine), wasmtime.Store(engine), {})\n"
        "except cwasi.Unavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        "wasmtime 49.0.0 is installed; the hostcalls fit 50.0.1 only: pip install wasmtime==50.0.1\n"
    ), done.stderr
