/** Ops that take each value by itself; computed in f64, rounded to f32 when stored. */
import type { ActivationKind } from '../../graph/ir.ts';
import type { F32Rows } from './value-rows.ts';

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

export const ACTIVATIONS: { readonly [Kind in ActivationKind]: (x: number) => number } = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x))),
  relu: (x) => Math.max(x, 0),
  tanh: Math.tanh,
};

/** Error function, to about 1e-15: its series near 0, the continued fraction of erfc further out. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = a;
  for (let n = 60; n >= 1; n--) fraction = a + n / 2 / fraction;
  const erfc = Math.exp(-a * a) / (fraction * Math.sqrt(Math.PI));
  return Math.sign(x) * (1 - erfc);
}

/** out[r, i] = f(x[r, i]); `out` may be `x`. */
export function mapRows(
  x: F32Rows,
  numRows: number,
  out: F32Rows,
  f: (value: number) => number,
): void {
  for (let row = 0; row < numRows; row++) {
    const from = x.offset + row * x.stride;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) out.data[to + i] = f(x.data[from + i]!);
  }
}

export function addRows(a: F32Rows, b: F32Rows, numRows: number, out: F32Rows): void {
  for (let row = 0; row < numRows; row++) {
    const fromA = a.offset + row * a.stride;
    const fromB = b.offset + row * b.stride;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) out.data[to + i] = a.data[fromA + i]! + b.data[fromB + i]!;
  }
}

export function mulRows(a: F32Rows, b: F32Rows, numRows: number, out: F32Rows): void {
  for (let row = 0; row < numRows; row++) {
    const fromA = a.offset + row * a.stride;
    const fromB = b.offset + row * b.stride;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) out.data[to + i] = a.data[fromA + i]! * b.data[fromB + i]!;
  }
}

/** out[r, i] = x[r, i] + bias[i] */
export function addVector(x: F32Rows, bias: Float32Array, numRows: number, out: F32Rows): void {
  for (let row = 0; row < numRows; row++) {
    const from = x.offset + row * x.stride;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) out.data[to + i] = x.data[from + i]! + bias[i]!;
  }
}

/** out = activation(gate) * up; the activation is rounded to f32 before the product, as if it were stored between. */
export function gatedActivationRows(
  gate: F32Rows,
  up: F32Rows,
  numRows: number,
  kind: ActivationKind,
  out: F32Rows,
): void {
  const activate = ACTIVATIONS[kind];
  for (let row = 0; row < numRows; row++) {
    const fromGate = gate.offset + row * gate.stride;
    const fromUp = up.offset + row * up.stride;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) {
      out.data[to + i] = Math.fround(activate(gate.data[fromGate + i]!)) * up.data[fromUp + i]!;
    }
  }
}

/** out[r] = table[ids[r]] * scale, table f32 [V, H]. */
export function embedRows(
  table: Float32Array,
  tokenIds: Int32Array,
  numRows: number,
  scale: number,
  out: F32Rows,
): void {
  for (let row = 0; row < numRows; row++) {
    const from = tokenIds[row]! * out.width;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) out.data[to + i] = table[from + i]! * scale;
  }
}

/** out[r] = x[rowIndices[r]] */
export function selectRows(
  x: F32Rows,
  rowIndices: Int32Array,
  numRows: number,
  out: F32Rows,
): void {
  for (let row = 0; row < numRows; row++) {
    const from = x.offset + rowIndices[row]! * x.stride;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) out.data[to + i] = x.data[from + i]!;
  }
}

/** out[r, i] = x[r, columns[i]] */
export function permuteColumns(
  x: F32Rows,
  columns: Int32Array,
  numRows: number,
  out: F32Rows,
): void {
  for (let row = 0; row < numRows; row++) {
    const from = x.offset + row * x.stride;
    const to = out.offset + row * out.stride;
    for (let i = 0; i < out.width; i++) out.data[to + i] = x.data[from + columns[i]!]!;
  }
}
