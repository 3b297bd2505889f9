/**
 * bitsandbytes' 4-bit code books: NF4, whose 16 values are quantiles of the normal distribution, and its own FP4 (not OCP's E2M1). Blocks run over the
 * flattened tensor, row-major, and may cross rows; the first element of a pair is in the high nibble. QLoRA: Dettmers et al. 2023, arXiv:2305.14314.
 */
import { DTypeError } from './errors.ts';

/** Ascending. */
export const NF4_CODE: Float32Array = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
  ...[-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0],
  ...[0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);

/** By the 4-bit pattern: three bits of magnitude (in twelfths), then the sign bit. Code 8 is a second zero. */
const FP4_TWELFTHS = [0, 0.0625, 8, 12, 4, 6, 2, 3];
export const FP4_CODE: Float32Array = Float32Array.from({ length: 16 }, (_, code) => {
  const magnitude = FP4_TWELFTHS[code & 7]! / 12;
  return code < 8 ? magnitude : -magnitude;
});

export type CodebookName = 'nf4' | 'fp4';

export function codebookOf(name: CodebookName): Float32Array {
  return name === 'nf4' ? NF4_CODE : FP4_CODE;
}

/**
 * The 8-bit integers that stand nearest to a code book, times `1 / steps`: for integer dot products. `steps` is what gives the least error: 0.0017 of the
 * largest value in the mean (root mean square) for NF4, where NF4 itself rounds by about 0.04; 0.0011 for FP4.
 */
export const CODEBOOK_INT8: Readonly<
  Record<CodebookName, { readonly values: Int8Array; readonly steps: number }>
> = { nf4: int8Codebook(NF4_CODE, 112.03), fp4: int8Codebook(FP4_CODE, 120) };

function int8Codebook(code: Float32Array, steps: number) {
  return { steps, values: Int8Array.from(code, (value) => Math.round(value * steps)) };
}

/** A flattened tensor as indices into a code book, with a scale per block. */
export interface CodebookTensor {
  readonly name: CodebookName;
  readonly numElements: number;
  readonly blockSize: number;
  /** Two indices per byte, the first in the high nibble; u8 [ceil(numElements / 2)] */
  readonly packed: Uint8Array;
  /** f32 [ceil(numElements / blockSize)] */
  readonly absmax: Float32Array;
}

/** Finds the code whose value is nearest; of two equally near ones the smaller value. */
export class NearestCode {
  /** The codes in ascending order of their values. */
  readonly #order: readonly number[];
  /** Between neighbours in that order. */
  readonly #midpoints: Float32Array;

  constructor(name: CodebookName) {
    const code = codebookOf(name);
    const order = [...code.keys()]
      .filter((index) => name === 'nf4' || index !== 8) // FP4's second zero is never written
      .sort((a, b) => code[a]! - code[b]!);
    this.#order = order;
    this.#midpoints = new Float32Array(order.length - 1);
    for (let i = 0; i + 1 < order.length; i++) {
      this.#midpoints[i] = (code[order[i]!]! + code[order[i + 1]!]!) / 2;
    }
  }

  /** @param scaled an f32 from -1 to 1 */
  of(scaled: number): number {
    let low = 0;
    let high = this.#midpoints.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (scaled > this.#midpoints[middle]!) low = middle + 1;
      else high = middle;
    }
    return this.#order[low]!;
  }
}

/** @param blockSize a power of two from 32 to 4096; the last block may be shorter */
export function encodeCodebook(
  values: Float32Array,
  name: CodebookName,
  blockSize = 64,
): CodebookTensor {
  if (!Number.isInteger(Math.log2(blockSize)) || blockSize < 32 || blockSize > 4096) {
    throw new DTypeError(name, `block size ${blockSize}; expected a power of two, 32 to 4096`);
  }
  const nearest = new NearestCode(name);
  const packed = new Uint8Array(Math.ceil(values.length / 2));
  const absmax = new Float32Array(Math.ceil(values.length / blockSize));
  for (let block = 0; block < absmax.length; block++) {
    const start = block * blockSize;
    const end = Math.min(start + blockSize, values.length);
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(values[i]!));
    absmax[block] = largest;
    const inverse = largest === 0 ? 0 : Math.fround(1 / largest);
    for (let i = start; i < end; i++) {
      packed[i >> 1]! |= nearest.of(Math.fround(values[i]! * inverse)) << (i & 1 ? 0 : 4);
    }
  }
  return { name, numElements: values.length, blockSize, packed, absmax };
}

export function decodeCodebook(tensor: CodebookTensor, into?: Float32Array): Float32Array {
  const { name, numElements, blockSize, packed, absmax } = tensor;
  const code = codebookOf(name);
  const out = into ?? new Float32Array(numElements);
  for (let i = 0; i < numElements; i++) {
    const index = (packed[i >> 1]! >> (i & 1 ? 0 : 4)) & 15;
    out[i] = code[index]! * absmax[Math.floor(i / blockSize)]!;
  }
  return out;
}
