;; The guests of a live run: one module, two roles. Argument: ROLE. They use the channels "there" and "back".
;;
;;   ask     sends a message, waits until it comes back, and checks it, as long as it is told to
;;   reply   sends back what it receives, until nobody sends any more
;;
;; ask reads tasks from standard input, three 64-bit numbers each: the size of a message in bytes (8 at least), the time
;; from one to the next in ns (0: the next is sent when the last one has come back), and how long that goes on, ns. The
;; end of the input is the end. For each task it writes records to standard output, four 64-bit numbers: the time since
;; the task began, ns; how many messages have come back since the record before; what these took there and back, ns, in
;; all; and the longest of them. A record of zeros ends the task.
;;
;; A message carries its number, counted from the first task on, in its first and last word and every 64 bytes (every
;; 4096 where it is longer than 4096). Ends with 3 where a channel ended it, with 99 where a message is wrong.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "cwasi_v1" "channel_open" (func $channel_open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_peek" (func $channel_peek (param i32 i32) (result i32)))
  (import "cwasi_v1" "channel_send" (func $channel_send (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $channel_recv (param i32 i32 i32 i32) (result i32)))

  ;; 0 "there"; 16 "back"; 32 the clock; 64 iovec; 80 bytes moved; 128 argv; 256 the task; 320 the record;
  ;; 384 what is waited for; 448 what has happened; 1024 the arguments; 65536 the message, then that which came back.
  (memory (export "memory") 2)
  (data (i32.const 0) "there")
  (data (i32.const 16) "back")
  (global $message i32 (i32.const 65536))
  (global $answer (mut i32) (i32.const 65536))
  (global $slice i64 (i64.const 10000000))   ;; a record each 10 ms
  (global $nap i64 (i64.const 2000000))      ;; the shortest sleep; for less it looks at the clock
  (global $closed i32 (i32.const -64))       ;; CWASI_EPIPE
  (global $stopped i32 (i32.const -11))      ;; CWASI_ECANCELED
  (global $out (mut i32) (i32.const 0))
  (global $in (mut i32) (i32.const 0))
  (global $number (mut i64) (i64.const 0))

  (func $now (result i64)
    (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 32)))
    (i64.load (i32.const 32)))

  ;; What a call of a channel gave, unless it failed.
  (func $must (param $result i32) (result i32)
    (if (i32.lt_s (local.get $result) (i32.const 0)) (then (call $proc_exit (i32.const 3))))
    (local.get $result))

  (func $expect (param $so i32)
    (if (i32.eqz (local.get $so)) (then (call $proc_exit (i32.const 99)))))

  (func $open (param $name i32) (param $length i32) (param $flags i32) (result i32)
    (call $must (call $channel_open (local.get $name) (local.get $length) (local.get $flags))))

  ;; Memory up to there.
  (func $reach (param $end i32)
    (local $pages i32)
    (local.set $pages (i32.sub (i32.shr_u (i32.add (local.get $end) (i32.const 65535)) (i32.const 16)) (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then (if (i32.lt_s (memory.grow (local.get $pages)) (i32.const 0)) (then unreachable)))))

  ;; ---- what a message holds ----

  (func $step (param $size i32) (result i32)
    (select (i32.const 4096) (i32.const 64) (i32.gt_u (local.get $size) (i32.const 4096))))

  (func $write (param $size i32)
    (local $at i32) (local $last i32)
    (local.set $last (i32.sub (i32.add (global.get $message) (local.get $size)) (i32.const 8)))
    (local.set $at (global.get $message))
    (loop $next
      (i64.store (local.get $at) (global.get $number))
      (local.set $at (i32.add (local.get $at) (call $step (local.get $size))))
      (br_if $next (i32.le_u (local.get $at) (local.get $last))))
    (i64.store (local.get $last) (global.get $number)))

  (func $verify (param $size i32)
    (local $at i32) (local $last i32)
    (local.set $last (i32.sub (i32.add (global.get $answer) (local.get $size)) (i32.const 8)))
    (local.set $at (global.get $answer))
    (loop $next
      (call $expect (i64.eq (i64.load (local.get $at)) (global.get $number)))
      (local.set $at (i32.add (local.get $at) (call $step (local.get $size))))
      (br_if $next (i32.le_u (local.get $at) (local.get $last))))
    (call $expect (i64.eq (i64.load (local.get $last)) (global.get $number))))

  ;; ---- tasks and records ----

  ;; Whether there is one.
  (func $read_task (result i32)
    (local $at i32)
    (loop $again
      (i32.store (i32.const 64) (i32.add (i32.const 256) (local.get $at)))
      (i32.store (i32.const 68) (i32.sub (i32.const 24) (local.get $at)))
      (if (call $fd_read (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 80)) (then (return (i32.const 0))))
      (if (i32.eqz (i32.load (i32.const 80))) (then (return (i32.const 0))))
      (local.set $at (i32.add (local.get $at) (i32.load (i32.const 80))))
      (br_if $again (i32.lt_u (local.get $at) (i32.const 24))))
    (i32.const 1))

  ;; In one piece: a pipe takes that little whole.
  (func $record (param $at i64) (param $count i64) (param $total i64) (param $worst i64)
    (i64.store (i32.const 320) (local.get $at))
    (i64.store (i32.const 328) (local.get $count))
    (i64.store (i32.const 336) (local.get $total))
    (i64.store (i32.const 344) (local.get $worst))
    (i32.store (i32.const 64) (i32.const 320))
    (i32.store (i32.const 68) (i32.const 32))
    (if (call $fd_write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 80))
      (then (call $proc_exit (i32.const 3)))))

  (func $wait (param $due i64)
    (local $left i64)
    (loop $again
      (local.set $left (i64.sub (local.get $due) (call $now)))
      (if (i64.ge_s (local.get $left) (global.get $nap))
        (then
          (memory.fill (i32.const 384) (i32.const 0) (i32.const 48))
          (i32.store (i32.const 400) (i32.const 1))
          (i64.store (i32.const 408) (i64.shr_u (local.get $left) (i64.const 1)))
          (drop (call $poll_oneoff (i32.const 384) (i32.const 448) (i32.const 1) (i32.const 80)))))
      (br_if $again (i64.gt_s (local.get $left) (i64.const 0)))))

  ;; ---- roles ----

  ;; One message there and back; what it took.
  (func $trip (param $size i32) (result i64)
    (local $before i64) (local $took i64)
    (global.set $number (i64.add (global.get $number) (i64.const 1)))
    (call $write (local.get $size))
    (local.set $before (call $now))
    (drop (call $must (call $channel_send (global.get $out) (global.get $message) (local.get $size) (i32.const -1))))
    (call $expect (i32.eq (local.get $size)
      (call $must (call $channel_recv (global.get $in) (global.get $answer) (local.get $size) (i32.const -1)))))
    (local.set $took (i64.sub (call $now) (local.get $before)))
    (call $verify (local.get $size))
    (local.get $took))

  (func $work (param $size i32) (param $gap i64) (param $long i64)
    (local $start i64) (local $slice i64) (local $due i64) (local $now i64)
    (local $count i64) (local $total i64) (local $worst i64) (local $took i64)
    (global.set $answer (i32.and (i32.add (i32.add (global.get $message) (local.get $size)) (i32.const 65535))
                                 (i32.const -65536)))
    (call $reach (i32.add (global.get $answer) (local.get $size)))
    (local.set $start (call $now))
    (local.set $slice (local.get $start))
    (local.set $due (local.get $start))
    (loop $next
      (if (i64.ne (local.get $gap) (i64.const 0)) (then (call $wait (local.get $due))))
      (local.set $took (call $trip (local.get $size)))
      (local.set $now (call $now))
      (local.set $count (i64.add (local.get $count) (i64.const 1)))
      (local.set $total (i64.add (local.get $total) (local.get $took)))
      (if (i64.gt_u (local.get $took) (local.get $worst)) (then (local.set $worst (local.get $took))))
      (local.set $due (i64.add (local.get $due) (local.get $gap)))
      (if (i64.gt_s (local.get $now) (local.get $due)) (then (local.set $due (local.get $now))))
      (if (i64.ge_s (i64.sub (local.get $now) (local.get $slice)) (global.get $slice))
        (then
          (call $record (i64.sub (local.get $now) (local.get $start)) (local.get $count) (local.get $total)
                        (local.get $worst))
          (local.set $slice (local.get $now))
          (local.set $count (i64.const 0))
          (local.set $total (i64.const 0))
          (local.set $worst (i64.const 0))))
      (br_if $next (i64.lt_s (i64.sub (local.get $now) (local.get $start)) (local.get $long))))
    (if (i64.ne (local.get $count) (i64.const 0))
      (then (call $record (i64.sub (local.get $now) (local.get $start)) (local.get $count) (local.get $total)
                          (local.get $worst))))
    (call $record (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)))

  (func $ask
    (global.set $out (call $open (i32.const 0) (i32.const 5) (i32.const 1)))
    (global.set $in (call $open (i32.const 16) (i32.const 4) (i32.const 2)))
    (loop $next
      (if (call $read_task)
        (then
          (call $work (i32.wrap_i64 (i64.load (i32.const 256))) (i64.load (i32.const 264)) (i64.load (i32.const 272)))
          (br $next)))))

  (func $reply
    (local $length i32)
    (global.set $in (call $open (i32.const 0) (i32.const 5) (i32.const 2)))
    (global.set $out (call $open (i32.const 16) (i32.const 4) (i32.const 1)))
    (loop $next
      (local.set $length (call $channel_peek (global.get $in) (i32.const -1)))
      (if (i32.or (i32.eq (local.get $length) (global.get $closed)) (i32.eq (local.get $length) (global.get $stopped)))
        (then (return)))
      (drop (call $must (local.get $length)))
      (call $reach (i32.add (global.get $message) (local.get $length)))
      (drop (call $must (call $channel_recv (global.get $in) (global.get $message) (local.get $length)
                                            (i32.const -1))))
      (drop (call $must (call $channel_send (global.get $out) (global.get $message) (local.get $length)
                                            (i32.const -1))))
      (br $next)))

  ;; ask, reply: told apart by the first letter.
  (func (export "_start")
    (drop (call $args_get (i32.const 128) (i32.const 1024)))
    (if (i32.eq (i32.load8_u (i32.load (i32.const 132))) (i32.const 97)) (then (call $ask)) (else (call $reply)))))
