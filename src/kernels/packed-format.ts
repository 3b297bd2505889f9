/**
 * The packed layout of weight matrices: what matmul kernels stream, and what a plan file holds.
 *
 * Rows (outputs) are taken 16 at a time, a row group, and inputs `groupSize` at a time, a block. One block of a row group is
 *
 *     scales   16 x f16 or f32         row r of the group at lane r
 *     mins     16 x f16 or f32         only with `hasMin`
 *     codes    vectors of 64 bytes     lane r (4 bytes) belongs to row r
 *                u4: groupSize/8 vectors; byte i of a lane in vector j: low nibble input 4j+i, high nibble input groupSize/2 + 4j+i
 *                u8: groupSize/4 vectors; byte i of a lane in vector j: input 4j+i
 *
 * and value = scale * (code - zero) + min. Floats have no blocks: input k of the 16 rows stands in one run of 16 elements.
 * Blocks of a row group lie one after another (ascending inputs), row groups one after another: a kernel that walks a row group reads straight on.
 * The matrix is filled up to a multiple of 32 rows with rows of zero scale (zero values). One layout serves every vector width, so a plan file is not bound to an ISA.
 *
 * Knows nothing of file formats beyond the description of a row that tensor/ gives.
 */

/** Rows in a row group. */
export const ROW_GROUP = 16;
/** Matrices are filled up to whole pairs of row groups, the unit of the widest matmul tile. */
export const ROW_PADDING = 32;

export function paddedRows(rows: number): number {
  return Math.ceil(rows / ROW_PADDING) * ROW_PADDING;
}

export interface QuantizedPackedFormat {
  readonly kind: 'quantized';
  readonly name: string;
  readonly codes: 'u4' | 'u8';
  readonly groupSize: 16 | 32;
  /** Subtracted from a code. */
  readonly zero: number;
  /** Largest code that occurs: how many 16-bit products a machine without 8-bit dots may add up. */
  readonly maxCode: 15 | 31 | 63 | 255;
  readonly hasMin: boolean;
  readonly scaleType: 'f16' | 'f32';
}

export interface FloatPackedFormat {
  readonly kind: 'float';
  readonly name: string;
  readonly element: 'f32' | 'f16' | 'bf16';
}

export type PackedFormat = QuantizedPackedFormat | FloatPackedFormat;

export function floatFormat(element: 'f32' | 'f16' | 'bf16'): FloatPackedFormat {
  return { kind: 'float', name: element, element };
}

type QuantizedShape = Omit<QuantizedPackedFormat, 'kind' | 'name'>;

function quantizedFormat(shape: QuantizedShape): QuantizedPackedFormat {
  const { codes, groupSize, zero, maxCode, hasMin, scaleType } = shape;
  const name = `${codes}g${groupSize}z${zero}${hasMin ? 'm' : ''}c${maxCode}${scaleType}`;
  return { kind: 'quantized', name, ...shape };
}

/**
 * The packed form of each stored format that keeps its values: f16 scales where the file's own are f16; f32 for formats whose scales are products (K-quants,
 * IQ4_XS). Q5, Q6_K, Q3_K and Q2_K are widened to 8-bit codes, IQ4 by its table of values.
 */
export const PACKED_FORMATS = {
  q4_0: quantizedFormat({
    codes: 'u4',
    groupSize: 32,
    zero: 8,
    maxCode: 15,
    hasMin: false,
    scaleType: 'f16',
  }),
  q4_1: quantizedFormat({
    codes: 'u4',
    groupSize: 32,
    zero: 0,
    maxCode: 15,
    hasMin: true,
    scaleType: 'f16',
  }),
  q4_k: quantizedFormat({
    codes: 'u4',
    groupSize: 32,
    zero: 0,
    maxCode: 15,
    hasMin: true,
    scaleType: 'f32',
  }),
  q5_0: quantizedFormat({
    codes: 'u8',
    groupSize: 32,
    zero: 16,
    maxCode: 31,
    hasMin: false,
    scaleType: 'f16',
  }),
  q5_1: quantizedFormat({
    codes: 'u8',
    groupSize: 32,
    zero: 0,
    maxCode: 31,
    hasMin: true,
    scaleType: 'f16',
  }),
  q5_k: quantizedFormat({
    codes: 'u8',
    groupSize: 32,
    zero: 0,
    maxCode: 31,
    hasMin: true,
    scaleType: 'f32',
  }),
  q8_0: quantizedFormat({
    codes: 'u8',
    groupSize: 32,
    zero: 128,
    maxCode: 255,
    hasMin: false,
    scaleType: 'f16',
  }),
  q6_k: quantizedFormat({
    codes: 'u8',
    groupSize: 16,
    zero: 32,
    maxCode: 63,
    hasMin: false,
    scaleType: 'f32',
  }),
  q3_k: quantizedFormat({
    codes: 'u8',
    groupSize: 16,
    zero: 4,
    maxCode: 15,
    hasMin: false,
    scaleType: 'f32',
  }),
  q2_k: quantizedFormat({
    codes: 'u4',
    groupSize: 16,
    zero: 0,
    maxCode: 15,
    hasMin: true,
    scaleType: 'f32',
  }),
  iq4_nl: quantizedFormat({
    codes: 'u8',
    groupSize: 32,
    zero: 128,
    maxCode: 255,
    hasMin: false,
    scaleType: 'f16',
  }),
  iq4_xs: quantizedFormat({
    codes: 'u8',
    groupSize: 32,
    zero: 128,
    maxCode: 255,
    hasMin: false,
    scaleType: 'f32',
  }),
  f32: floatFormat('f32'),
  f16: floatFormat('f16'),
  bf16: floatFormat('bf16'),
} as const satisfies Record<string, PackedFormat>;

export type PackableDType = keyof typeof PACKED_FORMATS;

export function packedFormatOf(dtype: string): PackedFormat | null {
  return Object.hasOwn(PACKED_FORMATS, dtype) ? PACKED_FORMATS[dtype as PackableDType] : null;
}

/** Where the parts of one block stand, in bytes. */
export interface BlockLayout {
  readonly minsOffset: number;
  readonly codesOffset: number;
  /** 64-byte vectors of codes. */
  readonly numCodeVectors: number;
  readonly blockBytes: number;
  readonly scaleBytes: 2 | 4;
}

export function blockLayout(format: QuantizedPackedFormat): BlockLayout {
  const scaleBytes = format.scaleType === 'f16' ? 2 : 4;
  const minsOffset = ROW_GROUP * scaleBytes;
  const codesOffset = minsOffset * (format.hasMin ? 2 : 1);
  const numCodeVectors = format.groupSize / (format.codes === 'u4' ? 8 : 4);
  return {
    scaleBytes,
    minsOffset,
    codesOffset,
    numCodeVectors,
    blockBytes: codesOffset + 64 * numCodeVectors,
  };
}

/** Bytes of one row group over `columns` inputs. */
export function rowGroupBytes(format: PackedFormat, columns: number): number {
  if (format.kind === 'float') return ROW_GROUP * columns * (format.element === 'f32' ? 4 : 2);
  return Math.ceil(columns / format.groupSize) * blockLayout(format).blockBytes;
}

/** Bytes of the packed matrix `[rows, columns]`. */
export function packedBytes(format: PackedFormat, rows: number, columns: number): number {
  return (paddedRows(rows) / ROW_GROUP) * rowGroupBytes(format, columns);
}

/** Bits per weight as stored here, for reports. */
export function packedBitsPerWeight(format: PackedFormat): number {
  if (format.kind === 'float') return format.element === 'f32' ? 32 : 16;
  return (blockLayout(format).blockBytes * 8) / (ROW_GROUP * format.groupSize);
}
