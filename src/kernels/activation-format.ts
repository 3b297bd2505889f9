/**
 * The q8 form of an activation row: what fused kernels write and integer matmul reads (DESIGN decision 7).
 *
 * A row is blocks of 32 values, 64 bytes each (one cache line), so that a kernel addresses block b at b * 64:
 *
 *     0   int8 codes[32]          code = roundTiesToEven(x * inv), inv = amax > 0 ? 127 / amax : 0, in f32
 *     32  f32  d                  amax / 127
 *     36  f32  dsum               d * (sum of the 32 codes), for weight formats with a minimum
 *     40  i32  nsum               -(sum of the 32 codes), for weight formats with a zero point
 *     44  i32  nsum of the first 16
 *     48  i32  nsum of the last 16
 *     52  f32  d * (sum of the first 16)
 *     56  f32  d * (sum of the last 16)
 *     60  4 bytes, zero
 *
 * The sums over 16 serve weight formats with groups of 16 (Q6_K, Q3_K, Q2_K). A width that is no multiple of 32 ends in a block filled with zeros.
 * NOTE (supersedes any earlier 48-byte description): blocks are 64 bytes with the fields above.
 */
export const Q8_BLOCK = 32;
export const Q8_BLOCK_BYTES = 64;
export const Q8_OFFSET = {
  codes: 0,
  d: 32,
  dsum: 36,
  nsum: 40,
  nsumFirst16: 44,
  nsumLast16: 48,
  dsumFirst16: 52,
  dsumLast16: 56,
} as const;

/** Bytes of a q8 row of `width` values. */
export function q8RowBytes(width: number): number {
  return Math.ceil(width / Q8_BLOCK) * Q8_BLOCK_BYTES;
}
