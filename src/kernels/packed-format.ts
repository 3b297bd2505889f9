/**
 * The packed layout of weight matrices: what matmul kernels stream, and what a plan file holds.
 *
 * Rows (outputs) are taken 16 at a time, a row group, and inputs 32 at a time, a block: one group of codes with a common scale, or two of 16. A block of a
 * row group is
 *
 *     scales   16 x f16 or i8 per group   row r of the row group at lane r
 *     mins     likewise                   only with `hasMin`
 *     planes   vectors of 64 bytes        u5, u6: upper bits of the codes; lane r (4 bytes) belongs to row r
 *     codes    vectors of 64 bytes        group after group, groupSize/8 vectors of each (u8: groupSize/4)
 *                nibbles: byte i of a lane in vector j: low nibble input 4j+i of the group, high nibble input groupSize/2 + 4j+i
 *                u8:      byte i of a lane in vector j: input 4j+i
 *                planes:  the h upper bits of inputs 4q .. 4q+3 (quad q) stand at bit h*q of the four bytes of a lane, in the next plane after bit 7
 *
 * and value = scale * (code - zero) + min, where a format with `values` has them in place of the code. With f16 scales blocks follow one another. With i8
 * scales eight blocks make a super-block of 256 inputs, before which stand
 *
 *     d        16 x f16    scale = d * i8 scale, exact in f32
 *     -dmin    16 x f16    min = -dmin * i8 min; only with `hasMin`
 *
 * Floats have no blocks: input k of the 16 rows stands in one run of 16 elements. Blocks of a row group lie one after another (ascending inputs), row groups
 * one after another: a kernel that walks a row group reads straight on. The matrix is filled up to a multiple of 32 rows with rows of zero scale (zero
 * values). One layout serves every vector width, so a plan file is not bound to an ISA.
 *
 * Knows nothing of file formats beyond the description of a row that tensor/ gives.
 */
import { SUPER_BLOCK } from '../tensor/block-formats/block-format.ts';
import { IQ4_TABLE } from '../tensor/block-formats/iq4-table.ts';
import { CODEBOOK_INT8 } from '../tensor/codebook.ts';

/** Rows in a row group. */
export const ROW_GROUP = 16;
/** Matrices are filled up to whole pairs of row groups, the unit of the widest matmul tile. */
export const ROW_PADDING = 32;

export function paddedRows(rows: number): number {
  return Math.ceil(rows / ROW_PADDING) * ROW_PADDING;
}

/** Inputs of a block. */
export const BLOCK_INPUTS = 32;

export interface QuantizedPackedFormat {
  readonly kind: 'quantized';
  readonly name: string;
  readonly codes: 'u4' | 'u5' | 'u6' | 'u8';
  readonly groupSize: 16 | 32;
  /** Subtracted from a code (or the value that it stands for). */
  readonly zero: number;
  /** Largest code (or value) that occurs: how many 16-bit products a machine without 8-bit dots may add up. */
  readonly maxCode: 15 | 31 | 63 | 255;
  readonly hasMin: boolean;
  /** `i8`: with factors per super-block. */
  readonly scaleType: 'f16' | 'i8';
  /** The 16 values that u4 codes stand for, u8; null where they stand for themselves. */
  readonly values: readonly number[] | null;
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

type QuantizedShape = Omit<QuantizedPackedFormat, 'kind' | 'name' | 'values'> & {
  readonly values?: readonly number[];
  /** Tells formats apart that differ in their values only. */
  readonly table?: string;
};

function quantizedFormat({ values, table = '', ...shape }: QuantizedShape): QuantizedPackedFormat {
  const { codes, groupSize, zero, maxCode, hasMin, scaleType } = shape;
  const name = `${codes}${values ? `t${table}` : ''}g${groupSize}z${zero}${hasMin ? 'm' : ''}c${maxCode}${scaleType}`;
  return { kind: 'quantized', name, ...shape, values: values ?? null };
}

const TABLE_ZERO = 128;
const tableFormat = (table: Int8Array) =>
  ({
    codes: 'u4',
    groupSize: 32,
    zero: TABLE_ZERO,
    maxCode: 255,
    hasMin: false,
    values: Array.from(table, (value) => value + TABLE_ZERO),
  }) as const;
const IQ4 = tableFormat(IQ4_TABLE);

/** The packed form of each stored format that keeps its values, in about as many bits. Q3_K and Q2_K are widened to 4-bit codes. */
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
    scaleType: 'i8',
  }),
  q5_0: quantizedFormat({
    codes: 'u5',
    groupSize: 32,
    zero: 16,
    maxCode: 31,
    hasMin: false,
    scaleType: 'f16',
  }),
  q5_1: quantizedFormat({
    codes: 'u5',
    groupSize: 32,
    zero: 0,
    maxCode: 31,
    hasMin: true,
    scaleType: 'f16',
  }),
  q5_k: quantizedFormat({
    codes: 'u5',
    groupSize: 32,
    zero: 0,
    maxCode: 31,
    hasMin: true,
    scaleType: 'i8',
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
    codes: 'u6',
    groupSize: 16,
    zero: 32,
    maxCode: 63,
    hasMin: false,
    scaleType: 'i8',
  }),
  q3_k: quantizedFormat({
    codes: 'u4',
    groupSize: 16,
    zero: 4,
    maxCode: 15,
    hasMin: false,
    scaleType: 'i8',
  }),
  q2_k: quantizedFormat({
    codes: 'u4',
    groupSize: 16,
    zero: 0,
    maxCode: 15,
    hasMin: true,
    scaleType: 'i8',
  }),
  iq4_nl: quantizedFormat({ ...IQ4, scaleType: 'f16' }),
  iq4_xs: quantizedFormat({ ...IQ4, scaleType: 'i8' }),
  f32: floatFormat('f32'),
  f16: floatFormat('f16'),
  bf16: floatFormat('bf16'),
} as const satisfies Record<string, PackedFormat>;

export type PackableDType = keyof typeof PACKED_FORMATS;

/**
 * Packed forms for int8 activations that round the values: those of code books to 8-bit integers, f32 scales to f16 (by less than 2^-12 of their size,
 * or 2^-25). Where activations are f32, these formats are packed as f32.
 */
export const ROUNDED_FORMATS = {
  nf4: quantizedFormat({
    ...tableFormat(CODEBOOK_INT8.nf4.values),
    table: 'nf4',
    scaleType: 'f16',
  }),
  fp4: quantizedFormat({
    ...tableFormat(CODEBOOK_INT8.fp4.values),
    table: 'fp4',
    scaleType: 'f16',
  }),
  q8_f32: PACKED_FORMATS.q8_0,
} as const satisfies Record<string, QuantizedPackedFormat>;

/** @param options.rounds whether values may be rounded for the sake of integer dot products */
export function packedFormatOf(
  dtype: string,
  { rounds }: { readonly rounds: boolean },
): PackedFormat | null {
  if (Object.hasOwn(PACKED_FORMATS, dtype)) return PACKED_FORMATS[dtype as PackableDType];
  if (!Object.hasOwn(ROUNDED_FORMATS, dtype)) return null;
  return rounds ? ROUNDED_FORMATS[dtype as keyof typeof ROUNDED_FORMATS] : PACKED_FORMATS.f32;
}

/** Upper bits of a code that stand in planes. */
export const PLANE_BITS = { u4: 0, u5: 1, u6: 2, u8: 0 } as const;

/** Where the parts of a block and of a super-block stand, in bytes. */
export interface BlockLayout {
  readonly groupsPerBlock: 1 | 2;
  readonly scaleBytes: 1 | 2;
  readonly minsOffset: number;
  readonly planesOffset: number;
  readonly codesOffset: number;
  /** 64-byte vectors of upper bits, and of codes, of one group. */
  readonly planesPerGroup: number;
  readonly vectorsPerGroup: number;
  readonly blockBytes: number;
  /** Bytes before the blocks of a super-block; 0 where scales are f16. */
  readonly headerBytes: number;
  /** Blocks that follow a header, and the bytes of header and blocks together. */
  readonly blocksPerSuper: 1 | 8;
  readonly superBytes: number;
}

export function blockLayout(format: QuantizedPackedFormat): BlockLayout {
  const { codes, groupSize, hasMin, scaleType } = format;
  const groupsPerBlock = groupSize === BLOCK_INPUTS ? 1 : 2;
  const scaleBytes = scaleType === 'f16' ? 2 : 1;
  const parts = hasMin ? 2 : 1;
  const minsOffset = groupsPerBlock * ROW_GROUP * scaleBytes;
  const planesOffset = minsOffset * parts;
  const planesPerGroup = (PLANE_BITS[codes] * groupSize) / 32;
  const vectorsPerGroup = groupSize / (codes === 'u8' ? 4 : 8);
  const codesOffset = planesOffset + 64 * planesPerGroup * groupsPerBlock;
  const blockBytes = codesOffset + 64 * vectorsPerGroup * groupsPerBlock;
  const hasFactors = scaleType === 'i8';
  const headerBytes = hasFactors ? 2 * ROW_GROUP * parts : 0;
  const blocksPerSuper = hasFactors ? 8 : 1;
  return {
    groupsPerBlock,
    scaleBytes,
    minsOffset,
    planesOffset,
    codesOffset,
    planesPerGroup,
    vectorsPerGroup,
    blockBytes,
    headerBytes,
    blocksPerSuper,
    superBytes: headerBytes + blocksPerSuper * blockBytes,
  };
}

/** Inputs of the smallest piece of a row that can be read by itself: a row is whole pieces. */
export function pieceInputs(format: PackedFormat): number {
  if (format.kind === 'float') return 1;
  return format.scaleType === 'i8' ? SUPER_BLOCK : BLOCK_INPUTS;
}

/** Bytes of one row group over `columns` inputs. */
export function rowGroupBytes(format: PackedFormat, columns: number): number {
  if (format.kind === 'float') return ROW_GROUP * columns * (format.element === 'f32' ? 4 : 2);
  return Math.ceil(columns / pieceInputs(format)) * blockLayout(format).superBytes;
}

/** Bytes of the packed matrix `[rows, columns]`. */
export function packedBytes(format: PackedFormat, rows: number, columns: number): number {
  return (paddedRows(rows) / ROW_GROUP) * rowGroupBytes(format, columns);
}

/** Bits per weight as stored here, for reports. */
export function packedBitsPerWeight(format: PackedFormat): number {
  if (format.kind === 'float') return format.element === 'f32' ? 32 : 16;
  return (blockLayout(format).superBytes * 8) / (ROW_GROUP * pieceInputs(format));
}
