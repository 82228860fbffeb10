;; Its start function never ends.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "go") (param i32 i32) (result i64) (i64.const 0))
  (func $start (loop $again (br $again)))
  (start $start))
