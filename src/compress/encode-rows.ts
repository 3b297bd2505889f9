/** Rows of f32 → stored blocks of a type, with or without an importance of the channels. Knows nothing of threads and files. */
import { type DType, rowBytes } from '../tensor/dtype.ts';
import { encodeRow, encodeRowWeighted } from '../tensor/rows.ts';
import type { EncodeKernels } from './encode-kernels.ts';

export interface RowsToEncode {
  readonly to: DType;
  /** f32 [numRows, columns] */
  readonly values: Float32Array;
  readonly columns: number;
  /** What the error of each input counts, f32 [columns]; null where all count alike. */
  readonly channels: Float32Array | null;
}

/**
 * @param kernels that do it where they can; null for none. The bytes are the same.
 * @returns numRows rows of blocks
 */
export function encodeRows(rows: RowsToEncode, kernels: EncodeKernels | null): Uint8Array {
  return kernels?.encode(rows) ?? encodePlainly(rows);
}

function encodePlainly({ to, values, columns, channels }: RowsToEncode): Uint8Array {
  const numRows = values.length / columns;
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
