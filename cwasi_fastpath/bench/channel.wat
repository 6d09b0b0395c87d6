;; The guests that the channel benchmark runs: one module, four roles.
;; Arguments: ROLE COUNT SIZE. They use the channels "there" and "back"; a call that fails traps.
;;
;;   ping    sends a message, waits for one, COUNT times
;;   pong    sends back what it receives, COUNT times
;;   source  sends COUNT messages, then waits for one if it was granted "back"; writes two 64-bit numbers to stdout:
;;           the nanoseconds until the last send had returned, and until the answer had come
;;   sink    receives COUNT messages, then answers if it was granted "back"
;;
;; Who was granted "back" first exchanges one message of 4 MiB, which touches every page of a ring.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_open" (func $channel_open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_send" (func $channel_send (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $channel_recv (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)

  ;; 0 "there"; 16 "back"; 32 the clock; 48 the two results; 64 iovec; 80 bytes written; 128 argv; 1024 the arguments;
  ;; 65536 the message.
  (data (i32.const 0) "there")
  (data (i32.const 16) "back")
  (data (i32.const 64) "\30\00\00\00\10\00\00\00")
  (global $send i32 (i32.const 1))
  (global $receive i32 (i32.const 2))
  (global $message i32 (i32.const 65536))
  (global $warm_size i32 (i32.const 4194304))
  (global $count (mut i32) (i32.const 0))
  (global $size (mut i32) (i32.const 0))
  (global $room (mut i32) (i32.const 0))

  (func $argument (param $index i32) (result i32)
    (i32.load (i32.add (i32.const 128) (i32.shl (local.get $index) (i32.const 2)))))

  (func $number (param $text i32) (result i32)
    (local $value i32) (local $digit i32)
    (loop $next
      (local.set $digit (i32.load8_u (local.get $text)))
      (if (local.get $digit)
        (then
          (local.set $value (i32.add (i32.mul (local.get $value) (i32.const 10))
                                     (i32.sub (local.get $digit) (i32.const 48))))
          (local.set $text (i32.add (local.get $text) (i32.const 1)))
          (br $next))))
    (local.get $value))

  (func $now (result i64)
    (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 32)))
    (i64.load (i32.const 32)))

  (func $there (param $flags i32) (result i32)
    (call $channel_open (i32.const 0) (i32.const 5) (local.get $flags)))

  (func $back (param $flags i32) (result i32)
    (call $channel_open (i32.const 16) (i32.const 4) (local.get $flags)))

  (func $put (param $channel i32) (param $length i32)
    (if (call $channel_send (local.get $channel) (global.get $message) (local.get $length) (i32.const -1))
      (then unreachable)))

  (func $take (param $channel i32)
    (if (i32.lt_s (call $channel_recv (local.get $channel) (global.get $message) (global.get $room) (i32.const -1))
                  (i32.const 0))
      (then unreachable)))

  (func $make_message
    (global.set $room (select (global.get $size) (global.get $warm_size)
                              (i32.gt_u (global.get $size) (global.get $warm_size))))
    (if (i32.lt_s (memory.grow (i32.shr_u (i32.add (global.get $room) (i32.const 65535)) (i32.const 16)))
                  (i32.const 0))
      (then unreachable))
    (memory.fill (global.get $message) (i32.const 7) (global.get $room)))

  (func $ping
    (local $there i32) (local $back i32) (local $left i32)
    (local.set $there (call $there (global.get $send)))
    (local.set $back (call $back (global.get $receive)))
    (call $put (local.get $there) (global.get $warm_size))
    (call $take (local.get $back))
    (local.set $left (global.get $count))
    (loop $again
      (call $put (local.get $there) (global.get $size))
      (call $take (local.get $back))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))

  (func $pong
    (local $there i32) (local $back i32) (local $left i32)
    (local.set $there (call $there (global.get $receive)))
    (local.set $back (call $back (global.get $send)))
    (call $take (local.get $there))
    (call $put (local.get $back) (global.get $warm_size))
    (local.set $left (global.get $count))
    (loop $again
      (call $take (local.get $there))
      (call $put (local.get $back) (global.get $size))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))

  (func $source
    (local $there i32) (local $back i32) (local $left i32) (local $start i64)
    (local.set $there (call $there (global.get $send)))
    (local.set $back (call $back (global.get $receive)))
    (if (i32.ge_s (local.get $back) (i32.const 0))
      (then
        (call $put (local.get $there) (global.get $warm_size))
        (call $take (local.get $back))))
    (local.set $left (global.get $count))
    (local.set $start (call $now))
    (loop $again
      (call $put (local.get $there) (global.get $size))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 48) (i64.sub (call $now) (local.get $start)))
    (if (i32.ge_s (local.get $back) (i32.const 0)) (then (call $take (local.get $back))))
    (i64.store (i32.const 56) (i64.sub (call $now) (local.get $start)))
    (if (call $fd_write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 80)) (then unreachable)))

  (func $sink
    (local $there i32) (local $back i32) (local $left i32)
    (local.set $there (call $there (global.get $receive)))
    (local.set $back (call $back (global.get $send)))
    (if (i32.ge_s (local.get $back) (i32.const 0))
      (then
        (call $take (local.get $there))
        (call $put (local.get $back) (global.get $warm_size))))
    (local.set $left (global.get $count))
    (loop $again
      (call $take (local.get $there))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (i32.ge_s (local.get $back) (i32.const 0)) (then (call $put (local.get $back) (i32.const 0)))))

  (func (export "_start")
    (local $role i32)
    (drop (call $args_get (i32.const 128) (i32.const 1024)))
    (global.set $count (call $number (call $argument (i32.const 2))))
    (global.set $size (call $number (call $argument (i32.const 3))))
    (call $make_message)
    (local.set $role (i32.load16_u (call $argument (i32.const 1))))   ;; its first two letters
    (if (i32.eq (local.get $role) (i32.const 0x6970)) (then (call $ping) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6f70)) (then (call $pong) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6f73)) (then (call $source) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6973)) (then (call $sink) (return)))
    unreachable))
