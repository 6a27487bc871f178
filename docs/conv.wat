;; A convolution, for networks.js: 16 output channels at a time, as four SIMD vectors of four.
;;
;; All pointers are in bytes. x: (rows, columns, in), already padded; weights: (out / 16, taps, in, 16);
;; bias: (out); y: (H, W, out). A tap is one of the size x size places of the kernel.
(module
  (memory (export "memory") 64)
  (func (export "conv")
    (param $x i32) (param $weights i32) (param $bias i32) (param $y i32)
    (param $H i32) (param $W i32) (param $in i32) (param $out i32)
    (param $stride i32) (param $size i32) (param $row_bytes i32)
    (local $channel i32) (local $i i32) (local $j i32) (local $tap_row i32)
    (local $from i32) (local $end i32) (local $weight i32) (local $to i32)
    (local $sum0 v128) (local $sum1 v128) (local $sum2 v128) (local $sum3 v128) (local $value v128)
    (loop $next_16_channels
      (local.set $i (i32.const 0))
      (loop $next_row
        (local.set $j (i32.const 0))
        (loop $next_column
          (local.set $sum0 (v128.load (local.get $bias)))
          (local.set $sum1 (v128.load offset=16 (local.get $bias)))
          (local.set $sum2 (v128.load offset=32 (local.get $bias)))
          (local.set $sum3 (v128.load offset=48 (local.get $bias)))
          (local.set $weight (local.get $weights))
          (local.set $tap_row (i32.const 0))
          (loop $next_tap_row
            ;; from = x + (i stride + tap_row) row_bytes + 4 j stride in; a row of taps is contiguous
            (local.set $from (i32.add (local.get $x) (i32.add
              (i32.mul
                (i32.add (i32.mul (local.get $i) (local.get $stride)) (local.get $tap_row))
                (local.get $row_bytes))
              (i32.mul (i32.const 4)
                (i32.mul (i32.mul (local.get $j) (local.get $stride)) (local.get $in))))))
            (local.set $end (i32.add (local.get $from)
              (i32.mul (i32.const 4) (i32.mul (local.get $size) (local.get $in)))))
            (loop $next_value
              (local.set $value (v128.load32_splat (local.get $from)))
              (local.set $sum0 (f32x4.add (local.get $sum0)
                (f32x4.mul (local.get $value) (v128.load (local.get $weight)))))
              (local.set $sum1 (f32x4.add (local.get $sum1)
                (f32x4.mul (local.get $value) (v128.load offset=16 (local.get $weight)))))
              (local.set $sum2 (f32x4.add (local.get $sum2)
                (f32x4.mul (local.get $value) (v128.load offset=32 (local.get $weight)))))
              (local.set $sum3 (f32x4.add (local.get $sum3)
                (f32x4.mul (local.get $value) (v128.load offset=48 (local.get $weight)))))
              (local.set $weight (i32.add (local.get $weight) (i32.const 64)))
              (local.set $from (i32.add (local.get $from) (i32.const 4)))
              (br_if $next_value (i32.lt_u (local.get $from) (local.get $end))))
            (local.set $tap_row (i32.add (local.get $tap_row) (i32.const 1)))
            (br_if $next_tap_row (i32.lt_u (local.get $tap_row) (local.get $size))))
          ;; to = y + 4 ((i W + j) out + channel)
          (local.set $to (i32.add (local.get $y) (i32.mul (i32.const 4) (i32.add
            (i32.mul
              (i32.add (i32.mul (local.get $i) (local.get $W)) (local.get $j))
              (local.get $out))
            (local.get $channel)))))
          (v128.store (local.get $to) (local.get $sum0))
          (v128.store offset=16 (local.get $to) (local.get $sum1))
          (v128.store offset=32 (local.get $to) (local.get $sum2))
          (v128.store offset=48 (local.get $to) (local.get $sum3))
          (local.set $j (i32.add (local.get $j) (i32.const 1)))
          (br_if $next_column (i32.lt_u (local.get $j) (local.get $W))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $next_row (i32.lt_u (local.get $i) (local.get $H))))
      (local.set $weights (local.get $weight)) ;; the next 16 channels begin where these end
      (local.set $bias (i32.add (local.get $bias) (i32.const 64)))
      (local.set $channel (i32.add (local.get $channel) (i32.const 16)))
      (br_if $next_16_channels (i32.lt_u (local.get $channel) (local.get $out))))))
