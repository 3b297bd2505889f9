/** Stored rows → blocks of another type, with or without an importance of the channels. Knows nothing of threads and files. */
import { type DType, rowBytes } from '../tensor/dtype.ts';
import { decodeRow, encodeRow, encodeRowWeighted } from '../tensor/rows.ts';
import { checkFinite } from './check-finite.ts';
import type { EncodeKernels } from './encode-kernels.ts';

export interface RowsToEncode {
  /** For errors; and the first of these rows in it. */
  readonly tensor: string;
  readonly firstRow: number;
  readonly from: DType;
  readonly to: DType;
  /** Rows of `from`, one after another. */
  readonly stored: Uint8Array;
  readonly columns: number;
  /** What the error of each input counts, f32 [columns]; null where all count alike. */
  readonly channels: Float32Array | null;
}

/** Rows that `stored` has. */
export function numRowsOf({ from, stored, columns }: RowsToEncode): number {
  return stored.length / rowBytes(from, columns);
}

/** Decoded, f32 [to - first, columns] into `out`. @throws {NonFiniteWeightError} */
export function decodeRows(
  { tensor, firstRow, from, stored, columns }: RowsToEncode,
  { first, end }: { readonly first: number; readonly end: number },
  out: Float32Array,
): void {
  const elements = (end - first) * columns;
  decodeRow(from, stored, first * rowBytes(from, columns), out, elements);
  checkFinite(tensor, out.subarray(0, elements), columns, firstRow + first);
}

/**
 * @param kernels that do it where they can; null for none. The bytes are the same.
 * @returns as many rows of `to`
 * @throws {NonFiniteWeightError} at the first weight that is NaN or infinite
 */
export function encodeRows(rows: RowsToEncode, kernels: EncodeKernels | null): Uint8Array {
  return kernels?.encode(rows) ?? encodePlainly(rows);
}

function encodePlainly(rows: RowsToEncode): Uint8Array {
  const { to, columns, channels } = rows;
  const numRows = numRowsOf(rows);
  const values = new Float32Array(numRows * columns);
  decodeRows(rows, { first: 0, end: numRows }, values);
  const bytesPerRow = rowBytes(to, columns);
  const encoded = new Uint8Array(numRows * bytesPerRow);
  if (channels === null) {
    encodeRow(to, values, values.length, encoded);
    return encoded;
  }
  for (let row = 0; row < numRows; row++) {
    const x = values.subarray(row * columns, (row + 1) * columns);
    encodeRowWeighted(to, x, channels, encoded, row * bytesPerRow);
  }
  return encoded;
}
