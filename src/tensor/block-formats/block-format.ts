/**
 * What a stored element type can be asked for: decode to f32, unpack to integer codes, encode from f32. One record of this kind
 * per dtype, in the sibling files; rows.ts finds them by name and checks the buffers, so these functions do not.
 */
import type { DType } from '../dtype.ts';

/**
 * One row as integer codes with parameters per group of consecutive elements:
 * `value[i] = scales[g] * (codes[i] - zero) + (mins ? mins[g] : 0)`, `g = floor(i / groupSize)`.
 *
 * Computed as written in f64 and rounded once to f32, or in f32 step by step, this gives exactly the bits that decodeRow gives
 * for finite parameters: every product needs at most 24 bits, so both ways round only once, in the sum. Formats with `isRounded` give the nearest codes.
 */
export interface UnpackedRow {
  readonly dtype: DType;
  /** One code per element; an Int8Array where the format's codes are signed (then `zero` is 0). */
  readonly codes: Uint8Array | Int8Array;
  readonly groupSize: 16 | 32;
  /** One per group. */
  readonly scales: Float32Array;
  /** One per group, with its sign: it is added. Null where the format has none. */
  readonly mins: Float32Array | null;
  /** The code that stands for 0 (before `mins`). */
  readonly zero: number;
  /** What scales and mins are products of, where the format stores them as such. */
  readonly factors: ScaleFactors | null;
}

/** Elements of a block whose groups share a factor. */
export const SUPER_BLOCK = 256;

/** `scales[g] = f32(d[s]) * scales[g]` and `mins[g] = f32(negatedDmin[s]) * mins[g]`, s the super-block of group g; exact. */
export interface ScaleFactors {
  /** f16 bits, one per super-block. */
  readonly d: Uint16Array;
  /** f16 bits of -dmin, one per super-block; null without mins. */
  readonly negatedDmin: Uint16Array | null;
  /** One per group, at most 7 bits and a sign. */
  readonly scales: Int8Array;
  readonly mins: Int8Array | null;
}

/** `bytes` from `byteOffset` -> `out[outOffset ..]`, `elements` of them. */
export type DecodeBlocks = (
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
) => void;

/** `values[0 .. elements)` -> `into` from `byteOffset`. */
export type EncodeBlocks = (
  values: Float32Array,
  elements: number,
  into: Uint8Array,
  byteOffset: number,
) => void;

/** As {@link EncodeBlocks} for one row; `importance` (f32 [elements], null for none) weighs the error of each element. */
export type EncodeWeighted = (
  values: Float32Array,
  elements: number,
  into: Uint8Array,
  byteOffset: number,
  importance: Float32Array | null,
) => void;

/** How a format shows itself as integer codes. */
export interface CodeAccess {
  readonly groupSize: 16 | 32;
  readonly zero: number;
  readonly signed: boolean;
  readonly hasMins: boolean;
  /** Groups have {@link ScaleFactors}. */
  readonly hasFactors?: boolean;
  /** Codes are the nearest to the values and not the values themselves. */
  readonly isRounded?: boolean;
  /** Fills codes, scales and mins of `out` from index 0; `out` was made for this format and is long enough. */
  readonly unpack: (
    bytes: Uint8Array,
    byteOffset: number,
    elements: number,
    out: UnpackedRow,
  ) => void;
}

export interface BlockFormat {
  readonly dtype: DType;
  readonly decode: DecodeBlocks;
  /** Null where elements are plain numbers, which need no codes. */
  readonly codeAccess: CodeAccess | null;
  /** Null where we have no encoder. */
  readonly encode: EncodeBlocks | null;
  /** Where an importance makes a difference. */
  readonly encodeWeighted?: EncodeWeighted;
}
