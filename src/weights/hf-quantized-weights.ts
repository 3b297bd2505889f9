/**
 * A Hugging Face model that another toolkit quantized, seen as an ordinary one: `X.qweight` and its companions become one tensor `X.weight` in a block
 * format that has fast kernels and holds the same values, exactly:
 *
 *     4-bit symmetric, 2 and 3 bits            q4_0    scale * (code - zero) with |code - zero| <= 8
 *     4-bit with zero points, 5-bit symmetric  q5_0    up to 16
 *     8-bit symmetric, 6 and 7 bits            q8_0
 *     8 bits per row (bnb, int-quantized),
 *     scales of other bits that no f16 holds   q8_f32  the scale as f32
 *     NF4 and FP4                              nf4, fp4
 *     groups that are no multiples of 32, or of several sizes: f32
 *
 * A group's scale is repeated for each block of 32. Inputs of act-order, whose groups are no runs, are stored in an order that makes them runs.
 * What the files of a toolkit look like is known by its file in quantized/.
 */

import { viewBytes } from '../platform/view-bytes.ts';
import { putF32 } from '../tensor/block-formats/scaled-codes.ts';
import { type CodebookTensor, decodeCodebook } from '../tensor/codebook.ts';
import { rowBytes } from '../tensor/dtype.ts';
import { f16Bits } from '../tensor/half.ts';
import type { GgufValue, WeightSource, WeightTensor } from './contract.ts';
import { WeightFileError } from './errors.ts';
import { dequantizeIndexed, type IndexedMatrix, withColumnsInOrder } from './hf-packed.ts';
import { awqMatrices } from './quantized/awq-matrices.ts';
import { bitsandbytesMatrices } from './quantized/bitsandbytes-matrices.ts';
import { compressedMatrices } from './quantized/compressed-matrices.ts';
import {
  type ForeignMatrix,
  type FoundMatrices,
  HOLDERS,
  type QuantizationConfig,
} from './quantized/foreign-matrix.ts';
import { gptqMatrices } from './quantized/gptq-matrices.ts';
import { outliersIn } from './quantized/outlier-file.ts';

export class HfQuantizedWeights implements WeightSource {
  readonly format = 'safetensors';
  readonly path: string;
  readonly files: readonly string[];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly #source: WeightSource;
  readonly #matrices: ReadonlyMap<string, ForeignMatrix>;
  readonly #outlierFile: WeightSource | null;
  /** The matrix read last, in its format: rows are asked for one after another. */
  #encoded: { readonly name: string; readonly bytes: Uint8Array } | null = null;

  /**
   * Takes over `source` and `outlierFile`: they are closed with this.
   *
   * @param outlierFile what `outlier-file.ts` describes, where it is there
   * @throws {WeightFileError} if the method or one of its variants is not known, naming it
   */
  constructor(
    source: WeightSource,
    config: QuantizationConfig,
    outlierFile: WeightSource | null = null,
  ) {
    this.#source = source;
    this.#outlierFile = outlierFile;
    this.path = source.path;
    this.files = [...source.files, ...(outlierFile?.files ?? [])];
    this.sizeBytes = source.sizeBytes + (outlierFile?.sizeBytes ?? 0);
    this.metadata = source.metadata;
    const found = findMatrices(source, config);
    this.#matrices = found.matrices;
    const tensors = new Map<string, WeightTensor>();
    for (const tensor of source.tensors.values()) {
      if (!found.parts.has(tensor.name)) tensors.set(tensor.name, tensor);
    }
    const outliers = outlierFile && outliersIn(outlierFile, (name) => this.#int8Shape(name));
    for (const [name, { rows, columns, dtype, columnOrder }] of this.#matrices) {
      const sizeBytes = rows * rowBytes(dtype, columns);
      const own = outliers?.get(name);
      const shape = [rows, columns];
      const how = { ...(columnOrder && { columnOrder }), ...(own && { outliers: own }) };
      tensors.set(name, { name, dtype, shape, sizeBytes, ...how });
      if (!own) continue;
      tensors.set(own.tensor, { ...outlierFile!.tensors.get(own.tensor)!, isOutliers: true });
    }
    this.tensors = tensors;
  }

  readRows(name: string, rowStart = 0, rowEnd?: number, into?: Uint8Array): Uint8Array {
    const matrix = this.#matrices.get(name);
    if (matrix === undefined) return this.#holderOf(name).readRows(name, rowStart, rowEnd, into);
    if (this.#encoded?.name !== name) this.#encoded = { name, bytes: encoded(matrix) };
    const { rows, columns, dtype } = matrix;
    const end = rowEnd ?? rows;
    const bytesPerRow = rowBytes(dtype, columns);
    if (!(rowStart >= 0 && rowStart <= end && end <= rows)) {
      throw this.#usage(name, `rows ${rowStart} to ${end} of ${rows}`);
    }
    const bytes = this.#encoded.bytes.subarray(rowStart * bytesPerRow, end * bytesPerRow);
    if (into === undefined) return bytes.slice();
    if (into.length < bytes.length) {
      throw this.#usage(name, `${bytes.length} bytes do not fit a buffer of ${into.length}`);
    }
    into.set(bytes);
    return into.subarray(0, bytes.length);
  }

  readF32(name: string): Float32Array {
    const matrix = this.#matrices.get(name);
    if (matrix === undefined) return this.#holderOf(name).readF32(name);
    return valuesOf(matrix.read());
  }

  close(): void {
    this.#encoded = null;
    this.#source.close();
    this.#outlierFile?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #int8Shape(name: string): readonly [number, number] | undefined {
    const matrix = this.#matrices.get(name);
    return matrix && this.#source.tensors.get(name)?.dtype === 'i8'
      ? [matrix.rows, matrix.columns]
      : undefined;
  }

  #holderOf(name: string): WeightSource {
    return this.tensors.get(name)?.isOutliers ? this.#outlierFile! : this.#source;
  }

  #usage(tensor: string, message: string): WeightFileError {
    return new WeightFileError(message, { fault: 'usage', file: this.path, tensor });
  }
}

function valuesOf(content: IndexedMatrix | CodebookTensor | Float32Array): Float32Array {
  if (content instanceof Float32Array) return content;
  return 'absmax' in content ? decodeCodebook(content) : dequantizeIndexed(content);
}

/** Blocks of 32 with the scale of the block of bitsandbytes that they are in. */
function codebookRows({ numElements, blockSize, packed, absmax }: CodebookTensor): Uint8Array {
  const blockBytes = rowBytes('nf4', 32);
  const out = new Uint8Array((numElements / 32) * blockBytes);
  for (let start = 0, at = 0; start < numElements; start += 32, at += blockBytes) {
    putF32(absmax[Math.floor(start / blockSize)]!, out, at);
    out.set(packed.subarray(start / 2, start / 2 + 16), at + 4);
  }
  return out;
}

/** The matrix in its block format. */
function encoded({ rows, columns, dtype, columnOrder, read }: ForeignMatrix): Uint8Array {
  const content = read();
  if (content instanceof Float32Array || dtype === 'f32') {
    const values = valuesOf(content);
    return viewBytes(values);
  }
  if ('absmax' in content) return codebookRows(content);
  const matrix =
    columnOrder === undefined ? content : withColumnsInOrder(content, columnOrder.columns);
  if (dtype === 'q8_f32') return scaledRows(matrix);
  const holder = HOLDERS.find((each) => each.dtype === dtype)!;
  const { codes, scales, zeros, groupSize } = matrix;
  const numGroups = columns / groupSize;
  const blockBytes = rowBytes(dtype, 32);
  const out = new Uint8Array((rows * columns * blockBytes) / 32);
  const block = new Int16Array(32);
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let start = 0; start < columns; start += 32, at += blockBytes) {
      const group = row * numGroups + Math.floor(start / groupSize);
      const bits = f16Bits(scales[group]!);
      out[at] = bits & 255;
      out[at + 1] = bits >> 8;
      const shift = holder.zero - zeros[group]!;
      for (let i = 0; i < 32; i++) block[i] = codes[row * columns + start + i]! + shift;
      if (dtype === 'q8_0') {
        for (let i = 0; i < 32; i++) out[at + 2 + i] = block[i]!;
        continue;
      }
      const nibbles = dtype === 'q5_0' ? at + 6 : at + 2;
      for (let i = 0; i < 16; i++) {
        out[nibbles + i] = (block[i]! & 15) | ((block[i + 16]! & 15) << 4);
      }
      if (dtype !== 'q5_0') continue;
      for (let i = 0; i < 32; i++) out[at + 2 + (i >> 3)]! |= (block[i]! >> 4) << (i & 7);
    }
  }
  return out;
}

/** 8-bit codes with the f32 scale of their group before each 32. */
function scaledRows({ rows, columns, codes, scales, zeros, groupSize }: IndexedMatrix): Uint8Array {
  const blockBytes = rowBytes('q8_f32', 32);
  const out = new Uint8Array((rows * columns * blockBytes) / 32);
  for (let start = 0, at = 0; start < rows * columns; start += 32, at += blockBytes) {
    const group = Math.floor(start / groupSize);
    putF32(scales[group]!, out, at);
    for (let i = 0; i < 32; i++) out[at + 4 + i] = codes[start + i]! - zeros[group]!;
  }
  return out;
}

function findMatrices(source: WeightSource, config: QuantizationConfig): FoundMatrices {
  const refuse = (message: string): never => {
    throw new WeightFileError(message, { fault: 'unsupported', file: source.path });
  };
  const method = String(config.quant_method ?? '');
  switch (method) {
    case 'gptq':
      return gptqMatrices(source, config, refuse);
    case 'awq':
      return awqMatrices(source, config, refuse);
    case 'compressed-tensors':
      return compressedMatrices(source, config, refuse);
    case 'bitsandbytes':
      return bitsandbytesMatrices(source, refuse);
    default:
      return refuse(
        `weights quantized by "${method}"; accepted: gptq, awq, compressed-tensors, bitsandbytes`,
      );
  }
}
