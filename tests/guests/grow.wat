;; grow - grows its memory by 256 pages, sends 16 MiB from the new pages on "out", and grows and sends once more.
;; Byte i of a message is (i * 7) & 255.
(module
  (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_send" (func $send (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "out")
  (func $grow_and_send (param $handle i32)
    (local $at i32) (local $i i32)
    (local.set $at (i32.shl (memory.grow (i32.const 256)) (i32.const 16)))
    (loop $next
      (i32.store8 (i32.add (local.get $at) (local.get $i)) (i32.mul (local.get $i) (i32.const 7)))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 0x1000000))))
    (if (call $send (local.get $handle) (local.get $at) (i32.const 0x1000000) (i32.const -1)) (then unreachable)))
  (func (export "_start") (local $handle i32)
    (local.set $handle (call $open (i32.const 0) (i32.const 3) (i32.const 1)))
    (call $grow_and_send (local.get $handle))
    (call $grow_and_send (local.get $handle))))
