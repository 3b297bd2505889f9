/**
 * A GGUF model with its matrices encoded again as Q4_0: every tensor of one quantized type is decoded and encoded, the rest and the metadata
 * are copied as they are. Knows nothing of architectures.
 */

import { type DType, rowBytes } from '../../src/tensor/dtype.ts';
import { decodeRow, encodeRow } from '../../src/tensor/rows.ts';
import type { WeightSource } from '../../src/weights/contract.ts';
import { readGgufHeader } from '../../src/weights/gguf-header.ts';
import { type TensorToWrite, writeGguf } from '../../src/weights/gguf-writer.ts';
import { PositionedFile } from '../../src/weights/positioned-file.ts';
import { openWeights } from '../../src/weights/weight-source.ts';

const FILE_TYPE_Q4_0 = 2;
const ROWS_AT_ONCE = 256;

export interface RequantizeOptions {
  /** Tensors of this type are encoded again, such as `q4_1`. */
  readonly from: DType;
  readonly to: 'q4_0' | 'q8_0';
}

/**
 * @returns size of the new file in bytes
 * @throws {WeightFileError} if `source` is no sound GGUF file
 * @throws {Error} if no tensor has the type `from`
 */
export async function requantizeGguf(
  source: string,
  path: string,
  { from, to }: RequantizeOptions,
): Promise<number> {
  using weights = openWeights(source);
  const tensors = [...weights.tensors.values()].map((tensor): TensorToWrite => {
    const { name, dtype, shape } = tensor;
    if (dtype !== from) return { name, dtype, shape, data: () => copiedRows(weights, name) };
    return { name, dtype: to, shape, data: () => encodedRows(weights, name, to) };
  });
  if (!tensors.some((tensor, i) => tensor.dtype !== [...weights.tensors.values()][i]!.dtype)) {
    throw new Error(`${source}: no tensor is ${from}; nothing to encode as ${to}`);
  }
  // With their stored types: a plain 100000 does not say that it is an f32.
  using file = new PositionedFile(source);
  const metadata = new Map(readGgufHeader(file).entries);
  metadata.set('general.file_type', { type: 'u32', value: FILE_TYPE_Q4_0 });
  return await writeGguf(path, { metadata, tensors });
}

function* copiedRows(weights: WeightSource, name: string): Generator<Uint8Array> {
  for (const [begin, end] of rowRanges(weights, name)) yield weights.readRows(name, begin, end);
}

function* encodedRows(weights: WeightSource, name: string, to: DType): Generator<Uint8Array> {
  const { dtype, shape } = weights.tensors.get(name)!;
  const columns = shape.at(-1)!;
  const values = new Float32Array(ROWS_AT_ONCE * columns);
  const encoded = new Uint8Array(rowBytes(to, values.length));
  for (const [begin, end] of rowRanges(weights, name)) {
    const elements = (end - begin) * columns;
    decodeRow(dtype, weights.readRows(name, begin, end), 0, values, elements);
    encodeRow(to, values, elements, encoded);
    yield encoded.subarray(0, rowBytes(to, elements));
  }
}

function* rowRanges(weights: WeightSource, name: string): Generator<[number, number]> {
  const { shape } = weights.tensors.get(name)!;
  const numRows = shape.length > 1 ? shape[0]! : 1;
  for (let begin = 0; begin < numRows; begin += ROWS_AT_ONCE) {
    yield [begin, Math.min(numRows, begin + ROWS_AT_ONCE)];
  }
}
