;; A command: it initializes in `_start`, which ends with exit code 0, and serves afterwards.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (i32.store8 (i32.const 16) (i32.const 55)) (call $proc_exit (i32.const 0)) (unreachable))
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "go") (param i32 i32) (result i64) (i64.const 0x0000001000000001)))
