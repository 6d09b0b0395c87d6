"""Channels in a wasmtime program with an Engine, Linkers and Stores of its own: existing_host.py SENDER RECEIVER"""

import sys
import threading

import wasmtime

import cwasi_fastpath as cwasi

engine = wasmtime.Engine()


def run(path: str, name: str, port: str, end: cwasi.Sender | cwasi.Receiver) -> None:
    linker, store, wasi = wasmtime.Linker(engine), wasmtime.Store(engine), wasmtime.WasiConfig()
    wasi.argv = [name, "1000", "4096"]  # both want to know: so many messages, so many bytes each
    wasi.inherit_stdout()
    store.set_wasi(wasi)
    linker.define_wasi()
    cwasi.install(linker, store, channels={port: end})  # the guest opens it as `port`
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, path))
    with end, cwasi.function(name):  # what this thread does now is `name`'s, to a tracer
        instance.exports(store)["_start"](store)


tx, rx = cwasi.open_channel("frames")
sender = threading.Thread(target=run, args=(sys.argv[1], "sender", "out", tx))
sender.start()
run(sys.argv[2], "receiver", "in", rx)
sender.join()
print(f"{rx.metrics().messages} messages, {rx.metrics().bytes} bytes")
