/** A weight source seen through f32: every float or quantized tensor as its decoded values, some of them replaced. What calibration and comparisons run on. */
import { DTYPES } from '../tensor/dtype.ts';
import { dequantize, type QuantizedMatrix, rowsOf } from '../tensor/quantized-matrix.ts';
import { decodeRow } from '../tensor/rows.ts';
import type { GgufValue, WeightSource, WeightTensor } from '../weights/contract.ts';
import { inNaturalOrder } from '../weights/natural-order.ts';
import { CompressError } from './errors.ts';

export class F32Weights implements WeightSource {
  readonly format: WeightSource['format'];
  readonly path: string;
  /** None: what is here is no longer what the files hold, so nothing may be cached under their names. */
  readonly files: readonly string[] = [];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly #source: WeightSource;
  readonly #replaced = new Map<string, Float32Array>();
  /** Likewise replaced, kept as codes: an eighth of the memory of their values at 4 bits. */
  readonly #quantized = new Map<string, QuantizedMatrix>();

  /** Does not take `stored` over: closing is left to its owner. */
  constructor(stored: WeightSource) {
    const source = inNaturalOrder(stored);
    this.#source = source;
    this.format = source.format;
    this.path = source.path;
    this.metadata = source.metadata;
    const tensors = new Map<string, WeightTensor>();
    for (const tensor of source.tensors.values()) {
      const isWeight = DTYPES[tensor.dtype].kind !== 'integer';
      const elements = tensor.shape.reduce((product, dim) => product * dim, 1);
      tensors.set(
        tensor.name,
        isWeight ? { ...tensor, dtype: 'f32', sizeBytes: 4 * elements } : tensor,
      );
    }
    this.tensors = tensors;
    this.sizeBytes = [...tensors.values()].reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  }

  /** The same source with nothing replaced. */
  original(): F32Weights {
    return new F32Weights(this.#source);
  }

  /** Names of tensors that have been replaced by values, with these. */
  get replaced(): ReadonlyMap<string, Float32Array> {
    return this.#replaced;
  }

  /** From now on `values` stand for the tensor; they are not copied. */
  replace(name: string, values: Float32Array): void {
    this.#checkFits(name, values.length);
    this.#quantized.delete(name);
    this.#replaced.set(name, values);
  }

  /** From now on the values of `matrix` stand for the tensor; it is not copied. */
  replaceByCodes(name: string, matrix: QuantizedMatrix): void {
    this.#checkFits(name, matrix.codes.length);
    this.#replaced.delete(name);
    this.#quantized.set(name, matrix);
  }

  #checkFits(name: string, elements: number): void {
    const tensor = this.tensors.get(name);
    if (tensor !== undefined && 4 * elements === tensor.sizeBytes) return;
    throw new CompressError(`tensor "${name}": ${elements} values do not fit it`, { tensor: name });
  }

  /** The stored values stand for the tensor again. */
  restore(name: string): void {
    this.#replaced.delete(name);
    this.#quantized.delete(name);
  }

  readRows(name: string, rowStart = 0, rowEnd?: number, into?: Uint8Array): Uint8Array {
    const tensor = this.tensors.get(name);
    if (tensor?.dtype !== 'f32') return this.#source.readRows(name, rowStart, rowEnd, into);
    const numRows = tensor.shape.length > 1 ? tensor.shape[0]! : 1;
    const width = tensor.sizeBytes / 4 / numRows;
    const end = rowEnd ?? numRows;
    const elements = (end - rowStart) * width;
    const given = this.#replaced.get(name);
    const codes = this.#quantized.get(name);
    let values: Float32Array;
    if (codes !== undefined) {
      values = dequantize(rowsOf(codes, rowStart, end));
    } else if (given === undefined) {
      values = new Float32Array(elements);
      const { dtype } = this.#source.tensors.get(name)!;
      decodeRow(dtype, this.#source.readRows(name, rowStart, end), 0, values, elements);
    } else {
      values = given.subarray(rowStart * width, end * width);
    }
    const bytes = new Uint8Array(values.buffer, values.byteOffset, 4 * elements);
    if (into === undefined) return bytes.slice();
    into.set(bytes);
    return into.subarray(0, bytes.length);
  }

  readF32(name: string): Float32Array {
    const codes = this.#quantized.get(name);
    if (codes !== undefined) return dequantize(codes);
    const given = this.#replaced.get(name);
    return given === undefined ? this.#source.readF32(name) : given.slice();
  }

  close(): void {}

  [Symbol.dispose](): void {}
}
