/**
 * The two 16-bit floats, as bit patterns: IEEE binary16 (f16) and bfloat16 (bf16). Knows nothing of blocks or rows.
 */

const f16Scratch = new Float16Array(1);
const f16ScratchBits = new Uint16Array(f16Scratch.buffer);
const f32Scratch = new Float32Array(1);
const f32ScratchBits = new Uint32Array(f32Scratch.buffer);

/** The f32 value of each of the 65536 bit patterns of f16; exact (f32 holds every f16). 256 KB. */
export const F16_TO_F32: Float32Array = valuesOfAllBits();

/** A plain loop: every start makes this table, and `Uint16Array.from` took 5 ms of it. */
function valuesOfAllBits(): Float32Array {
  const allBits = new Uint16Array(65536);
  for (let bits = 0; bits < 65536; bits++) allBits[bits] = bits;
  return new Float32Array(new Float16Array(allBits.buffer));
}

/** Bit pattern of the f16 nearest to `value`, ties to even; above 65519.99 that is infinity. */
export function f16Bits(value: number): number {
  f16Scratch[0] = value;
  return f16ScratchBits[0]!;
}

/** Value of an f16 bit pattern. */
export function f16Value(bits: number): number {
  return F16_TO_F32[bits & 0xffff]!;
}

/** Bit pattern of the bf16 nearest to the f32 with bits `f32Bits`, ties to even; NaN stays a (quiet) NaN. As ggml_compute_fp32_to_bf16. */
export function bf16BitsOfF32Bits(f32Bits: number): number {
  if ((f32Bits & 0x7fffffff) > 0x7f800000) return ((f32Bits >>> 16) | 64) & 0xffff;
  return ((f32Bits >>> 0) + (0x7fff + ((f32Bits >>> 16) & 1))) >>> 16;
}

/** Bit pattern of the bf16 nearest to `value` (rounded to f32 first), ties to even. */
export function bf16Bits(value: number): number {
  f32Scratch[0] = value;
  return bf16BitsOfF32Bits(f32ScratchBits[0]!);
}

/** Value of a bf16 bit pattern. */
export function bf16Value(bits: number): number {
  f32ScratchBits[0] = (bits << 16) >>> 0;
  return f32Scratch[0]!;
}
