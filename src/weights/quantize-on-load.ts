/**
 * A model stored in floats, seen as if its matrices were quantized: rows are read, decoded and encoded as they are asked for, so that nothing of the floats
 * is kept. Knows nothing of which matrices a model has; it is told the format of each.
 */
import { DTYPES, type DType, rowBytes } from '../tensor/dtype.ts';
import { decodeRow, encodeRow } from '../tensor/rows.ts';
import type { GgufValue, WeightSource, WeightTensor } from './contract.ts';
import { WeightFileError } from './errors.ts';

/** Values encoded at a time: 1 MB. */
const CHUNK_ELEMENTS = 1 << 18;

export class QuantizedOnLoad implements WeightSource {
  readonly format: WeightSource['format'];
  readonly path: string;
  readonly files: readonly string[];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly #source: WeightSource;
  /** Tensors that are encoded, as they are stored. */
  readonly #encoded = new Map<string, WeightTensor>();

  /**
   * Takes over `source`: it is closed with this.
   *
   * @param formatOf the format of a matrix; null leaves it as it is, and so does one that its rows do not fit. Not asked of what is no float matrix.
   */
  constructor(source: WeightSource, formatOf: (tensor: WeightTensor) => DType | null) {
    this.#source = source;
    this.format = source.format;
    this.path = source.path;
    this.files = source.files;
    this.metadata = source.metadata;
    const tensors = new Map<string, WeightTensor>();
    let saved = 0;
    for (const tensor of source.tensors.values()) {
      const { name, shape } = tensor;
      const isFloat = DTYPES[tensor.dtype].kind === 'float' && !tensor.isOutliers;
      const isMatrix = shape.length === 2 && isFloat;
      const dtype = isMatrix ? formatOf(tensor) : null;
      if (dtype === null || shape[1]! % DTYPES[dtype].blockElements !== 0) {
        tensors.set(name, tensor);
        continue;
      }
      const sizeBytes = shape[0]! * rowBytes(dtype, shape[1]!);
      saved += tensor.sizeBytes - sizeBytes;
      tensors.set(name, { ...tensor, dtype, sizeBytes });
      this.#encoded.set(name, tensor);
    }
    this.tensors = tensors;
    this.sizeBytes = source.sizeBytes - saved;
  }

  /** Whether any tensor is encoded. */
  get hasEncoded(): boolean {
    return this.#encoded.size > 0;
  }

  /** @throws {WeightFileError} as its contract says, and if a weight to be encoded is NaN or infinite */
  readRows(name: string, rowStart = 0, rowEnd?: number, into?: Uint8Array): Uint8Array {
    const stored = this.#encoded.get(name);
    if (stored === undefined) return this.#source.readRows(name, rowStart, rowEnd, into);
    const [rows, columns] = stored.shape as readonly [number, number];
    const end = rowEnd ?? rows;
    const { dtype } = this.tensors.get(name)!;
    const bytesPerRow = rowBytes(dtype, columns);
    const size = Math.max(0, end - rowStart) * bytesPerRow;
    const out = into ?? new Uint8Array(size);
    if (out.length < size) {
      throw new WeightFileError(`${size} bytes do not fit a buffer of ${out.length}`, {
        ...{ fault: 'usage', file: this.path, tensor: name },
      });
    }
    const step = Math.max(1, Math.floor(CHUNK_ELEMENTS / columns));
    const values = new Float32Array(Math.min(step, Math.max(0, end - rowStart)) * columns);
    for (let row = rowStart; row < end; row += step) {
      const count = Math.min(step, end - row) * columns;
      decodeRow(
        stored.dtype,
        this.#source.readRows(name, row, row + count / columns),
        0,
        values,
        count,
      );
      this.#checkFinite(name, values, count, row, columns);
      encodeRow(dtype, values, count, out, (row - rowStart) * bytesPerRow);
    }
    return out.subarray(0, size);
  }

  readF32(name: string): Float32Array {
    const stored = this.#encoded.get(name);
    if (stored === undefined) return this.#source.readF32(name);
    const values = new Float32Array(stored.shape[0]! * stored.shape[1]!);
    decodeRow(this.tensors.get(name)!.dtype, this.readRows(name), 0, values, values.length);
    return values;
  }

  close(): void {
    this.#source.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #checkFinite(
    name: string,
    values: Float32Array,
    count: number,
    firstRow: number,
    columns: number,
  ): void {
    for (let i = 0; i < count; i++) {
      // x - x is 0 for every finite x and NaN for the others.
      if (values[i]! - values[i]! === 0) continue;
      const at = `[${firstRow + Math.floor(i / columns)}, ${i % columns}]`;
      throw new WeightFileError(`element ${at} is ${values[i]} and cannot be quantized`, {
        ...{ fault: 'corrupt', file: this.path, tensor: name },
      });
    }
  }
}
