/**
 * Repacks stored rows into the packed layout (kernels/packed-format.ts), sixteen at a time. Lossless: what a kernel makes of a packed row are the decoded values.
 *
 * Knows the bytes of both layouts; nothing of files, graphs or kernels.
 */
import {
  BLOCK_INPUTS,
  type BlockLayout,
  blockLayout,
  type PackedFormat,
  PLANE_BITS,
  type QuantizedPackedFormat,
  ROW_GROUP,
  rowGroupBytes,
} from '../kernels/packed-format.ts';
import { InternalError } from '../platform/errors.ts';
import { type DType, rowBytes } from '../tensor/dtype.ts';
import { f16Bits } from '../tensor/half.ts';
import { createUnpackedRow, decodeRow, type UnpackedRow, unpackBlocks } from '../tensor/rows.ts';

/** Packs row groups of one matrix; keeps its buffers between groups. */
export class RowGroupPacker {
  readonly #dtype: DType;
  readonly #format: PackedFormat;
  readonly #columns: number;
  readonly #rowBytes: number;
  readonly #quantized: QuantizedRowPacker | null;
  readonly #floats: Float32Array | null;
  /** Bytes of one packed row group. */
  readonly groupBytes: number;

  constructor(dtype: DType, format: PackedFormat, columns: number) {
    this.#dtype = dtype;
    this.#format = format;
    this.#columns = columns;
    this.#rowBytes = rowBytes(dtype, columns);
    this.#quantized =
      format.kind === 'quantized' ? new QuantizedRowPacker(dtype, format, columns) : null;
    this.#floats = format.kind === 'float' ? new Float32Array(columns) : null;
    this.groupBytes = rowGroupBytes(format, columns);
  }

  /**
   * @param rows stored rows one after another from `rowsOffset`, `numRows` of them (the rest of the group becomes zero)
   * @param into receives `groupBytes` from `intoOffset`, a multiple of 64; must be zero there before
   */
  packGroup(
    rows: Uint8Array,
    rowsOffset: number,
    numRows: number,
    into: Uint8Array,
    intoOffset: number,
  ): void {
    if (numRows > ROW_GROUP)
      throw new InternalError(`a row group has ${ROW_GROUP} rows, not ${numRows}`);
    for (let r = 0; r < numRows; r++) {
      const at = rowsOffset + r * this.#rowBytes;
      if (this.#format.kind === 'float') this.#packFloatRow(rows, at, r, into, intoOffset);
      else this.#packQuantizedRow(rows, at, r, into, intoOffset);
    }
  }

  #packFloatRow(
    rows: Uint8Array,
    at: number,
    r: number,
    into: Uint8Array,
    intoOffset: number,
  ): void {
    const element = this.#format.kind === 'float' ? this.#format.element : 'f32';
    const columns = this.#columns;
    if (element === 'f32') {
      const floats = this.#floats!;
      decodeRow(this.#dtype, rows, at, floats, columns);
      const out = new Float32Array(into.buffer, into.byteOffset + intoOffset, columns * ROW_GROUP);
      for (let k = 0; k < columns; k++) out[k * ROW_GROUP + r] = floats[k]!;
      return;
    }
    if (this.#dtype !== element)
      throw new InternalError(`${this.#dtype} rows cannot be packed as ${element}`);
    const out = new Uint16Array(into.buffer, into.byteOffset + intoOffset, columns * ROW_GROUP);
    for (let k = 0; k < columns; k++)
      out[k * ROW_GROUP + r] = rows[at + 2 * k]! | (rows[at + 2 * k + 1]! << 8);
  }

  #packQuantizedRow(
    rows: Uint8Array,
    at: number,
    r: number,
    into: Uint8Array,
    intoOffset: number,
  ): void {
    const quantized = this.#quantized!;
    unpackBlocks(this.#dtype, rows, at, this.#columns, quantized.row);
    quantized.pack(r, into, intoOffset, this.groupBytes);
  }
}

const LOW_NIBBLES = 0x0f0f0f0f;
const EVERY_BYTE = 0x01010101;

/** Packs the codes and scales of one unpacked row into its lane of a row group. */
class QuantizedRowPacker {
  readonly #format: QuantizedPackedFormat;
  readonly #layout: BlockLayout;
  readonly #columns: number;
  readonly row: UnpackedRow;
  /** The codes of `row`, four to a word. */
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  /** Bits in which packed bytes differ from those of `row`: 128 is added to signed codes. */
  readonly #flip: number;
  /** Code by byte of `row`, where codes stand for values. */
  readonly #codeOfValue: Uint8Array | null;

  constructor(dtype: DType, format: QuantizedPackedFormat, columns: number) {
    this.#format = format;
    this.#layout = blockLayout(format);
    this.#columns = columns;
    this.row = createUnpackedRow(dtype, columns);
    const { groupSize, zero, factors, codes } = this.row;
    if (groupSize !== format.groupSize) {
      throw new InternalError(
        `${dtype} has groups of ${groupSize}, ${format.name} of ${format.groupSize}`,
      );
    }
    if ((factors !== null) !== (format.scaleType === 'i8')) {
      throw new InternalError(`${dtype} does not have the scales of ${format.name}`);
    }
    this.#words = new Uint32Array(codes.buffer);
    this.#bytes = new Uint8Array(codes.buffer);
    const { values } = format;
    this.#codeOfValue = values
      ? Uint8Array.from({ length: 256 }, (_, byte) => {
          const value = (byte + format.zero - zero) & 255;
          return Math.max(0, values.indexOf(value));
        })
      : null;
    const shift = format.zero - zero;
    if (!values && shift !== 0 && shift !== 128) {
      throw new InternalError(`${dtype}: codes of ${format.name} would be ${shift} off`);
    }
    this.#flip = values ? 0 : shift * EVERY_BYTE;
  }

  /** @param r lane of the row in the row group of `size` bytes at `intoOffset` */
  pack(r: number, into: Uint8Array, intoOffset: number, size: number): void {
    const words = new Uint32Array(into.buffer, into.byteOffset + intoOffset, size >> 2);
    const map = this.#codeOfValue;
    if (map) {
      const bytes = this.#bytes;
      for (let i = 0; i < bytes.length; i++) bytes[i] = map[bytes[i]!]!;
    }
    if (this.#format.codes === 'u8') this.#packBytes(words, r);
    else this.#packNibbles(words, r);
    if (this.#layout.headerBytes > 0) this.#packFactors(r, into, intoOffset);
    else this.#packScales(r, new Uint16Array(words.buffer, words.byteOffset, size >> 1));
  }

  #packBytes(words: Uint32Array, r: number): void {
    const codes = this.#words;
    const { blockBytes, codesOffset } = this.#layout;
    const flip = this.#flip;
    const perBlock = BLOCK_INPUTS / 4;
    let to = (codesOffset >> 2) + r;
    for (let from = 0; from < codes.length; from += perBlock, to += blockBytes >> 2) {
      for (let j = 0; j < perBlock; j++) words[to + j * ROW_GROUP] = codes[from + j]! ^ flip;
    }
  }

  #packNibbles(words: Uint32Array, r: number): void {
    const codes = this.#words;
    const { groupsPerBlock, vectorsPerGroup, planesPerGroup } = this.#layout;
    const { blockBytes, headerBytes, blocksPerSuper, planesOffset, codesOffset } = this.#layout;
    const flip = this.#flip;
    const planeBits = PLANE_BITS[this.#format.codes];
    const planeMask = ((1 << planeBits) - 1) * EVERY_BYTE;
    let base = r;
    let from = 0;
    for (let block = 0; from < codes.length; block++, base += blockBytes >> 2) {
      if (block % blocksPerSuper === 0) base += headerBytes >> 2;
      let to = base + (codesOffset >> 2);
      let planes = base + (planesOffset >> 2);
      for (let group = 0; group < groupsPerBlock; group++, from += 2 * vectorsPerGroup) {
        for (let j = 0; j < vectorsPerGroup; j++, to += ROW_GROUP) {
          const low = codes[from + j]! ^ flip;
          const high = codes[from + vectorsPerGroup + j]! ^ flip;
          words[to] = (low & LOW_NIBBLES) | ((high & LOW_NIBBLES) << 4);
        }
        if (planesPerGroup === 0) continue;
        for (let quad = 0; quad < 2 * vectorsPerGroup; quad++) {
          const bit = quad * planeBits;
          const upper = ((codes[from + quad]! ^ flip) >>> 4) & planeMask;
          words[planes + (bit >> 3) * ROW_GROUP]! |= upper << (bit & 7);
        }
        planes += planesPerGroup * ROW_GROUP;
      }
    }
  }

  #packScales(r: number, halves: Uint16Array): void {
    const { scales, mins } = this.row;
    const { blockBytes, minsOffset } = this.#layout;
    let at = r;
    for (let g = 0; g < this.#columns / BLOCK_INPUTS; g++, at += blockBytes >> 1) {
      halves[at] = f16Bits(scales[g]!);
      if (mins) halves[at + (minsOffset >> 1)] = f16Bits(mins[g]!);
    }
  }

  #packFactors(r: number, into: Uint8Array, intoOffset: number): void {
    const { d, negatedDmin, scales, mins } = this.row.factors!;
    const { groupsPerBlock, blocksPerSuper, superBytes, headerBytes, blockBytes, minsOffset } =
      this.#layout;
    const halves = new Uint16Array(into.buffer, into.byteOffset + intoOffset);
    for (let s = 0, g = 0; s < this.#columns / (blocksPerSuper * BLOCK_INPUTS); s++) {
      const header = s * superBytes;
      halves[(header >> 1) + r] = d[s]!;
      if (negatedDmin) halves[(header >> 1) + ROW_GROUP + r] = negatedDmin[s]!;
      for (let block = 0; block < blocksPerSuper; block++) {
        const at = intoOffset + header + headerBytes + block * blockBytes + r;
        for (let group = 0; group < groupsPerBlock; group++, g++) {
          into[at + group * ROW_GROUP] = scales[g]!;
          if (mins) into[at + minsOffset + group * ROW_GROUP] = mins[g]!;
        }
      }
    }
  }
}
