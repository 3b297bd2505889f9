/**
 * Matrix products of q8 activations with quantized weights: integer dot products per weight group, scaled and summed in f64 over groups in
 * ascending order. What kernels with int8 dots are compared with.
 */
import { Q8_BLOCK_SIZE } from '../../graph/op-rules.ts';
import { addExtras, type LinearExtras } from './linear.ts';
import type { F32Rows, Q8Rows } from './value-rows.ts';

/** A weight as integer codes: value (n, k) is `codes[n * K + k] * scales[group] + mins[group]`, group = (n * K + k) / groupSize | 0. */
export interface QuantizedMatrix {
  readonly numRows: number;
  readonly numColumns: number;
  readonly groupSize: 16 | 32;
  /** The format's zero point taken off; i8 [N, K] */
  readonly codes: Int8Array;
  /** f32 [N, K / groupSize] */
  readonly scales: Float32Array;
  /** f32 [N, K / groupSize]; null where the format has none */
  readonly mins: Float32Array | null;
}

/**
 * out = x · weightᵀ (+ bias) (+ residual), where group g of an output adds
 * `(codes_x · codes_w) * scale_w * scale_x + (sum of codes_x) * min_w * scale_x`.
 *
 * @param x   q8 [numRows, K]
 * @param out f32 [numRows, N]; must not overlap the residual
 */
export function linearQ8(
  x: Q8Rows,
  numRows: number,
  weight: QuantizedMatrix,
  out: F32Rows,
  { bias = null, residual = null }: LinearExtras = {},
): void {
  const tileOutputs = weight.groupSize === Q8_BLOCK_SIZE ? 4 : 1;
  let n = 0;
  for (; n + tileOutputs <= weight.numRows; n += tileOutputs) {
    for (let row = 0; row < numRows; row++) {
      if (tileOutputs === 4) tile1x4(x, row, weight, n, out);
      else out.data[out.offset + row * out.stride + n] = dotQ8(x, row, weight, n);
    }
  }
  for (; n < weight.numRows; n++) {
    for (let row = 0; row < numRows; row++) {
      out.data[out.offset + row * out.stride + n] = dotQ8(x, row, weight, n);
    }
  }
  if (bias !== null || residual !== null) addExtras(out, numRows, bias, residual);
}

// ---- hot: plain loops, no allocation; both give the same bits ----

/** Four outputs of one row, groups of 32. */
function tile1x4(x: Q8Rows, row: number, weight: QuantizedMatrix, n: number, out: F32Rows): void {
  const { numColumns, codes, scales, mins } = weight;
  const xCodes = x.codes;
  const xStart = row * numColumns;
  const w0 = n * numColumns;
  const w1 = w0 + numColumns;
  const w2 = w1 + numColumns;
  const w3 = w2 + numColumns;
  const numGroups = numColumns / Q8_BLOCK_SIZE;
  const g0 = n * numGroups;
  const g1 = g0 + numGroups;
  const g2 = g1 + numGroups;
  const g3 = g2 + numGroups;
  let total0 = 0;
  let total1 = 0;
  let total2 = 0;
  let total3 = 0;
  for (let group = 0; group < numGroups; group++) {
    let dot0 = 0;
    let dot1 = 0;
    let dot2 = 0;
    let dot3 = 0;
    const start = group * Q8_BLOCK_SIZE;
    for (let i = start; i < start + Q8_BLOCK_SIZE; i++) {
      const code = xCodes[xStart + i]!;
      dot0 = (dot0 + Math.imul(code, codes[w0 + i]!)) | 0;
      dot1 = (dot1 + Math.imul(code, codes[w1 + i]!)) | 0;
      dot2 = (dot2 + Math.imul(code, codes[w2 + i]!)) | 0;
      dot3 = (dot3 + Math.imul(code, codes[w3 + i]!)) | 0;
    }
    const block = row * numGroups + group;
    const scale = x.scales[block]!;
    total0 += dot0 * (scales[g0 + group]! * scale);
    total1 += dot1 * (scales[g1 + group]! * scale);
    total2 += dot2 * (scales[g2 + group]! * scale);
    total3 += dot3 * (scales[g3 + group]! * scale);
    if (mins !== null) {
      const sum = x.sums[block]!;
      total0 += sum * (mins[g0 + group]! * scale);
      total1 += sum * (mins[g1 + group]! * scale);
      total2 += sum * (mins[g2 + group]! * scale);
      total3 += sum * (mins[g3 + group]! * scale);
    }
  }
  const to = out.offset + row * out.stride + n;
  out.data[to] = total0;
  out.data[to + 1] = total1;
  out.data[to + 2] = total2;
  out.data[to + 3] = total3;
}

/** One output, groups of any size. */
function dotQ8(x: Q8Rows, row: number, weight: QuantizedMatrix, n: number): number {
  const { numColumns, groupSize, codes, scales, mins } = weight;
  const xCodes = x.codes;
  const xStart = row * numColumns;
  const wStart = n * numColumns;
  let total = 0;
  let group = wStart / groupSize;
  for (let k = 0; k < numColumns; k += groupSize, group++) {
    let dot = 0;
    for (let i = 0; i < groupSize; i++) {
      dot = (dot + Math.imul(xCodes[xStart + k + i]!, codes[wStart + k + i]!)) | 0;
    }
    const block = ((xStart + k) / Q8_BLOCK_SIZE) | 0;
    const scale = x.scales[block]!;
    total += dot * (scales[group]! * scale);
    if (mins !== null) {
      const sum =
        groupSize === Q8_BLOCK_SIZE ? x.sums[block]! : sumCodes(xCodes, xStart + k, groupSize);
      total += sum * (mins[group]! * scale);
    }
  }
  return total;
}

function sumCodes(codes: Int8Array, start: number, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += codes[start + i]!;
  return sum;
}
