"""A thousand guests in one host, each with a channel to the next."""

from __future__ import annotations

from conftest import WriteModule

import cwasi_fastpath as cwasi

# The first sends one message; each passes on what it receives, with one added to the number in it; the last traps
# unless that number is right.
LINK = """(module
  (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_send" (func $send (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $recv (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "inout")
  (func (export "_start") (local $in i32) (local $out i32)
    (local.set $in (call $open (i32.const 0) (i32.const 2) (i32.const 2)))
    (local.set $out (call $open (i32.const 2) (i32.const 3) (i32.const 1)))
    (if (i32.ge_s (local.get $in) (i32.const 0))
      (then (if (i32.ne (call $recv (local.get $in) (i32.const 64) (i32.const 4) (i32.const -1)) (i32.const 4))
        (then unreachable))))
    (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
    (if (i32.ge_s (local.get $out) (i32.const 0))
      (then (if (call $send (local.get $out) (i32.const 64) (i32.const 4) (i32.const -1)) (then unreachable)))
      (else (if (i32.ne (i32.load (i32.const 64)) (i32.const COUNT)) (then unreachable))))))
"""
COUNT = 1000


def test_a_thousand_guests_and_channels(module: WriteModule) -> None:
    path = module(LINK.replace("COUNT", str(COUNT)))
    with cwasi.Host() as host:
        guests = [host.load(path, f"guest{number}") for number in range(COUNT)]
        channels = [
            host.connect(f"channel{number}", guests[number], guests[number + 1], ports=("out", "in"), transport="ring")
            for number in range(COUNT - 1)
        ]
        host.run()
        assert all(channel.metrics().received == 1 for channel in channels)
