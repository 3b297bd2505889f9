/**
 * Matrix products on f32 weights. Every output is one sum over k in ascending order in f64, whatever tile it is computed in, so a row's result
 * does not depend on which rows come with it.
 */
import type { F32Rows } from './value-rows.ts';

export interface LinearExtras {
  /** f32 [N] */
  readonly bias?: Float32Array | null;
  /** f32 [T, N] */
  readonly residual?: F32Rows | null;
}

/**
 * out = x · weightᵀ (+ bias) (+ residual).
 *
 * @param x      f32 [numRows, K]
 * @param weight f32 [N, K], row-major; K = x.width, N = out.width
 * @param out    f32 [numRows, N]; must not overlap x or the residual
 */
export function linearF32(
  x: F32Rows,
  numRows: number,
  weight: Float32Array,
  out: F32Rows,
  { bias = null, residual = null }: LinearExtras = {},
): void {
  const numOutputs = out.width;
  // all tokens over four weight rows at a time: the weights are what does not fit the caches
  for (let n = 0; n < numOutputs; n += 4) {
    const numColumns = Math.min(4, numOutputs - n);
    let row = 0;
    if (numColumns === 4) {
      for (; row + 2 <= numRows; row += 2) tile2x4(x, row, weight, n, out);
      for (; row < numRows; row++) tile1x4(x, row, weight, n, out);
    } else {
      for (; row < numRows; row++) {
        for (let i = 0; i < numColumns; i++) tile1x1(x, row, weight, n + i, out);
      }
    }
  }
  if (bias !== null || residual !== null) addExtras(out, numRows, bias, residual);
}

// ---- hot: plain loops, no allocation ----

function tile2x4(x: F32Rows, row: number, w: Float32Array, n: number, out: F32Rows): void {
  const a = x.data;
  const k = x.width;
  const x0 = x.offset + row * x.stride;
  const x1 = x0 + x.stride;
  const w0 = n * k;
  const w1 = w0 + k;
  const w2 = w1 + k;
  const w3 = w2 + k;
  let s00 = 0;
  let s01 = 0;
  let s02 = 0;
  let s03 = 0;
  let s10 = 0;
  let s11 = 0;
  let s12 = 0;
  let s13 = 0;
  for (let i = 0; i < k; i++) {
    const a0 = a[x0 + i]!;
    const a1 = a[x1 + i]!;
    const b0 = w[w0 + i]!;
    const b1 = w[w1 + i]!;
    const b2 = w[w2 + i]!;
    const b3 = w[w3 + i]!;
    s00 += a0 * b0;
    s01 += a0 * b1;
    s02 += a0 * b2;
    s03 += a0 * b3;
    s10 += a1 * b0;
    s11 += a1 * b1;
    s12 += a1 * b2;
    s13 += a1 * b3;
  }
  const o = out.data;
  const o0 = out.offset + row * out.stride + n;
  const o1 = o0 + out.stride;
  o[o0] = s00;
  o[o0 + 1] = s01;
  o[o0 + 2] = s02;
  o[o0 + 3] = s03;
  o[o1] = s10;
  o[o1 + 1] = s11;
  o[o1 + 2] = s12;
  o[o1 + 3] = s13;
}

function tile1x4(x: F32Rows, row: number, w: Float32Array, n: number, out: F32Rows): void {
  const a = x.data;
  const k = x.width;
  const x0 = x.offset + row * x.stride;
  const w0 = n * k;
  const w1 = w0 + k;
  const w2 = w1 + k;
  const w3 = w2 + k;
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (let i = 0; i < k; i++) {
    const a0 = a[x0 + i]!;
    s0 += a0 * w[w0 + i]!;
    s1 += a0 * w[w1 + i]!;
    s2 += a0 * w[w2 + i]!;
    s3 += a0 * w[w3 + i]!;
  }
  const o = out.data;
  const o0 = out.offset + row * out.stride + n;
  o[o0] = s0;
  o[o0 + 1] = s1;
  o[o0 + 2] = s2;
  o[o0 + 3] = s3;
}

function tile1x1(x: F32Rows, row: number, w: Float32Array, n: number, out: F32Rows): void {
  const x0 = x.offset + row * x.stride;
  const w0 = n * x.width;
  let sum = 0;
  for (let i = 0; i < x.width; i++) sum += x.data[x0 + i]! * w[w0 + i]!;
  out.data[out.offset + row * out.stride + n] = sum;
}

/** out += bias, then += residual, each sum rounded to f32. */
export function addExtras(
  out: F32Rows,
  numRows: number,
  bias: Float32Array | null,
  residual: F32Rows | null,
): void {
  const { data, width } = out;
  for (let row = 0; row < numRows; row++) {
    const o = out.offset + row * out.stride;
    if (bias !== null) {
      for (let i = 0; i < width; i++) data[o + i] = data[o + i]! + bias[i]!;
    }
    if (residual !== null) {
      const r = residual.offset + row * residual.stride;
      for (let i = 0; i < width; i++) data[o + i] = data[o + i]! + residual.data[r + i]!;
    }
  }
}
