/** Rows of stored tensors as f32, some at a time, whatever they are stored as. */
import { decodeRow } from '../tensor/rows.ts';
import type { WeightSource } from '../weights/contract.ts';
import { checkFinite } from './check-finite.ts';

/** Values decoded at a time: 4 MB. */
const CHUNK_ELEMENTS = 1 << 20;

export interface RowChunk {
  readonly rowStart: number;
  readonly numRows: number;
  /** f32 [numRows, columns]; used again for the next chunk. */
  readonly values: Float32Array;
}

/** A tensor seen as a matrix: its last dimension is the inputs. */
export function matrixShape(source: WeightSource, name: string): { rows: number; columns: number } {
  const shape = source.tensors.get(name)?.shape ?? [];
  const columns = shape.at(-1) ?? 1;
  const elements = shape.reduce((product, dim) => product * dim, 1);
  return { rows: columns === 0 ? 0 : elements / columns, columns };
}

/**
 * @param chunkElements most values at a time, a row at least
 * @throws {NonFiniteWeightError} at the first weight that is NaN or infinite
 * @throws {WeightFileError} if the tensor cannot be read or decoded
 */
export function* matrixRows(
  source: WeightSource,
  name: string,
  chunkElements = CHUNK_ELEMENTS,
): Generator<RowChunk> {
  const { rows, columns } = matrixShape(source, name);
  const { dtype, shape } = source.tensors.get(name)!;
  // A stored row is all but the first dimension.
  const storedRows = shape.length > 1 ? shape[0]! : 1;
  const perStored = rows / storedRows;
  const step = Math.max(1, Math.floor(chunkElements / (columns * perStored)));
  const buffer = new Float32Array(Math.min(step, storedRows) * perStored * columns);
  for (let start = 0; start < storedRows; start += step) {
    const end = Math.min(storedRows, start + step);
    const numRows = (end - start) * perStored;
    const values = buffer.subarray(0, numRows * columns);
    decodeRow(dtype, source.readRows(name, start, end), 0, values, values.length);
    checkFinite(name, values, columns, start * perStored);
    yield { rowStart: start * perStored, numRows, values };
  }
}

/** The whole matrix, f32 [rows, columns]. */
export function readMatrix(source: WeightSource, name: string): Float32Array {
  const { rows, columns } = matrixShape(source, name);
  const whole = new Float32Array(rows * columns);
  for (const { rowStart, values } of matrixRows(source, name)) {
    whole.set(values, rowStart * columns);
  }
  return whole;
}
