/**
 * What the rest of the project knows of a model's weights: named tensors, readable by rows, whatever file they come from.
 * Knows nothing of any file format.
 */
import type { StringList } from '../platform/string-list.ts';
import type { ColumnOrder } from '../tensor/column-order.ts';
import type { DType } from '../tensor/dtype.ts';

/** One homogeneous GGUF array; a reader gives numbers as the typed array of their stored type, and strings as a `StringList`. */
export type GgufArray =
  | StringList
  | readonly string[]
  | readonly boolean[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array
  | readonly GgufArray[];

/** A GGUF metadata value. 64-bit integers are numbers where a double holds them exactly, else bigints. */
export type GgufValue = string | number | bigint | boolean | GgufArray;

export interface WeightTensor {
  readonly name: string;
  readonly dtype: DType;
  /** Row-major, outermost first, so `[out, in]` for a matrix (GGUF's dims reversed). */
  readonly shape: readonly number[];
  readonly sizeBytes: number;
  /** Of a matrix whose stored columns stand in an order of their own. Who wants the matrix itself sees it through `natural-order.ts`. */
  readonly columnOrder?: ColumnOrder;
  /** Of a matrix in 8 bits that has some. */
  readonly outliers?: OutlierColumns;
  /** The tensor that holds them: what is in it is in the matrix already, less exactly. */
  readonly isOutliers?: true;
}

/** Input columns of a matrix that int8 products leave out. */
export interface OutlierColumns {
  /** Ascending. */
  readonly columns: readonly number[];
  /** Name of the float tensor `[rows, columns.length]` with the weights of these columns. */
  readonly tensor: string;
}

export interface WeightSource extends Disposable {
  readonly format: 'gguf' | 'safetensors';
  /** What the user named. */
  readonly path: string;
  /** All files it consists of. */
  readonly files: readonly string[];
  /** Of all files together. */
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  /** GGUF metadata; empty for safetensors. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /**
   * Reads rows `[rowStart, rowEnd)` of the tensor seen as `[shape[0], rest]` as stored bytes, columns in `columnOrder`. A 1-D tensor (or a scalar) is one row.
   *
   * Positioned reads (pread), never mmap: a source truncated under a mapping would be a SIGBUS.
   *
   * @param into where the bytes go; a new array where left out
   * @returns the bytes read: a view of the beginning of `into`, of exactly the rows' size
   * @throws {WeightFileError} if there is no such tensor, the rows are out of range, `into` is too short, the file has become shorter, or the source is closed
   */
  readRows(name: string, rowStart?: number, rowEnd?: number, into?: Uint8Array): Uint8Array;
  /**
   * The whole tensor decoded to f32, columns in their natural order; for small tensors (norms, biases).
   *
   * @throws {WeightFileError} as readRows, and if its dtype cannot be decoded
   */
  readF32(name: string): Float32Array;
  /** Closes the files; may be called again. */
  close(): void;
}
