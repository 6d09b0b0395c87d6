;; The guests that the soak runs: one module, four roles. Arguments: ROLE COUNT. They use the channel "soak".
;;
;;   fill    sends COUNT messages in place, each word of which says which message it belongs to and where it stands
;;   check   receives COUNT messages in place, and checks each word
;;   ask     calls COUNT times, and checks that the answer is the question, each word one more
;;   answer  answers until nobody asks any more
;;
;; The length of message N follows from N. Ends with 3 where a channel ended it, with 99 where a message is wrong.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "cwasi_v1" "channel_open" (func $channel_open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $channel_recv (param i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_call" (func $channel_call (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_reply" (func $channel_reply (param i32 i32) (result i32)))
  (import "cwasi_v1" "window_attach" (func $window_attach (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_acquire" (func $window_acquire (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_commit" (func $window_commit (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_take" (func $window_take (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "window_release" (func $window_release (param i32 i32) (result i32)))

  ;; 0 "soak"; 64 the record taken; 128 argv; 1024 the arguments; 65536 the window, or a message; 589824 its answer
  (memory (export "memory") 17)
  (data (i32.const 0) "soak")
  (global $window i32 (i32.const 65536))
  (global $window_size i32 (i32.const 524288))
  (global $reply i32 (i32.const 589824))
  (global $handle (mut i32) (i32.const 0))
  (global $closed i32 (i32.const -64))   ;; CWASI_EPIPE

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

  ;; What a call of a channel gave, unless it failed.
  (func $must (param $result i32) (result i32)
    (if (i32.lt_s (local.get $result) (i32.const 0)) (then (call $proc_exit (i32.const 3))))
    (local.get $result))

  (func $equal (param $a i32) (param $b i32)
    (if (i32.ne (local.get $a) (local.get $b)) (then (call $proc_exit (i32.const 99)))))

  ;; Of message N: 8 bytes to 64 KiB, and of every other one less than 1 KiB.
  (func $length (param $n i32) (result i32)
    (local $hash i32)
    (local.set $hash (i32.mul (i32.add (local.get $n) (i32.const 1)) (i32.const 0x9e3779b1)))
    (i32.shl
      (i32.add (i32.const 1)
        (i32.and (i32.shr_u (local.get $hash) (i32.const 8))
                 (select (i32.const 127) (i32.const 8191) (i32.and (local.get $n) (i32.const 1)))))
      (i32.const 3)))

  (func $word (param $n i32) (param $at i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $n)) (i64.const 32)) (i64.extend_i32_u (local.get $at))))

  (func $write (param $to i32) (param $n i32) (param $length i32)
    (local $at i32)
    (loop $again
      (i64.store (i32.add (local.get $to) (local.get $at)) (call $word (local.get $n) (local.get $at)))
      (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $length)))))

  (func $verify (param $from i32) (param $n i32) (param $length i32) (param $more i64)
    (local $at i32)
    (loop $again
      (if (i64.ne (i64.load (i32.add (local.get $from) (local.get $at)))
                  (i64.add (call $word (local.get $n) (local.get $at)) (local.get $more)))
        (then (call $proc_exit (i32.const 99))))
      (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $length)))))

  (func $open (param $flags i32)
    (global.set $handle (call $must (call $channel_open (i32.const 0) (i32.const 4) (local.get $flags)))))

  (func $attach (param $flags i32)
    (call $open (local.get $flags))
    (drop (call $must (call $window_attach (global.get $handle) (global.get $window) (global.get $window_size)))))

  (func $fill (param $count i32)
    (local $n i32) (local $at i32) (local $length i32)
    (call $attach (i32.const 1))
    (loop $next
      (local.set $length (call $length (local.get $n)))
      (local.set $at (call $must (call $window_acquire (global.get $handle) (local.get $length) (i32.const -1))))
      (call $write (i32.add (global.get $window) (local.get $at)) (local.get $n) (local.get $length))
      (drop (call $must (call $window_commit (global.get $handle) (local.get $at) (local.get $length))))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (local.get $count)))))

  (func $check (param $count i32)
    (local $n i32) (local $length i32)
    (call $attach (i32.const 2))
    (loop $next
      (drop (call $must (call $window_take (global.get $handle) (i32.const 64) (i32.const -1))))
      (local.set $length (call $length (local.get $n)))
      (call $equal (i32.load (i32.const 68)) (local.get $length))
      (call $verify (i32.add (global.get $window) (i32.load (i32.const 64))) (local.get $n) (local.get $length)
                    (i64.const 0))
      (drop (call $must (call $window_release (global.get $handle) (i32.load (i32.const 64)))))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (local.get $count)))))

  (func $ask (param $count i32)
    (local $n i32) (local $length i32)
    (call $open (i32.const 1))
    (loop $next
      (local.set $length (call $length (local.get $n)))
      (call $write (global.get $window) (local.get $n) (local.get $length))
      (call $equal (local.get $length) (call $must
        (call $channel_call (global.get $handle) (global.get $window) (local.get $length) (global.get $reply)
                            (global.get $window_size) (i32.const -1))))
      (call $verify (global.get $reply) (local.get $n) (local.get $length) (i64.const 1))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (local.get $count)))))

  (func $answer
    (local $at i32) (local $length i32)
    (call $open (i32.const 2))
    (loop $next
      (local.set $length (call $channel_recv (global.get $handle) (global.get $window) (global.get $window_size)
                                             (i32.const -1)))
      (if (i32.ne (local.get $length) (global.get $closed))
        (then
          (drop (call $must (local.get $length)))
          (local.set $at (i32.const 0))
          (loop $again
            (i64.store (i32.add (global.get $window) (local.get $at))
              (i64.add (i64.load (i32.add (global.get $window) (local.get $at))) (i64.const 1)))
            (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $length))))
          (drop (call $must (call $channel_reply (global.get $window) (local.get $length))))
          (br $next)))))

  ;; fill, check, ask, answer: told apart by the second letter.
  (func (export "_start")
    (local $letter i32) (local $count i32)
    (drop (call $args_get (i32.const 128) (i32.const 1024)))
    (local.set $letter (i32.load8_u offset=1 (call $argument (i32.const 1))))
    (local.set $count (call $number (call $argument (i32.const 2))))
    (if (i32.eq (local.get $letter) (i32.const 105)) (then (call $fill (local.get $count))))
    (if (i32.eq (local.get $letter) (i32.const 104)) (then (call $check (local.get $count))))
    (if (i32.eq (local.get $letter) (i32.const 115)) (then (call $ask (local.get $count))))
    (if (i32.eq (local.get $letter) (i32.const 110)) (then (call $answer)))))
