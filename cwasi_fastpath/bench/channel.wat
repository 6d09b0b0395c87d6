;; The guests that the channel benchmark runs: one module, seven roles.
;; Arguments: ROLE COUNT SIZE LOCKSTEP WINDOW. They use the channels "there" and "back", or standard input and output
;; where neither was granted; what fails traps. Results are 64-bit numbers, nanoseconds, written to standard error.
;; With a WINDOW of so many bytes (0: none) messages pass in place: the sender writes all of each (memory.fill), and the
;; receiver reads a word of each cache line, so that all of it has come over. Answers pass by copies.
;;
;;   ping    sends a message, waits for one, COUNT times; results: 1000 looks at the clock, then each round trip
;;   pong    sends back what it receives, or one like it, COUNT times
;;   source  sends COUNT messages, then waits for an answer if it was granted "back"; results: until the last send had
;;           returned, and until the answer had come
;;   sink    receives COUNT messages, then answers if it was granted "back"
;;   fill    source that writes each message first; with LOCKSTEP it waits for an answer to each; result: all of it
;;   sum     sink that adds each message up, and answers each with LOCKSTEP
;;   work    writes a message, then adds it up, COUNT times, and sends nothing; result: all of it
;;
;; Who has both directions first exchanges one message of 4 MiB, which touches every page of a ring, and one of a whole
;; window, which maps every page of that.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_open" (func $channel_open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_send" (func $channel_send (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $channel_recv (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_attach" (func $window_attach (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_acquire" (func $window_acquire (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_commit" (func $window_commit (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_take" (func $window_take (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_release" (func $window_release (param i32 i32) (result i32)))
  (memory (export "memory") 2)

  ;; 0 "there"; 16 "back"; 32 the clock; 64 iovec; 80 bytes moved; 88 the record taken; 128 argv; 1024 the arguments;
  ;; 2 MiB the message, then the windows, then the results.
  (data (i32.const 0) "there")
  (data (i32.const 16) "back")
  (global $send i32 (i32.const 1))
  (global $receive i32 (i32.const 2))
  (global $stdin i32 (i32.const 0))
  (global $stdout i32 (i32.const 1))
  (global $stderr i32 (i32.const 2))
  (global $message i32 (i32.const 2097152))
  (global $warm_size i32 (i32.const 4194304))
  (global $answer_size i32 (i32.const 8))
  (global $count (mut i32) (i32.const 0))
  (global $size (mut i32) (i32.const 0))
  (global $lockstep (mut i32) (i32.const 0))
  (global $window (mut i32) (i32.const 0))
  (global $out_window (mut i32) (i32.const 0))
  (global $in_window (mut i32) (i32.const 0))
  (global $seen (mut i64) (i64.const 0))   ;; keeps a compiler from leaving out what only reads
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

  ;; ---- messages by copies ----

  (func $send (param $length i32)
    (if (i32.lt_s (global.get $out) (i32.const 0))
      (then (call $move (global.get $stdout) (global.get $message) (local.get $length)))
      (else (call $require (i32.eqz (call $channel_send (global.get $out) (global.get $message) (local.get $length)
                                                        (i32.const -1)))))))

  (func $receive (param $length i32)
    (if (i32.lt_s (global.get $in) (i32.const 0))
      (then (call $move (global.get $stdin) (global.get $message) (local.get $length)))
      (else (call $require (i32.eq (call $channel_recv (global.get $in) (global.get $message) (local.get $length)
                                                       (i32.const -1))
                                   (local.get $length))))))

  ;; ---- messages either way ----

  ;; Where to write a message.
  (func $acquire (param $length i32) (result i32)
    (local $at i32)
    (if (i32.eqz (global.get $window)) (then (return (global.get $message))))
    (local.set $at (call $window_acquire (global.get $out) (local.get $length) (i32.const -1)))
    (call $require (i32.ge_s (local.get $at) (i32.const 0)))
    (i32.add (global.get $out_window) (local.get $at)))

  (func $commit (param $at i32) (param $length i32)
    (if (global.get $window)
      (then (call $require (i32.eqz (call $window_commit (global.get $out)
                                                         (i32.sub (local.get $at) (global.get $out_window))
                                                         (local.get $length)))))
      (else (call $send (local.get $length)))))

  ;; Where the next message is.
  (func $arrived (param $length i32) (result i32)
    (if (global.get $window)
      (then
        (call $require (i32.eqz (call $window_take (global.get $in) (i32.const 88) (i32.const -1))))
        (call $require (i32.eq (i32.load (i32.const 92)) (local.get $length)))
        (return (i32.add (global.get $in_window) (i32.load (i32.const 88))))))
    (call $receive (local.get $length))
    (global.get $message))

  (func $done (param $at i32)
    (if (global.get $window)
      (then (call $require (i32.eqz (call $window_release (global.get $in)
                                                          (i32.sub (local.get $at) (global.get $in_window))))))))

  (func $put (param $length i32)
    (local $at i32)
    (local.set $at (call $acquire (local.get $length)))
    (if (global.get $window) (then (memory.fill (local.get $at) (i32.const 7) (local.get $length))))
    (call $commit (local.get $at) (local.get $length)))

  (func $take (param $length i32)
    (local $at i32)
    (local.set $at (call $arrived (local.get $length)))
    (if (global.get $window) (then (call $look_through (local.get $at) (local.get $length))))
    (call $done (local.get $at)))

  (func $look_through (param $at i32) (param $length i32)
    (local $end i32) (local $total i64)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (loop $again
      (local.set $total (i64.add (local.get $total) (i64.load (local.get $at))))
      (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 64))) (local.get $end))))
    (global.set $seen (local.get $total)))

  ;; Which directions there are: both, but for a send without a receiver.
  (func $both (result i32)
    (i32.eq (i32.lt_s (global.get $out) (i32.const 0)) (i32.lt_s (global.get $in) (i32.const 0))))

  (func $attach
    (if (global.get $window)
      (then
        (call $require (i32.eqz (call $window_attach (global.get $out) (global.get $out_window) (global.get $window))))
        (call $require (i32.eqz (call $window_attach (global.get $in) (global.get $in_window) (global.get $window)))))))

  (func $first
    (global.set $out (call $channel_open (i32.const 0) (i32.const 5) (global.get $send)))
    (global.set $in (call $channel_open (i32.const 16) (i32.const 4) (global.get $receive)))
    (call $attach)
    (if (call $both)
      (then (call $send (global.get $warm_size)) (call $receive (global.get $warm_size))))
    (if (global.get $window)
      (then (call $put (global.get $window)) (call $take (global.get $window)))))

  (func $second
    (global.set $in (call $channel_open (i32.const 0) (i32.const 5) (global.get $receive)))
    (global.set $out (call $channel_open (i32.const 16) (i32.const 4) (global.get $send)))
    (call $attach)
    (if (call $both)
      (then (call $receive (global.get $warm_size)) (call $send (global.get $warm_size))))
    (if (global.get $window)
      (then (call $take (global.get $window)) (call $put (global.get $window)))))

  (func $greater (param $one i32) (param $other i32) (result i32)
    (select (local.get $one) (local.get $other) (i32.gt_u (local.get $one) (local.get $other))))

  ;; The message, both windows and the results, each in whole pages of 2 MiB, which the system may make huge ones.
  (func $make_room
    (local $room i32)
    (local.set $room (call $greater (global.get $window) (call $greater (global.get $size) (global.get $warm_size))))
    (local.set $room (i32.and (i32.add (local.get $room) (i32.const 2097151)) (i32.const -2097152)))
    (global.set $out_window (i32.add (global.get $message) (local.get $room)))
    (global.set $in_window (i32.add (global.get $out_window) (global.get $window)))
    (global.set $results (i32.add (global.get $in_window) (global.get $window)))
    (global.set $next_result (global.get $results))
    (call $require (i32.ge_s (memory.grow (i32.add (i32.const 1)
        (i32.shr_u (i32.add (global.get $results) (i32.shl (global.get $count) (i32.const 3))) (i32.const 16))))
      (i32.const 0)))
    (memory.fill (global.get $message) (i32.const 7) (local.get $room)))

  (func $write_results
    (if (i32.gt_u (global.get $next_result) (global.get $results))
      (then (call $move (global.get $stderr) (global.get $results)
                        (i32.sub (global.get $next_result) (global.get $results))))))

  ;; ---- work: a plain loop over words of 64 bits, as compilers make it without SIMD ----

  (func $fill_message (param $at i32) (param $value i32)
    (local $end i32) (local $word i64)
    (local.set $word (i64.extend_i32_u (local.get $value)))
    (local.set $end (i32.add (local.get $at) (global.get $size)))
    (loop $again
      (i64.store (local.get $at) (local.get $word))
      (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end)))))

  ;; Traps where the message is not what $fill_message wrote.
  (func $sum_message (param $at i32) (param $value i32)
    (local $end i32) (local $total i64)
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
    (if (call $both) (then (call $receive (global.get $answer_size))))
    (call $result (i64.sub (call $now) (local.get $start))))

  (func $sink
    (local $left i32)
    (call $second)
    (local.set $left (global.get $count))
    (loop $again
      (call $take (global.get $size))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (call $both) (then (call $send (global.get $answer_size)))))

  (func $fill
    (local $left i32) (local $at i32) (local $start i64)
    (call $first)
    (local.set $left (global.get $count))
    (local.set $start (call $now))
    (loop $again
      (local.set $at (call $acquire (global.get $size)))
      (call $fill_message (local.get $at) (local.get $left))
      (call $commit (local.get $at) (global.get $size))
      (if (global.get $lockstep) (then (call $receive (global.get $answer_size))))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (i32.eqz (global.get $lockstep)) (then (call $receive (global.get $answer_size))))
    (call $result (i64.sub (call $now) (local.get $start))))

  (func $sum
    (local $left i32) (local $at i32)
    (call $second)
    (local.set $left (global.get $count))
    (loop $again
      (local.set $at (call $arrived (global.get $size)))
      (call $sum_message (local.get $at) (local.get $left))
      (call $done (local.get $at))
      (if (global.get $lockstep) (then (call $send (global.get $answer_size))))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (i32.eqz (global.get $lockstep)) (then (call $send (global.get $answer_size)))))

  (func $work
    (local $left i32) (local $start i64)
    (local.set $left (global.get $count))
    (local.set $start (call $now))
    (loop $again
      (call $fill_message (global.get $message) (local.get $left))
      (call $sum_message (global.get $message) (local.get $left))
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
    (global.set $window (call $number (call $argument (i32.const 5))))
    (call $make_room)
    (call $play (i32.load16_u (call $argument (i32.const 1))))
    (call $write_results)))
