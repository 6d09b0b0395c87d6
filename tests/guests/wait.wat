;; wait - opens "in" and "out", and waits for a message that may never come. Exits with 3 when the wait ends with an error.
(module
  (import "cwasi_v1" "channel_open" (func $open (param i32 i32 i32) (result i32)))
  (import "cwasi_v1" "channel_recv" (func $recv (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "inout")
  (func (export "_start")
    (drop (call $open (i32.const 2) (i32.const 3) (i32.const 1)))
    (if (i32.lt_s
          (call $recv (call $open (i32.const 0) (i32.const 2) (i32.const 2)) (i32.const 64) (i32.const 4096) (i32.const -1))
          (i32.const 0))
      (then (call $exit (i32.const 3))))))
