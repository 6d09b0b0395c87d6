;; fan - fills "slow", then traps. Whoever waits at the other end of "quick" learns it at once.
(module
  (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_send" (func $send (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "quickslow")
  (func (export "_start") (local $slow i32)
    (drop (call $open (i32.const 0) (i32.const 5) (i32.const 1)))
    (local.set $slow (call $open (i32.const 5) (i32.const 4) (i32.const 1)))
    (loop $next
      (br_if $next (i32.eqz (call $send (local.get $slow) (i32.const 64) (i32.const 4000) (i32.const 0)))))
    (loop $next
      (br_if $next (i32.eqz (call $send (local.get $slow) (i32.const 64) (i32.const 1) (i32.const 0)))))
    unreachable))
