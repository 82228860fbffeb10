;; An addon by hand. The kernel writes requests where `alloc` says, calls a function with pointer and length, and reads
;; the reply from (pointer << 32) | length; 0 is success without data. Every call gets a fresh instance.
(module
  (import "metacore_host" "log" (func $log (param i32 i32)))
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 4096))

  ;; Memory is only ever handed out: it ends with the call. Traps when the memory cannot grow.
  (func (export "alloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free
      (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 15)) (i32.const -16)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits (i32.ne (i32.const -1) (memory.grow
        (i32.sub (i32.div_u (i32.add (global.get $free) (i32.const 65535)) (i32.const 65536)) (memory.size)))))
      (unreachable))
    (local.get $at))

  ;; Writes the request into the addon's log and answers with the text at 16.
  (func (export "greet") (param $at i32) (param $length i32) (result i64)
    (call $log (local.get $at) (local.get $length))
    (i64.or (i64.shl (i64.const 16) (i64.const 32)) (i64.const 49)))

  (data (i32.const 16) "{\"success\":true,\"data\":{\"greeting\":\"Hello! :-)\"}}"))
