/**
 * Repacks stored rows into the packed layout (kernels/packed-format.ts), sixteen at a time. Lossless: what a kernel makes of a packed row are the decoded values.
 *
 * Knows the bytes of both layouts; nothing of files, graphs or kernels.
 */
import {
  blockLayout,
  type PackedFormat,
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
  readonly #unpacked: UnpackedRow | null;
  readonly #floats: Float32Array | null;
  /** Bytes of one packed row group. */
  readonly groupBytes: number;

  constructor(dtype: DType, format: PackedFormat, columns: number) {
    this.#dtype = dtype;
    this.#format = format;
    this.#columns = columns;
    this.#rowBytes = rowBytes(dtype, columns);
    this.#unpacked = format.kind === 'quantized' ? createUnpackedRow(dtype, columns) : null;
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
    if (this.#format.kind !== 'quantized') return;
    const format = this.#format;
    const row = this.#unpacked!;
    unpackBlocks(this.#dtype, rows, at, this.#columns, row);
    const { codes, scales, mins, groupSize } = row;
    if (groupSize !== format.groupSize) {
      throw new InternalError(
        `${this.#dtype} has groups of ${groupSize}, ${format.name} of ${format.groupSize}`,
      );
    }
    const layout = blockLayout(format);
    const size = this.groupBytes;
    const words = new Uint32Array(into.buffer, into.byteOffset + intoOffset, size >> 2);
    const halves = new Uint16Array(into.buffer, into.byteOffset + intoOffset, size >> 1);
    const floats = new Float32Array(into.buffer, into.byteOffset + intoOffset, size >> 2);
    const shift = format.zero - row.zero;
    const half = groupSize / 2;
    const numGroups = this.#columns / groupSize;
    for (let g = 0; g < numGroups; g++) {
      const base = g * layout.blockBytes;
      const first = g * groupSize;
      if (format.scaleType === 'f16') {
        halves[(base >> 1) + r] = f16Bits(scales[g]!);
        if (mins) halves[((base + layout.minsOffset) >> 1) + r] = f16Bits(mins[g]!);
      } else {
        floats[(base >> 2) + r] = scales[g]!;
        if (mins) floats[((base + layout.minsOffset) >> 2) + r] = mins[g]!;
      }
      let word = ((base + layout.codesOffset) >> 2) + r;
      for (let j = 0; j < layout.numCodeVectors; j++, word += ROW_GROUP) {
        const i = first + 4 * j;
        let value =
          (codes[i]! + shift) |
          ((codes[i + 1]! + shift) << 8) |
          ((codes[i + 2]! + shift) << 16) |
          ((codes[i + 3]! + shift) << 24);
        if (format.codes === 'u4') {
          const h = i + half;
          value |=
            ((codes[h]! + shift) << 4) |
            ((codes[h + 1]! + shift) << 12) |
            ((codes[h + 2]! + shift) << 20) |
            ((codes[h + 3]! + shift) << 28);
        }
        words[word] = value;
      }
    }
  }
}
