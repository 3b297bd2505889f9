/**
 * The element types of stored tensors: their names (ggml's and safetensors' own, in lower case), how many elements a block
 * holds and how many bytes it takes. Knows nothing of what is inside a block (block-formats/) nor of the type numbers and
 * spellings of any file format (weights/).
 */
import { DTypeError } from './errors.ts';

/** How many elements one block holds and how many bytes it takes; plain types are blocks of one element. */
export interface DTypeInfo {
  readonly blockElements: number;
  readonly blockBytes: number;
  readonly kind: 'float' | 'integer' | 'quantized';
}

const float = (blockBytes: number, blockElements = 1): DTypeInfo => ({
  blockElements,
  blockBytes,
  kind: 'float',
});
const integer = (blockBytes: number): DTypeInfo => ({
  blockElements: 1,
  blockBytes,
  kind: 'integer',
});
const quantized = (blockElements: number, blockBytes: number): DTypeInfo => ({
  blockElements,
  blockBytes,
  kind: 'quantized',
});

const TABLE = {
  f32: float(4),
  f16: float(2),
  bf16: float(2),
  f64: float(8),
  i8: integer(1),
  i16: integer(2),
  i32: integer(4),
  i64: integer(8),
  u8: integer(1),
  u16: integer(2),
  u32: integer(4),
  u64: integer(8),
  bool: integer(1),
  q4_0: quantized(32, 18),
  q4_1: quantized(32, 20),
  q5_0: quantized(32, 22),
  q5_1: quantized(32, 24),
  q8_0: quantized(32, 34),
  q2_k: quantized(256, 84),
  q3_k: quantized(256, 110),
  q4_k: quantized(256, 144),
  q5_k: quantized(256, 176),
  q6_k: quantized(256, 210),
  iq4_nl: quantized(32, 18),
  iq4_xs: quantized(256, 136),
  // Not of any file: how rows of bitsandbytes' code books and of 8-bit codes with f32 scales are handed on (block-formats/scaled-codes.ts).
  nf4: quantized(32, 20),
  fp4: quantized(32, 20),
  q8_f32: quantized(32, 36),
  // From here on: recognised, so that a file that has them can be listed and sized, but without a decoder.
  q8_1: quantized(32, 40),
  q8_k: quantized(256, 292),
  iq1_s: quantized(256, 50),
  iq1_m: quantized(256, 56),
  iq2_xxs: quantized(256, 66),
  iq2_xs: quantized(256, 74),
  iq2_s: quantized(256, 82),
  iq3_xxs: quantized(256, 98),
  iq3_s: quantized(256, 110),
  tq1_0: quantized(256, 54),
  tq2_0: quantized(256, 66),
  q1_0: quantized(128, 18),
  mxfp4: quantized(32, 17),
  nvfp4: quantized(64, 36),
  f8_e4m3: float(1),
  f8_e5m2: float(1),
  f8_e8m0: float(1),
  f6_e2m3: float(3, 4),
  f6_e3m2: float(3, 4),
  f4: float(1, 2),
  c64: float(8),
} as const satisfies Record<string, DTypeInfo>;

/** Name of a stored element type, as ggml or safetensors call it, in lower case. */
export type DType = keyof typeof TABLE;

/** Every dtype with its block size. */
export const DTYPES: Readonly<Record<DType, DTypeInfo>> = TABLE;

/** Whether `name` is one of the names in {@link DTYPES}. */
export function isDType(name: string): name is DType {
  return Object.hasOwn(TABLE, name);
}

/**
 * Bytes that a row of `elements` elements takes.
 *
 * @throws {DTypeError} if `elements` is no whole number of blocks, or the bytes cannot be counted exactly (2^53)
 */
export function rowBytes(dtype: DType, elements: number): number {
  const { blockElements, blockBytes } = DTYPES[dtype];
  if (!Number.isSafeInteger(elements) || elements < 0) {
    throw new DTypeError(dtype, `row length ${elements} is not a whole number from 0 to 2^53 - 1`);
  }
  if (elements % blockElements !== 0) {
    throw new DTypeError(
      dtype,
      `row length ${elements} is not a multiple of the block size ${blockElements}`,
    );
  }
  const bytes = (elements / blockElements) * blockBytes;
  if (!Number.isSafeInteger(bytes)) {
    throw new DTypeError(dtype, `row length ${elements} takes ${bytes} bytes, more than 2^53 - 1`);
  }
  return bytes;
}
