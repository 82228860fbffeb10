;; Its start function calls the host before there is an instance.
(module
  (import "metacore_host" "log" (func $log (param i32 i32)))
  (import "metacore_host" "env_get" (func $env_get (param i32 i32) (result i64)))
  (memory (export "memory") 1)
  (global $value (mut i64) (i64.const 0))
  (global $top (mut i32) (i32.const 1024))
  (func (export "alloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func $start
    (call $log (i32.const 16) (i32.const 8))
    (global.set $value (call $env_get (i32.const 32) (i32.const 3))))
  (func (export "go") (param i32 i32) (result i64) (global.get $value))
  (data (i32.const 16) "starting")
  (data (i32.const 32) "key")
  (start $start))
