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

/** Packs the codes and scales of one unpacked row into its lane of a row group. */
class QuantizedRowPacker {
  readonly #format: QuantizedPackedFormat;
  readonly #layout: BlockLayout;
  readonly #columns: number;
  /** Byte that stands for a code of the stored row, by code + 128. */
  readonly #codeBytes: Uint8Array;
  readonly row: UnpackedRow;
  readonly #bytes: Uint8Array;

  constructor(dtype: DType, format: QuantizedPackedFormat, columns: number) {
    this.#format = format;
    this.#layout = blockLayout(format);
    this.#columns = columns;
    this.row = createUnpackedRow(dtype, columns);
    this.#bytes = new Uint8Array(columns);
    const { groupSize, zero, factors } = this.row;
    if (groupSize !== format.groupSize) {
      throw new InternalError(
        `${dtype} has groups of ${groupSize}, ${format.name} of ${format.groupSize}`,
      );
    }
    if ((factors !== null) !== (format.scaleType === 'i8')) {
      throw new InternalError(`${dtype} does not have the scales of ${format.name}`);
    }
    const { values } = format;
    this.#codeBytes = Uint8Array.from({ length: 256 + 128 }, (_, i) => {
      const code = i - 128 + format.zero - zero;
      return values ? Math.max(0, values.indexOf(code)) : code;
    });
  }

  /** @param r lane of the row in the row group of `size` bytes at `intoOffset` */
  pack(r: number, into: Uint8Array, intoOffset: number, size: number): void {
    const words = new Uint32Array(into.buffer, into.byteOffset + intoOffset, size >> 2);
    const { blockBytes, headerBytes, blocksPerSuper } = this.#layout;
    this.#mapCodes();
    let base = 0;
    for (let block = 0; block < this.#columns / BLOCK_INPUTS; block++) {
      if (headerBytes > 0 && block % blocksPerSuper === 0) base += headerBytes;
      this.#packCodes(block, words, base, r);
      base += blockBytes;
    }
    if (headerBytes > 0) this.#packFactors(r, into, intoOffset);
    else this.#packScales(r, new Uint16Array(words.buffer, words.byteOffset, size >> 1));
  }

  #mapCodes(): void {
    const bytes = this.#bytes;
    const { codes } = this.row;
    const map = this.#codeBytes;
    for (let i = 0; i < bytes.length; i++) bytes[i] = map[codes[i]! + 128]!;
  }

  #packCodes(block: number, words: Uint32Array, base: number, r: number): void {
    const codes = this.#bytes;
    const { groupsPerBlock, planesPerGroup, vectorsPerGroup, planesOffset, codesOffset } =
      this.#layout;
    const { groupSize } = this.#format;
    const hasNibbles = this.#format.codes !== 'u8';
    const half = groupSize / 2;
    let word = ((base + codesOffset) >> 2) + r;
    for (let group = 0; group < groupsPerBlock; group++) {
      const first = block * BLOCK_INPUTS + group * groupSize;
      for (let j = 0; j < vectorsPerGroup; j++, word += ROW_GROUP) {
        const i = first + 4 * j;
        let value =
          codes[i]! | (codes[i + 1]! << 8) | (codes[i + 2]! << 16) | (codes[i + 3]! << 24);
        if (hasNibbles) {
          const h = i + half;
          const high =
            codes[h]! | (codes[h + 1]! << 8) | (codes[h + 2]! << 16) | (codes[h + 3]! << 24);
          value = (value & 0x0f0f0f0f) | ((high & 0x0f0f0f0f) << 4);
        }
        words[word] = value;
      }
      if (planesPerGroup === 0) continue;
      this.#packPlanes(first, words, ((base + planesOffset) >> 2) + r, group);
    }
  }

  #packPlanes(first: number, words: Uint32Array, planes: number, group: number): void {
    const codes = this.#bytes;
    const { planesPerGroup } = this.#layout;
    const bits = PLANE_BITS[this.#format.codes];
    for (let i = 0; i < this.#format.groupSize; i++) {
      const bit = (i >> 2) * bits;
      const plane = group * planesPerGroup + (bit >> 3);
      words[planes + plane * ROW_GROUP]! |= (codes[first + i]! >> 4) << ((bit & 7) + 8 * (i & 3));
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
