/**
 * The q8 row format of activations: what kernels with a quantized output write and what matmul on quantized weights reads.
 *
 * A row is ceil(width / 32) blocks of 48 bytes; a last block of fewer values is filled up with zeros:
 *
 *     byte 0   int8 codes[32]    value = d * code
 *     byte 32  f32 d             amax / 127
 *     byte 36  i32 nsum          -(sum of the codes)
 *     byte 40  f32 dsum          d * (sum of the codes)
 *     byte 44  i32 nsum16        -(sum of the first 16 codes), for weight formats with groups of 16 (Q6_K, Q3_K, Q2_K)
 *
 * A block whose largest magnitude is below MIN_BLOCK_AMAX has d = 0 and codes 0, so that neither d nor its inverse leaves the normal range.
 * Knows nothing of kernels; the plain functions here are what the kernels are tested against.
 */

export const Q8_BLOCK_VALUES = 32;
export const Q8_BLOCK_BYTES = 48;
export const Q8_D_OFFSET = 32;
export const Q8_NSUM_OFFSET = 36;
export const Q8_DSUM_OFFSET = 40;
export const Q8_NSUM16_OFFSET = 44;
/** Blocks that stay below this magnitude are taken as zero: 2^-100. */
export const MIN_BLOCK_AMAX: number = 2 ** -100;

/** Bytes of a q8 row of `width` values, without alignment of the row. */
export function q8RowBytes(width: number): number {
  return Math.ceil(width / Q8_BLOCK_VALUES) * Q8_BLOCK_BYTES;
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const fraction = x - floor;
  if (fraction !== 0.5) return fraction < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Writes `values` as a q8 row at `offset` of `view`, bit for bit as the kernels do (finite values). */
export function encodeQ8Row(values: Float32Array, view: DataView, offset = 0): void {
  for (let start = 0; start < values.length; start += Q8_BLOCK_VALUES) {
    const block = offset + (start / Q8_BLOCK_VALUES) * Q8_BLOCK_BYTES;
    const length = Math.min(Q8_BLOCK_VALUES, values.length - start);
    let amax = 0;
    for (let i = 0; i < length; i++) amax = Math.max(amax, Math.abs(values[start + i]!));
    const isZero = !(amax >= MIN_BLOCK_AMAX);
    const d = isZero ? 0 : Math.fround(amax / 127);
    const inverse = isZero ? 0 : Math.fround(127 / amax);
    let sum = 0;
    let sum16 = 0;
    for (let i = 0; i < Q8_BLOCK_VALUES; i++) {
      const code = i < length ? roundToEven(Math.fround(values[start + i]! * inverse)) : 0;
      view.setInt8(block + i, code);
      sum += code;
      if (i < 16) sum16 += code;
    }
    view.setFloat32(block + Q8_D_OFFSET, d, true);
    view.setInt32(block + Q8_NSUM_OFFSET, -sum, true);
    view.setFloat32(block + Q8_DSUM_OFFSET, Math.fround(d * sum), true);
    view.setInt32(block + Q8_NSUM16_OFFSET, -sum16, true);
  }
}
