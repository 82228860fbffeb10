;; Does what its request says: finds "script":"<hex>" in it and carries out the steps. A step is a byte, three lengths
;; (u32) and the parts of these lengths. The reply is {"success":true,"data":[…]} with what each host function
;; answered, or the part of the last step REPLY. tests/guests/script.py writes scripts.
(module
  (import "metacore_host" "log" (func $log (param i32 i32)))
  (import "metacore_host" "env_get" (func $env_get (param i32 i32) (result i64)))
  (import "metacore_host" "http_fetch" (func $http_fetch (param i32 i32 i32 i32 i32 i32) (result i64)))
  (import "metacore_host" "http_request" (func $http_request (param i32 i32) (result i64)))
  (import "metacore_host" "connector_get" (func $connector_get (param i32 i32) (result i64)))
  (import "metacore_host" "db_query" (func $db_query (param i32 i32 i32 i32) (result i64)))
  (import "metacore_host" "db_exec" (func $db_exec (param i32 i32 i32 i32) (result i64)))
  (import "metacore_host" "event_emit" (func $event_emit (param i32 i32 i32 i32) (result i64)))
  (import "metacore_host" "data_mutate" (func $data_mutate (param i32 i32) (result i64)))
  (import "metacore_host" "data_query" (func $data_query (param i32 i32) (result i64)))
  (import "metacore_host" "data_batch" (func $data_batch (param i32 i32) (result i64)))
  (import "metacore_host" "sequence_next" (func $sequence_next (param i32 i32) (result i64)))
  (memory (export "memory") 64)
  (global $top (mut i32) (i32.const 0x300000))
  (global $out (mut i32) (i32.const 0x100000))
  (global $answers (mut i32) (i32.const 0))
  (data (i32.const 16) "\"script\":\"")
  (data (i32.const 32) "{\"success\":true,\"data\":[")
  (data (i32.const 64) "null")
  (data (i32.const 72) "]}")
  (data (i32.const 80) ",\"")

  (func $alloc (export "alloc") (param $size i32) (result i32)
    (local $at i32) (local $missing i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (local.get $at) (i32.and (i32.add (local.get $size) (i32.const 7)) (i32.const -8))))
    (local.set $missing
      (i32.sub (i32.shr_u (i32.add (global.get $top) (i32.const 65535)) (i32.const 16)) (memory.size)))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then (if (i32.lt_s (memory.grow (local.get $missing)) (i32.const 0)) (then (return (i32.const 0))))))
    (local.get $at))
  (func $pack (param $at i32) (param $length i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $length))))
  (func $append (param $at i32) (param $length i32)
    (memory.copy (global.get $out) (local.get $at) (local.get $length))
    (global.set $out (i32.add (global.get $out) (local.get $length))))

  (func $digit (param $character i32) (result i32)
    (if (result i32) (i32.ge_u (local.get $character) (i32.const 97))
      (then (i32.sub (local.get $character) (i32.const 87)))
      (else (i32.sub (local.get $character) (i32.const 48)))))
  ;; Where the hex digits begin; traps where there are none.
  (func $find (param $at i32) (param $length i32) (result i32)
    (local $index i32) (local $end i32)
    (local.set $end (i32.sub (i32.add (local.get $at) (local.get $length)) (i32.const 10)))
    (loop $next
      (if (i32.gt_u (local.get $at) (local.get $end)) (then (unreachable)))
      (local.set $index (i32.const 0))
      (block $differs
        (loop $compare
          (br_if $differs (i32.ne
            (i32.load8_u (i32.add (local.get $at) (local.get $index)))
            (i32.load8_u offset=16 (local.get $index))))
          (local.set $index (i32.add (local.get $index) (i32.const 1)))
          (br_if $compare (i32.lt_u (local.get $index) (i32.const 10))))
        (return (i32.add (local.get $at) (i32.const 10))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next))
    (unreachable))
  ;; Decodes to 0x80000, and ends the script with a zero byte.
  (func $decode (param $at i32)
    (local $to i32)
    (local.set $to (i32.const 0x80000))
    (loop $next
      (if (i32.ne (i32.load8_u (local.get $at)) (i32.const 34))
        (then
          (i32.store8 (local.get $to) (i32.or
            (i32.shl (call $digit (i32.load8_u (local.get $at))) (i32.const 4))
            (call $digit (i32.load8_u offset=1 (local.get $at)))))
          (local.set $to (i32.add (local.get $to) (i32.const 1)))
          (local.set $at (i32.add (local.get $at) (i32.const 2)))
          (br $next))))
    (i32.store8 (local.get $to) (i32.const 0)))

  ;; Parts of the step whose lengths begin at $at.
  (func $one (param $at i32) (result i32) (i32.add (local.get $at) (i32.const 12)))
  (func $one_length (param $at i32) (result i32) (i32.load (local.get $at)))
  (func $two (param $at i32) (result i32)
    (i32.add (call $one (local.get $at)) (call $one_length (local.get $at))))
  (func $two_length (param $at i32) (result i32) (i32.load offset=4 (local.get $at)))
  (func $three (param $at i32) (result i32)
    (i32.add (call $two (local.get $at)) (call $two_length (local.get $at))))
  (func $three_length (param $at i32) (result i32) (i32.load offset=8 (local.get $at)))
  (func $after (param $at i32) (result i32)
    (i32.add (call $three (local.get $at)) (call $three_length (local.get $at))))

  (func $deeper (param i32) (result i32)
    (i32.add (i32.const 1) (call $deeper (i32.add (local.get 0) (i32.const 1)))))

  (func $host (param $step i32) (param $at i32) (result i64)
    (local $a i32) (local $al i32) (local $b i32) (local $bl i32)
    (local.set $a (call $one (local.get $at))) (local.set $al (call $one_length (local.get $at)))
    (local.set $b (call $two (local.get $at))) (local.set $bl (call $two_length (local.get $at)))
    (if (i32.eq (local.get $step) (i32.const 1))
      (then (call $log (local.get $a) (local.get $al)) (return (i64.const 0))))
    (if (i32.eq (local.get $step) (i32.const 2)) (then (return (call $env_get (local.get $a) (local.get $al)))))
    (if (i32.eq (local.get $step) (i32.const 3))
      (then (return (call $http_fetch (local.get $a) (local.get $al) (local.get $b) (local.get $bl)
        (call $three (local.get $at)) (call $three_length (local.get $at))))))
    (if (i32.eq (local.get $step) (i32.const 4)) (then (return (call $http_request (local.get $a) (local.get $al)))))
    (if (i32.eq (local.get $step) (i32.const 5)) (then (return (call $connector_get (local.get $a) (local.get $al)))))
    (if (i32.eq (local.get $step) (i32.const 6))
      (then (return (call $db_query (local.get $a) (local.get $al) (local.get $b) (local.get $bl)))))
    (if (i32.eq (local.get $step) (i32.const 7))
      (then (return (call $db_exec (local.get $a) (local.get $al) (local.get $b) (local.get $bl)))))
    (if (i32.eq (local.get $step) (i32.const 8))
      (then (return (call $event_emit (local.get $a) (local.get $al) (local.get $b) (local.get $bl)))))
    (if (i32.eq (local.get $step) (i32.const 9)) (then (return (call $data_mutate (local.get $a) (local.get $al)))))
    (if (i32.eq (local.get $step) (i32.const 10)) (then (return (call $data_query (local.get $a) (local.get $al)))))
    (if (i32.eq (local.get $step) (i32.const 11)) (then (return (call $data_batch (local.get $a) (local.get $al)))))
    (if (i32.eq (local.get $step) (i32.const 12)) (then (return (call $sequence_next (local.get $a) (local.get $al)))))
    (unreachable))
  ;; Puts what a host function answered into the reply; texts of env_get become strings.
  (func $answer (param $step i32) (param $packed i64)
    (local $length i32)
    (local.set $length (i32.wrap_i64 (local.get $packed)))
    (if (global.get $answers) (then (call $append (i32.const 80) (i32.const 1))))
    (global.set $answers (i32.const 1))
    (if (i32.eqz (local.get $length))
      (then (call $append (i32.const 64) (i32.const 4)) (return)))
    (if (i32.eq (local.get $step) (i32.const 2)) (then (call $append (i32.const 81) (i32.const 1))))
    (call $append (i32.wrap_i64 (i64.shr_u (local.get $packed) (i64.const 32))) (local.get $length))
    (if (i32.eq (local.get $step) (i32.const 2)) (then (call $append (i32.const 81) (i32.const 1)))))

  (func $run (param $request i32) (param $length i32) (result i64)
    (local $at i32) (local $step i32) (local $times i32) (local $packed i64)
    (call $append (i32.const 32) (i32.const 24))
    (call $decode (call $find (local.get $request) (local.get $length)))
    (local.set $at (i32.const 0x80000))
    (local.set $times (i32.const 1))
    (loop $next
      (local.set $step (i32.load8_u (local.get $at)))
      (if (local.get $step)
        (then
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (if (i32.eq (local.get $step) (i32.const 32))  ;; REPLY
            (then (return (call $pack (call $one (local.get $at)) (call $one_length (local.get $at))))))
          (if (i32.eq (local.get $step) (i32.const 33)) (then (loop $again (br $again))))  ;; SPIN
          (if (i32.eq (local.get $step) (i32.const 34)) (then (unreachable)))  ;; TRAP
          (if (i32.eq (local.get $step) (i32.const 35)) (then (drop (call $deeper (i32.const 0)))))  ;; RECURSE
          (if (i32.eq (local.get $step) (i32.const 36))  ;; GRAB
            (then (loop $again (br_if $again (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)))) (unreachable)))
          (if (i32.eq (local.get $step) (i32.const 37))  ;; GIANT
            (then (drop (memory.grow (i32.const 200))) (return (call $pack (i32.const 0) (i32.const 6000000)))))
          (if (i32.eq (local.get $step) (i32.const 38))  ;; REPEAT: the next step so many times, its last answer counts
            (then
              (local.set $times (i32.load (call $one (local.get $at))))
              (local.set $at (call $after (local.get $at)))
              (br $next)))
          (loop $again
            (local.set $packed (call $host (local.get $step) (local.get $at)))
            (local.set $times (i32.sub (local.get $times) (i32.const 1)))
            (br_if $again (local.get $times)))
          (local.set $times (i32.const 1))
          (call $answer (local.get $step) (local.get $packed))
          (local.set $at (call $after (local.get $at)))
          (br $next))))
    (call $append (i32.const 72) (i32.const 2))
    (call $pack (i32.const 0x100000) (i32.sub (global.get $out) (i32.const 0x100000))))

  ;; One function under several names, so that an addon can declare several actions.
  (func (export "run") (param i32 i32) (result i64) (call $run (local.get 0) (local.get 1)))
  (func (export "run_too") (param i32 i32) (result i64) (call $run (local.get 0) (local.get 1)))
  ;; The request as it came.
  (func (export "echo") (param i32 i32) (result i64) (call $pack (local.get 0) (local.get 1))))
