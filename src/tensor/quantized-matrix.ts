/** A matrix as integer codes with a scale and a zero point per group of inputs: what quantizing makes and foreign files hold. Knows no layout of bytes. */

/** A matrix as codes. Groups are runs of `groupSize` consecutive inputs. */
export interface QuantizedMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  readonly groupSize: number;
  /** u8 [rows, columns] */
  readonly codes: Uint8Array;
  /** f32 [rows, columns / groupSize], each exactly an f16 */
  readonly scales: Float32Array;
  /** u8 [rows, columns / groupSize] */
  readonly zeros: Uint8Array;
  readonly isSymmetric: boolean;
}

/** The values that a runtime will see, f32 [rows, columns]. */
export function dequantize(matrix: QuantizedMatrix, into?: Float32Array): Float32Array {
  const { codes, scales, zeros, groupSize } = matrix;
  const out = into ?? new Float32Array(codes.length);
  for (let group = 0; group < scales.length; group++) {
    const scale = scales[group]!;
    const zero = zeros[group]!;
    const start = group * groupSize;
    for (let i = start; i < start + groupSize; i++) out[i] = scale * (codes[i]! - zero);
  }
  return out;
}

/** Rows [start, end) of a matrix; shares its memory. */
export function rowsOf(matrix: QuantizedMatrix, start: number, end: number): QuantizedMatrix {
  const { columns, groupSize, codes, scales, zeros } = matrix;
  const numGroups = columns / groupSize;
  return {
    ...matrix,
    rows: end - start,
    codes: codes.subarray(start * columns, end * columns),
    scales: scales.subarray(start * numGroups, end * numGroups),
    zeros: zeros.subarray(start * numGroups, end * numGroups),
  };
}
