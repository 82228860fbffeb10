;; The code of the pulse addon, by hand: a schedule that tells an event, and a subscription that hears it.
(module
  (import "metacore_host" "log" (func $log (param i32 i32)))
  (import "metacore_host" "event_emit" (func $emit (param i32 i32 i32 i32) (result i64)))
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

  ;; Tells pulse.beat with the schedule's own request as payload. The host's envelope is the reply: what it refuses fails.
  (func (export "beat") (param $at i32) (param $length i32) (result i64)
    (call $emit (i32.const 16) (i32.const 10) (local.get $at) (local.get $length)))

  ;; Writes the event into the addon's log.
  (func (export "hear") (param $at i32) (param $length i32) (result i64)
    (call $log (local.get $at) (local.get $length))
    (i64.const 0))

  (data (i32.const 16) "pulse.beat"))
