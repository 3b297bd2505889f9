/**
 * The one definition of q8 activations; kernels of every target are compared with it.
 *
 * Per block of 32 values x, in f32 throughout:
 *     amax = largest |x|        scale = amax / 127        inverse = amax > 0 ? 127 / amax : 0
 *     code = x * inverse, rounded to the nearest whole number, ties to even
 * so codes lie in [-127, 127]. The sum of the codes of a block goes with it: linears on weights with a minimum need it.
 */
import { Q8_BLOCK_SIZE } from '../../graph/op-rules.ts';
import type { F32Rows, Q8Rows } from './value-rows.ts';

/** Adding and taking away 1.5 * 2^52 leaves a double rounded to a whole number, ties to even. */
const ROUNDING_MAGIC = 6755399441055744;

/**
 * @param x     f32, the row is `x[xOffset ..][0 .. out.width)`
 * @param rowIndex which row of `out` is written
 */
export function quantizeRow(x: Float32Array, xOffset: number, out: Q8Rows, rowIndex: number): void {
  const { width, codes, scales, sums } = out;
  const rowStart = rowIndex * width;
  for (let start = 0; start < width; start += Q8_BLOCK_SIZE) {
    const from = xOffset + start;
    let amax = 0;
    for (let i = 0; i < Q8_BLOCK_SIZE; i++) {
      const magnitude = Math.abs(x[from + i]!);
      if (magnitude > amax) amax = magnitude;
    }
    const inverse = amax > 0 ? Math.fround(127 / amax) : 0;
    let sum = 0;
    for (let i = 0; i < Q8_BLOCK_SIZE; i++) {
      const code = Math.fround(x[from + i]! * inverse) + ROUNDING_MAGIC - ROUNDING_MAGIC;
      codes[rowStart + start + i] = code;
      sum += code;
    }
    const block = (rowStart + start) / Q8_BLOCK_SIZE;
    scales[block] = amax / 127;
    sums[block] = sum;
  }
}

/** Rows [0, numRows) of `x` to q8, the columns `outliers` as 0 there and as they are beside it. */
export function splitRows(
  x: F32Rows,
  numRows: number,
  out: Q8Rows,
  outliers: readonly number[],
): void {
  const regular = new Float32Array(x.width);
  const kept = out.outliers;
  for (let row = 0; row < numRows; row++) {
    const start = x.offset + row * x.stride;
    regular.set(x.data.subarray(start, start + x.width));
    outliers.forEach((column, i) => {
      kept.data[kept.offset + row * kept.stride + i] = regular[column]!;
      regular[column] = 0;
    });
    quantizeRow(regular, 0, out, row);
  }
}

/** Rows [0, numRows) of `x` to q8. */
export function quantizeRows(x: F32Rows, numRows: number, out: Q8Rows): void {
  for (let row = 0; row < numRows; row++) quantizeRow(x.data, x.offset + row * x.stride, out, row);
}

/** The f32 values that q8 row `rowIndex` stands for, `[width]`; for tests. */
export function dequantizeRow(rows: Q8Rows, rowIndex: number): Float32Array {
  const start = rowIndex * rows.width;
  return Float32Array.from({ length: rows.width }, (_, i) => {
    return rows.codes[start + i]! * rows.scales[Math.floor((start + i) / Q8_BLOCK_SIZE)]!;
  });
}
