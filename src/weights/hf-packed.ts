/**
 * How other toolkits lay out matrices of codes in safetensors: GPTQ (v1 and v2, act-order), AWQ (gemm), compressed-tensors pack-quantized. Words of 32 bits,
 * the first code in the lowest bits. Pure; the files are hf-quantized-weights.ts's.
 *
 *     GPTQ    qweight i32 [in * bits / 32, out], codes along in;  qzeros i32 [groups, out * bits / 32], along out, v1 stores zero - 1
 *             scales f16 [groups, out];  g_idx i32 [in], the group of each input (any order)
 *     AWQ     qweight i32 [in, out / 8], qzeros i32 [groups, out / 8], both along out: nibble i of a word is channel 8c + ORDER[i];  scales f16 [groups, out]
 *     packed  weight_packed i32 [out, in * bits / 32] along in, code = signed value + 2^(bits-1);  weight_scale [out, groups];
 *             weight_zero_point i32 [out * bits / 32, groups], along out, only where asymmetric
 *
 * 3-bit codes run on across words: 32 of them in 3 words.
 */

import { DTypeError } from '../tensor/errors.ts';
import { f16Bits } from '../tensor/half.ts';
import type { QuantizedMatrix } from '../tensor/quantized-matrix.ts';

/** AWQ's order of channels within a word. */
const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7] as const;

/** A matrix of codes whose groups may be any sets of inputs. */
export interface IndexedMatrix extends QuantizedMatrix {
  /** Group of each input, i32 [columns]; null where groups are runs of `groupSize`. */
  readonly groupOf: Int32Array | null;
}

/** Code `index` of a run of codes that begins at word `start`; consecutive words are `step` apart. */
function codeAt(
  words: Int32Array,
  start: number,
  step: number,
  index: number,
  bits: number,
): number {
  const bit = index * bits;
  const word = bit >> 5;
  const shift = bit & 31;
  let value = words[start + word * step]! >>> shift;
  if (shift + bits > 32) value |= words[start + (word + 1) * step]! << (32 - shift);
  return value & ((1 << bits) - 1);
}

function putCode(
  words: Int32Array,
  start: number,
  step: number,
  index: number,
  bits: number,
  code: number,
): void {
  const bit = index * bits;
  const word = bit >> 5;
  const shift = bit & 31;
  words[start + word * step]! |= code << shift;
  if (shift + bits > 32) words[start + (word + 1) * step]! |= code >>> (32 - shift);
}

const wordsFor = (codes: number, bits: number): number => Math.ceil((codes * bits) / 32);

export interface GptqTensors {
  readonly qweight: Int32Array;
  readonly qzeros: Int32Array;
  /** f32 [groups, out] */
  readonly scales: Float32Array;
  readonly gIdx: Int32Array | null;
}

export interface PackedShape {
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  readonly groupSize: number;
}

/** @param version 1 stores zero points less one, 2 as they are */
export function unpackGptq(
  { qweight, qzeros, scales, gIdx }: GptqTensors,
  { rows, columns, bits, groupSize }: PackedShape,
  version: 1 | 2,
  isSymmetric: boolean,
): IndexedMatrix {
  const numGroups = Math.ceil(columns / groupSize);
  const codes = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++)
      codes[row * columns + k] = codeAt(qweight, row, rows, k, bits);
  }
  const outScales = new Float32Array(rows * numGroups);
  for (let row = 0; row < rows; row++) {
    for (let g = 0; g < numGroups; g++) {
      outScales[row * numGroups + g] = scales[g * rows + row]!;
    }
  }
  const zeros = unpackGptqZeros(qzeros, { rows, numGroups, bits }, version);
  const isRun = gIdx === null || gIdx.every((group, k) => group === Math.floor(k / groupSize));
  return {
    ...{ rows, columns, bits, groupSize, codes, scales: outScales, zeros, isSymmetric },
    groupOf: isRun ? null : gIdx,
  };
}

/** Zero points, u8 [rows, numGroups]. */
export function unpackGptqZeros(
  qzeros: Int32Array,
  { rows, numGroups, bits }: { rows: number; numGroups: number; bits: number },
  version: 1 | 2,
): Uint8Array {
  const zeroWords = wordsFor(rows, bits);
  const zeros = new Uint8Array(rows * numGroups);
  const mask = (1 << bits) - 1;
  for (let row = 0; row < rows; row++) {
    for (let g = 0; g < numGroups; g++) {
      const stored = codeAt(qzeros, g * zeroWords, 1, row, bits);
      // Readers of v1 mask the sum, so a zero point of 2^bits is one of 0.
      zeros[row * numGroups + g] = version === 1 ? (stored + 1) & mask : stored;
    }
  }
  return zeros;
}

type PackedLayout = 'gptq' | 'awq' | 'compressed-tensors';

/** @throws {DTypeError} if the layout has no place for codes of so many bits in a matrix of this shape */
export function checkPackable(
  layout: PackedLayout,
  { rows, columns, bits }: Pick<QuantizedMatrix, 'rows' | 'columns' | 'bits'>,
): void {
  if (layout === 'gptq' && ((columns * bits) % 32 !== 0 || (rows * bits) % 32 !== 0)) {
    throw new DTypeError(
      'packed',
      `GPTQ's layout has no place for ${rows} x ${columns} codes of ${bits} bits: rows and columns must fill words of 32 bits`,
    );
  }
  if (layout === 'awq' && (bits !== 4 || rows % 8 !== 0)) {
    throw new DTypeError(
      'packed',
      `AWQ's layout holds codes of 4 bits for a multiple of 8 outputs, not ${bits} bits for ${rows}`,
    );
  }
}

/** @throws {DTypeError} where v1 cannot say a zero point of 0 */
export function packGptq(
  matrix: QuantizedMatrix,
  version: 1 | 2,
): Required<GptqTensors> & { gIdx: Int32Array } {
  const { rows, columns, bits, groupSize, codes, scales, zeros } = matrix;
  const numGroups = columns / groupSize;
  checkPackable('gptq', matrix);
  if (version === 1 && zeros.includes(0)) {
    throw new DTypeError('packed', 'a zero point is 0, which GPTQ v1 cannot store; write v2');
  }
  const zeroWords = wordsFor(rows, bits);
  const qweight = new Int32Array(wordsFor(columns, bits) * rows);
  const qzeros = new Int32Array(numGroups * zeroWords);
  const outScales = new Float32Array(numGroups * rows);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++)
      putCode(qweight, row, rows, k, bits, codes[row * columns + k]!);
    for (let g = 0; g < numGroups; g++) {
      outScales[g * rows + row] = scales[row * numGroups + g]!;
      const zero = zeros[row * numGroups + g]! - (version === 1 ? 1 : 0);
      putCode(qzeros, g * zeroWords, 1, row, bits, zero);
    }
  }
  const gIdx = Int32Array.from({ length: columns }, (_, k) => Math.floor(k / groupSize));
  return { qweight, qzeros, scales: outScales, gIdx };
}

export interface AwqTensors {
  readonly qweight: Int32Array;
  readonly qzeros: Int32Array;
  /** f32 [groups, out] */
  readonly scales: Float32Array;
}

/** Nibble of a word that holds channel `channel` of its 8. */
const AWQ_NIBBLE = [0, 4, 1, 5, 2, 6, 3, 7] as const;

export function unpackAwq(
  { qweight, qzeros, scales }: AwqTensors,
  { rows, columns, groupSize }: Omit<PackedShape, 'bits'>,
): QuantizedMatrix {
  const numGroups = columns / groupSize;
  const words = rows / 8;
  const codes = new Uint8Array(rows * columns);
  const outScales = new Float32Array(rows * numGroups);
  const zeros = new Uint8Array(rows * numGroups);
  for (let row = 0; row < rows; row++) {
    const shift = 4 * AWQ_NIBBLE[row & 7]!;
    const word = row >> 3;
    for (let k = 0; k < columns; k++) {
      codes[row * columns + k] = (qweight[k * words + word]! >>> shift) & 15;
    }
    for (let g = 0; g < numGroups; g++) {
      zeros[row * numGroups + g] = (qzeros[g * words + word]! >>> shift) & 15;
      outScales[row * numGroups + g] = scales[g * rows + row]!;
    }
  }
  return { rows, columns, bits: 4, groupSize, codes, scales: outScales, zeros, isSymmetric: false };
}

/** @throws {DTypeError} if the matrix has other than 4 bits, or outputs that are no multiple of 8 */
export function packAwq(matrix: QuantizedMatrix): AwqTensors {
  const { rows, columns, groupSize, codes, scales, zeros } = matrix;
  checkPackable('awq', matrix);
  const numGroups = columns / groupSize;
  const words = rows / 8;
  const qweight = new Int32Array(columns * words);
  const qzeros = new Int32Array(numGroups * words);
  const outScales = new Float32Array(numGroups * rows);
  for (let word = 0; word < words; word++) {
    for (const [nibble, channel] of AWQ_ORDER.entries()) {
      const row = 8 * word + channel;
      const shift = 4 * nibble;
      for (let k = 0; k < columns; k++) {
        qweight[k * words + word]! |= codes[row * columns + k]! << shift;
      }
      for (let g = 0; g < numGroups; g++) {
        qzeros[g * words + word]! |= zeros[row * numGroups + g]! << shift;
        outScales[g * rows + row] = scales[row * numGroups + g]!;
      }
    }
  }
  return { qweight, qzeros, scales: outScales };
}

export interface CompressedTensors {
  readonly packed: Int32Array;
  /** f32 [out, groups] */
  readonly scales: Float32Array;
  /** null: the middle of the codes everywhere. */
  readonly zeroPoints: Int32Array | null;
}

export function unpackCompressedTensors(
  { packed, scales, zeroPoints }: CompressedTensors,
  { rows, columns, bits, groupSize }: PackedShape,
): QuantizedMatrix {
  const numGroups = columns / groupSize;
  const words = wordsFor(columns, bits);
  const codes = new Uint8Array(rows * columns);
  const zeros = new Uint8Array(rows * numGroups).fill(1 << (bits - 1));
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++) {
      codes[row * columns + k] = codeAt(packed, row * words, 1, k, bits);
    }
    if (zeroPoints === null) continue;
    for (let g = 0; g < numGroups; g++) {
      zeros[row * numGroups + g] = codeAt(zeroPoints, g, numGroups, row, bits);
    }
  }
  const isSymmetric = zeroPoints === null;
  return { rows, columns, bits, groupSize, codes, scales: scales.slice(), zeros, isSymmetric };
}

export function packCompressedTensors(matrix: QuantizedMatrix): CompressedTensors {
  const { rows, columns, bits, groupSize, codes, scales, zeros, isSymmetric } = matrix;
  const numGroups = columns / groupSize;
  const words = wordsFor(columns, bits);
  const packed = new Int32Array(rows * words);
  const zeroPoints = isSymmetric ? null : new Int32Array(wordsFor(rows, bits) * numGroups);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++)
      putCode(packed, row * words, 1, k, bits, codes[row * columns + k]!);
    if (zeroPoints === null) continue;
    for (let g = 0; g < numGroups; g++) {
      putCode(zeroPoints, g, numGroups, row, bits, zeros[row * numGroups + g]!);
    }
  }
  return { packed, scales: scales.slice(), zeroPoints };
}

/** The matrix with the columns `order` side by side, which makes its groups runs. */
export function withColumnsInOrder(matrix: IndexedMatrix, order: Int32Array): IndexedMatrix {
  const { rows, columns } = matrix;
  const codes = new Uint8Array(rows * columns);
  for (let start = 0; start < codes.length; start += columns) {
    for (let i = 0; i < columns; i++) codes[start + i] = matrix.codes[start + order[i]!]!;
  }
  return { ...matrix, codes, groupOf: null };
}

/** f32 [rows, columns], whatever the groups. */
export function dequantizeIndexed(matrix: IndexedMatrix): Float32Array {
  const { rows, columns, codes, scales, zeros, groupSize, groupOf } = matrix;
  const numGroups = Math.ceil(columns / groupSize);
  const out = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++) {
      const group = row * numGroups + (groupOf === null ? Math.floor(k / groupSize) : groupOf[k]!);
      out[row * columns + k] = scales[group]! * (codes[row * columns + k]! - zeros[group]!);
    }
  }
  return out;
}

/** The bytes of f32 values as f16. */
export function f16BytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(Uint16Array.from(values, f16Bits).buffer);
}
