/**
 * The one implementation of WeightSource: a table of tensors, each a range of bytes in one of several open files. The formats fill
 * the table (gguf-source.ts, safetensors-source.ts) and have checked every range; this reads it.
 */
import { rowBytes } from '../tensor/dtype.ts';
import { DTypeError } from '../tensor/errors.ts';
import { decodeRow } from '../tensor/rows.ts';
import type { GgufValue, WeightSource, WeightTensor } from './contract.ts';
import { quoted, WeightFileError } from './errors.ts';
import type { PositionedFile } from './positioned-file.ts';
import { rowsOf } from './shape.ts';

/** Where a tensor lies. */
export interface TensorPlace {
  readonly tensor: WeightTensor;
  readonly file: PositionedFile;
  /** From the start of `file`. */
  readonly position: number;
}

/** Stored bytes that readF32 holds at once. */
const DECODE_CHUNK_BYTES = 4 * 1024 * 1024;

export class TensorReader implements WeightSource {
  readonly format: 'gguf' | 'safetensors';
  readonly path: string;
  readonly files: readonly string[];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly #files: readonly PositionedFile[];
  readonly #places: ReadonlyMap<string, TensorPlace>;

  /** Takes over `files`: they are closed with the reader. */
  constructor(options: {
    format: 'gguf' | 'safetensors';
    path: string;
    files: readonly PositionedFile[];
    places: readonly TensorPlace[];
    metadata?: ReadonlyMap<string, GgufValue>;
  }) {
    this.format = options.format;
    this.path = options.path;
    this.#files = options.files;
    this.files = options.files.map((file) => file.path);
    this.sizeBytes = options.files.reduce((sum, file) => sum + file.sizeBytes, 0);
    this.#places = new Map(options.places.map((place) => [place.tensor.name, place]));
    this.tensors = new Map(options.places.map(({ tensor }) => [tensor.name, tensor]));
    this.metadata = options.metadata ?? new Map();
  }

  readRows(name: string, rowStart = 0, rowEnd?: number, into?: Uint8Array): Uint8Array {
    const { tensor, file, position } = this.#placeOf(name);
    const { numRows, rowElements } = rowsOf(tensor.shape);
    const end = rowEnd ?? numRows;
    const fail = (message: string, values: Record<string, number>) =>
      new WeightFileError(message, { fault: 'usage', file: file.path, tensor: name, values });
    const isRange =
      Number.isInteger(rowStart) && Number.isInteger(end) && rowStart >= 0 && rowStart <= end;
    if (!isRange || end > numRows) {
      throw fail(`rows ${rowStart} to ${end} asked; it has ${numRows}`, {
        rowStart,
        rowEnd: end,
        numRows,
      });
    }
    const bytesPerRow = rowBytes(tensor.dtype, rowElements);
    const length = (end - rowStart) * bytesPerRow;
    if (into !== undefined && into.length < length) {
      throw fail(`${length} bytes asked into an array of ${into.length}`, {
        bytes: length,
        intoBytes: into.length,
      });
    }
    const target =
      into?.subarray(0, length) ?? allocate(() => new Uint8Array(length), fail, length);
    file.readInto(target, position + rowStart * bytesPerRow, name);
    return target;
  }

  readF32(name: string): Float32Array {
    const { tensor, file, position } = this.#placeOf(name);
    const elements = tensor.shape.reduce((a, b) => a * b, 1);
    const fail = (message: string, values: Record<string, number>) =>
      new WeightFileError(message, { fault: 'usage', file: file.path, tensor: name, values });
    const out = allocate(() => new Float32Array(elements), fail, elements * 4);
    const rowElements = tensor.shape.at(-1) ?? 1;
    try {
      // Chunks of whole innermost rows, which are whole blocks.
      const bytesPerRow = rowBytes(tensor.dtype, rowElements);
      const chunkRows = Math.max(1, Math.floor(DECODE_CHUNK_BYTES / Math.max(1, bytesPerRow)));
      const numRows = elements === 0 ? 0 : elements / rowElements;
      const chunk = new Uint8Array(Math.min(chunkRows, numRows) * bytesPerRow);
      for (let row = 0; row < numRows; row += chunkRows) {
        const rows = Math.min(chunkRows, numRows - row);
        const bytes = chunk.subarray(0, rows * bytesPerRow);
        file.readInto(bytes, position + row * bytesPerRow, name);
        decodeRow(tensor.dtype, bytes, 0, out, rows * rowElements, row * rowElements);
      }
      // Also where it has no rows, so that the answer does not depend on the shape.
      if (numRows === 0) decodeRow(tensor.dtype, chunk, 0, out, 0);
    } catch (error) {
      if (!(error instanceof DTypeError)) throw error;
      throw new WeightFileError(error.message, {
        fault: 'unsupported',
        file: file.path,
        tensor: name,
        cause: error,
      });
    }
    return out;
  }

  close(): void {
    for (const file of this.#files) file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #placeOf(name: string): TensorPlace {
    const place = this.#places.get(name);
    if (place === undefined) {
      throw new WeightFileError(
        `has no tensor ${quoted(name)}; it has ${this.#places.size}${exampleNames(this.#places)}`,
        { fault: 'usage', file: this.path, values: { name, numTensors: this.#places.size } },
      );
    }
    return place;
  }
}

function exampleNames(places: ReadonlyMap<string, TensorPlace>): string {
  const names = [...places.keys()].slice(0, 3).map(quoted);
  return names.length === 0 ? '' : ` (${names.join(', ')}${places.size > 3 ? ', ...' : ''})`;
}

/** Allocates, or says that this much cannot be had. */
function allocate<T>(
  make: () => T,
  fail: (message: string, values: Record<string, number>) => WeightFileError,
  bytes: number,
): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw fail(`${bytes} bytes cannot be held in one array; read it in ranges of rows`, { bytes });
  }
}
