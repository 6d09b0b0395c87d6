;; The guests that the channel benchmark runs: one module, seven roles.
;; Arguments: ROLE COUNT SIZE LOCKSTEP. They use the channels "there" and "back", or standard input and output where
;; neither was granted; what fails traps. Results are 64-bit numbers, nanoseconds, written to standard error.
;;
;;   ping    sends a message, waits for one, COUNT times; results: 1000 looks at the clock, then each round trip
;;   pong    sends back what it receives, COUNT times
;;   source  sends COUNT messages, then waits for an answer if it was granted "back"; results: until the last send had
;;           returned, and until the answer had come
;;   sink    receives COUNT messages, then answers if it was granted "back"
;;   fill    source that writes each message first; with LOCKSTEP it waits for an answer to each; result: all of it
;;   sum     sink that adds each message up, and answers each with LOCKSTEP
;;   work    writes COUNT messages, then adds up COUNT, and sends nothing; results: both
;;
;; Who has both directions first exchanges one message of 4 MiB, which touches every page of a ring.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_open" (func $channel_open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_send" (func $channel_send (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $channel_recv (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)

  ;; 0 "there"; 16 "back"; 32 the clock; 64 iovec; 80 bytes moved; 128 argv; 1024 the arguments; 65536 the message, then
  ;; the results.
  (data (i32.const 0) "there")
  (data (i32.const 16) "back")
  (global $send i32 (i32.const 1))
  (global $receive i32 (i32.const 2))
  (global $stdin i32 (i32.const 0))
  (global $stdout i32 (i32.const 1))
  (global $stderr i32 (i32.const 2))
  (global $message i32 (i32.const 65536))
  (global $warm_size i32 (i32.const 4194304))
  (global $answer_size i32 (i32.const 8))
  (global $count (mut i32) (i32.const 0))
  (global $size (mut i32) (i32.const 0))
  (global $lockstep (mut i32) (i32.const 0))
  (global $results (mut i32) (i32.const 0))
  (global $next_result (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 0))
  (global $in (mut i32) (i32.const 0))

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

  (func $require (param $so i32)
    (if (i32.eqz (local.get $so)) (then unreachable)))

  (func $result (param $value i64)
    (i64.store (global.get $next_result) (local.get $value))
    (global.set $next_result (i32.add (global.get $next_result) (i32.const 8))))

  ;; ---- standard input and output ----

  ;; Moves all bytes, however few the system takes at a time. None at all is the end of a file.
  (func $move (param $file i32) (param $at i32) (param $length i32)
    (loop $again
      (i32.store (i32.const 64) (local.get $at))
      (i32.store (i32.const 68) (local.get $length))
      (call $require (i32.eqz
        (if (result i32) (i32.eq (local.get $file) (global.get $stdin))
          (then (call $fd_read (local.get $file) (i32.const 64) (i32.const 1) (i32.const 80)))
          (else (call $fd_write (local.get $file) (i32.const 64) (i32.const 1) (i32.const 80))))))
      (call $require (i32.load (i32.const 80)))
      (local.set $at (i32.add (local.get $at) (i32.load (i32.const 80))))
      (br_if $again (local.tee $length (i32.sub (local.get $length) (i32.load (i32.const 80)))))))

  ;; ---- messages ----

  (func $put (param $length i32)
    (if (i32.lt_s (global.get $out) (i32.const 0))
      (then (call $move (global.get $stdout) (global.get $message) (local.get $length)))
      (else (call $require (i32.eqz (call $channel_send (global.get $out) (global.get $message) (local.get $length)
                                                        (i32.const -1)))))))

  (func $take (param $length i32)
    (if (i32.lt_s (global.get $in) (i32.const 0))
      (then (call $move (global.get $stdin) (global.get $message) (local.get $length)))
      (else (call $require (i32.eq (call $channel_recv (global.get $in) (global.get $message) (local.get $length)
                                                       (i32.const -1))
                                   (local.get $length))))))

  ;; Which directions there are: both, but for a send without a receiver.
  (func $both (result i32)
    (i32.eq (i32.lt_s (global.get $out) (i32.const 0)) (i32.lt_s (global.get $in) (i32.const 0))))

  (func $first
    (global.set $out (call $channel_open (i32.const 0) (i32.const 5) (global.get $send)))
    (global.set $in (call $channel_open (i32.const 16) (i32.const 4) (global.get $receive)))
    (if (call $both)
      (then (call $put (global.get $warm_size)) (call $take (global.get $warm_size)))))

  (func $second
    (global.set $in (call $channel_open (i32.const 0) (i32.const 5) (global.get $receive)))
    (global.set $out (call $channel_open (i32.const 16) (i32.const 4) (global.get $send)))
    (if (call $both)
      (then (call $take (global.get $warm_size)) (call $put (global.get $warm_size)))))

  ;; The message, the results, and room for both.
  (func $make_room
    (local $room i32)
    (local.set $room (select (global.get $size) (global.get $warm_size)
                             (i32.gt_u (global.get $size) (global.get $warm_size))))
    (global.set $results
      (i32.and (i32.add (i32.add (global.get $message) (local.get $room)) (i32.const 63)) (i32.const -64)))
    (global.set $next_result (global.get $results))
    (call $require (i32.ge_s (memory.grow (i32.add (i32.const 2)
        (i32.shr_u (i32.add (local.get $room) (i32.shl (global.get $count) (i32.const 3))) (i32.const 16))))
      (i32.const 0)))
    (memory.fill (global.get $message) (i32.const 7) (local.get $room)))

  (func $write_results
    (if (i32.gt_u (global.get $next_result) (global.get $results))
      (then (call $move (global.get $stderr) (global.get $results)
                        (i32.sub (global.get $next_result) (global.get $results))))))

  ;; ---- work: a plain loop over words of 64 bits, as compilers make it without SIMD ----

  (func $fill_message (param $value i32)
    (local $at i32) (local $end i32) (local $word i64)
    (local.set $word (i64.extend_i32_u (local.get $value)))
    (local.set $at (global.get $message))
    (local.set $end (i32.add (local.get $at) (global.get $size)))
    (loop $again
      (i64.store (local.get $at) (local.get $word))
      (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end)))))

  ;; Traps where the message is not what $fill_message wrote.
  (func $sum_message (param $value i32)
    (local $at i32) (local $end i32) (local $total i64)
    (local.set $at (global.get $message))
    (local.set $end (i32.add (local.get $at) (global.get $size)))
    (loop $again
      (local.set $total (i64.add (local.get $total) (i64.load (local.get $at))))
      (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end))))
    (call $require (i64.eq (local.get $total)
                           (i64.mul (i64.extend_i32_u (local.get $value))
                                    (i64.extend_i32_u (i32.shr_u (global.get $size) (i32.const 3)))))))

  ;; ---- roles ----

  (func $ping
    (local $left i32) (local $before i64) (local $now i64)
    (call $first)
    (local.set $left (i32.const 1000))
    (local.set $before (call $now))
    (loop $look
      (local.set $now (call $now))
      (br_if $look (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $result (i64.sub (local.get $now) (local.get $before)))
    (local.set $left (global.get $count))
    (local.set $before (call $now))
    (loop $again
      (call $put (global.get $size))
      (call $take (global.get $size))
      (local.set $now (call $now))
      (call $result (i64.sub (local.get $now) (local.get $before)))
      (local.set $before (local.get $now))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))

  (func $pong
    (local $left i32)
    (call $second)
    (local.set $left (global.get $count))
    (loop $again
      (call $take (global.get $size))
      (call $put (global.get $size))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))

  (func $source
    (local $left i32) (local $start i64)
    (call $first)
    (local.set $left (global.get $count))
    (local.set $start (call $now))
    (loop $again
      (call $put (global.get $size))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $result (i64.sub (call $now) (local.get $start)))
    (if (call $both) (then (call $take (global.get $answer_size))))
    (call $result (i64.sub (call $now) (local.get $start))))

  (func $sink
    (local $left i32)
    (call $second)
    (local.set $left (global.get $count))
    (loop $again
      (call $take (global.get $size))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (call $both) (then (call $put (global.get $answer_size)))))

  (func $fill
    (local $left i32) (local $start i64)
    (call $first)
    (local.set $left (global.get $count))
    (local.set $start (call $now))
    (loop $again
      (call $fill_message (local.get $left))
      (call $put (global.get $size))
      (if (global.get $lockstep) (then (call $take (global.get $answer_size))))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (i32.eqz (global.get $lockstep)) (then (call $take (global.get $answer_size))))
    (call $result (i64.sub (call $now) (local.get $start))))

  (func $sum
    (local $left i32)
    (call $second)
    (local.set $left (global.get $count))
    (loop $again
      (call $take (global.get $size))
      (call $sum_message (local.get $left))
      (if (global.get $lockstep) (then (call $put (global.get $answer_size))))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (i32.eqz (global.get $lockstep)) (then (call $put (global.get $answer_size)))))

  (func $work
    (local $left i32) (local $start i64)
    (local.set $left (global.get $count))
    (local.set $start (call $now))
    (loop $again
      (call $fill_message (local.get $left))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $result (i64.sub (call $now) (local.get $start)))
    (local.set $left (global.get $count))
    (local.set $start (call $now))
    (loop $again
      (call $sum_message (i32.const 1))   ;; the value of the last one
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $result (i64.sub (call $now) (local.get $start))))

  (func $play (param $role i32)   ;; its first two letters
    (if (i32.eq (local.get $role) (i32.const 0x6970)) (then (call $ping) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6f70)) (then (call $pong) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6f73)) (then (call $source) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6973)) (then (call $sink) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6966)) (then (call $fill) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x7573)) (then (call $sum) (return)))
    (if (i32.eq (local.get $role) (i32.const 0x6f77)) (then (call $work) (return)))
    unreachable)

  (func (export "_start")
    (drop (call $args_get (i32.const 128) (i32.const 1024)))
    (global.set $count (call $number (call $argument (i32.const 2))))
    (global.set $size (call $number (call $argument (i32.const 3))))
    (global.set $lockstep (call $number (call $argument (i32.const 4))))
    (call $make_room)
    (call $play (i32.load16_u (call $argument (i32.const 1))))
    (call $write_results)))
