/** How the reference target keeps activations. Knows no op. */
import { Q8_BLOCK_SIZE } from '../../graph/op-rules.ts';

/** Rows of f32 in a larger array: row r is `data[offset + r * stride ..][0 .. width)`. A column range of another value is such a view. */
export interface F32Rows {
  readonly data: Float32Array;
  readonly offset: number;
  readonly stride: number;
  readonly width: number;
}

/** Rows of q8 blocks of 32: value i of row r is `codes[r * width + i] * scales[(r * width + i) / 32 | 0]`. */
export interface Q8Rows {
  readonly width: number;
  /** i8 [rows, width] */
  readonly codes: Int8Array;
  /** f32 [rows, width / 32] */
  readonly scales: Float32Array;
  /** Sum of the codes of each block, i32 [rows, width / 32] */
  readonly sums: Int32Array;
  /** Columns that are 0 in the codes, as they are: f32 [rows, number of them] */
  readonly outliers: F32Rows;
}

export function createF32Rows(numRows: number, width: number): F32Rows {
  return { data: new Float32Array(numRows * width), offset: 0, stride: width, width };
}

/** @param width a multiple of 32 */
export function createQ8Rows(numRows: number, width: number, numOutliers = 0): Q8Rows {
  const numBlocks = (numRows * width) / Q8_BLOCK_SIZE;
  return {
    width,
    codes: new Int8Array(numRows * width),
    scales: new Float32Array(numBlocks),
    sums: new Int32Array(numBlocks),
    outliers: createF32Rows(numRows, numOutliers),
  };
}

/** Columns [start, start + length) of all rows, without a copy. */
export function columnRange(rows: F32Rows, start: number, length: number): F32Rows {
  return { ...rows, offset: rows.offset + start, width: length };
}
