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
  for (let n = 0; n < weight.numRows; n++) {
    for (let row = 0; row < numRows; row++) {
      out.data[out.offset + row * out.stride + n] = dotQ8(x, row, weight, n);
    }
  }
  if (bias !== null || residual !== null) addExtras(out, numRows, bias, residual);
}

/** Hot: one output. */
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
      dot = (dot + xCodes[xStart + k + i]! * codes[wStart + k + i]!) | 0;
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
