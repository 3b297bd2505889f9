/**
 * The weights of a matrix while GPTQ rounds its columns one after another (gptq.ts): transposed and in the order of rounding, so that the rows of a column, which do
 * not depend on each other, lie side by side. Knows nothing of where order, grids and the factor come from.
 */
import { ROW_GROUP } from '../kernels/packed-format.ts';
import { roundColumnsKernel, STORED_CODE_OFFSET } from '../kernels/round-columns.ts';
import { codeOf, type QuantizedMatrix } from './group-quantizer.ts';
import {
  addressOf,
  IN_PLACE_INPUTS,
  type Matrix,
  type MatrixMath,
  type PackedMatrix,
  packTransposed,
  paddedColumns,
} from './matrix-math.ts';

/** Columns that are rounded in one go; of those behind them products are cheaper. */
export const MOST_COLUMNS = IN_PLACE_INPUTS;

export class ColumnRounder implements Disposable {
  readonly #math: MatrixMath;
  readonly #matrix: QuantizedMatrix;
  readonly #permutation: Uint32Array;
  /** What is still to be rounded, with what rounding has moved, f32 [columns, rows]; room for a product that begins at any column. */
  readonly #values: Matrix;
  /** Of groups, f32 [groups, rows]. */
  readonly #scales: Matrix;
  readonly #zeros: Matrix;
  /** Where the group of a column begins in these, in bytes: i32 [columns]. */
  readonly #groups: Matrix;
  /** Of the columns rounded last, what is to be added to those behind them: rows by columns. */
  readonly #errors: PackedMatrix;
  /** i8 [columns, rows], less `STORED_CODE_OFFSET`. */
  readonly #codes: Matrix;

  /**
   * @param weights f32 [rows, columns]
   * @param matrix whose codes are to be found; its grid may still be unknown (`takeGrid`)
   * @param permutation the column that is rounded as the i-th
   */
  constructor(
    math: MatrixMath,
    weights: Matrix,
    matrix: QuantizedMatrix,
    permutation: Uint32Array,
  ) {
    const { rows, columns, groupSize } = matrix;
    this.#math = math;
    this.#matrix = matrix;
    this.#permutation = permutation;
    this.#values = math.matrix(paddedColumns(columns) + ROW_GROUP, rows);
    this.#scales = math.matrix(columns / groupSize, rows);
    this.#zeros = math.matrix(columns / groupSize, rows);
    this.#groups = math.matrix(1, columns);
    this.#errors = math.packed(rows, MOST_COLUMNS);
    this.#codes = math.matrix(columns, Math.ceil(rows / 4));
    const groups = int32(this.#groups);
    for (let i = 0; i < columns; i++) {
      groups[i] = 4 * Math.floor(permutation[i]! / groupSize) * this.#scales.stride;
    }
    transpose(weights, this.#values, permutation);
  }

  /** Weights of the i-th column become 0, whatever its group. */
  clear(i: number): void {
    const { values, stride } = this.#values;
    values.fill(0, i * stride, (i + 1) * stride);
  }

  /** What columns from the i-th on have become, one row's. */
  read(row: number, i: number, into: Float32Array): void {
    const { values, stride } = this.#values;
    for (let j = 0; j < into.length; j++) into[j] = values[(i + j) * stride + row]!;
  }

  /** Takes over what `matrix` says about a group; before columns of it are rounded. */
  takeGrid(group: number): void {
    const { rows, columns, groupSize, scales, zeros } = this.#matrix;
    const numGroups = columns / groupSize;
    const at = group * this.#scales.stride;
    for (let row = 0; row < rows; row++) {
      this.#scales.values[at + row] = scales[row * numGroups + group]!;
      this.#zeros.values[at + row] = zeros[row * numGroups + group]!;
    }
  }

  /**
   * Rounds the columns [start, end), at most `MOST_COLUMNS`, and moves all behind them.
   *
   * @param u of gptq.ts, f32 [columns, columns]
   */
  round(start: number, end: number, u: Matrix): void {
    const count = end - start;
    if (this.#math.kernels === null) this.#roundPlainly(start, count, u);
    else this.#roundOn(this.#math.kernels, start, count, u);
    const { rows, columns } = this.#matrix;
    const n = columns - end;
    if (n === 0) return;
    using factor = this.#math.packed(n, count);
    packTransposed(factor, 0, u, { row: start, column: end, count });
    this.#math.multiplyPacked({
      ...{ a: factor, b: this.#errors, m: n, n: rows, k: count },
      ...{ out: this.#values, outRow: end, residual: this.#values },
    });
  }

  #roundOn(
    kernels: NonNullable<MatrixMath['kernels']>,
    start: number,
    count: number,
    u: Matrix,
  ): void {
    const { rows, bits } = this.#matrix;
    const numUnits = (ROW_GROUP * Math.ceil(rows / ROW_GROUP)) / kernels.machine.lanes;
    kernels.run('roundColumns', roundColumnsKernel, numUnits, {
      values: addressOf(this.#values, start, 0),
      stride: BigInt(4 * this.#values.stride),
      factor: addressOf(u, start, start),
      factorStride: BigInt(4 * u.stride),
      scales: this.#scales.address,
      zeros: this.#zeros.address,
      groups: addressOf(this.#groups, 0, start),
      errors: this.#errors.address,
      errorStride: BigInt(4 * ROW_GROUP * this.#errors.capacity),
      codes: addressOf(this.#codes, start, 0),
      codeStride: BigInt(4 * this.#codes.stride),
      levels: BigInt(2 ** bits - 1),
      numColumns: BigInt(count),
    });
  }

  #roundPlainly(start: number, count: number, u: Matrix): void {
    const { rows, bits } = this.#matrix;
    const { values, stride } = this.#values;
    const { values: errors, capacity } = this.#errors;
    const groups = int32(this.#groups);
    const codes = int8(this.#codes);
    for (let row = 0; row < rows; row++) {
      const errorsAt = Math.floor(row / ROW_GROUP) * ROW_GROUP * capacity + (row % ROW_GROUP);
      for (let i = 0; i < count; i++) {
        let weight = values[(start + i) * stride + row]!;
        for (let k = 0; k < i; k++) {
          weight +=
            errors[errorsAt + k * ROW_GROUP]! * u.values[(start + k) * u.stride + start + i]!;
        }
        const params = groups[start + i]! / 4 + row;
        const scale = this.#scales.values[params]!;
        const zero = this.#zeros.values[params]!;
        const code = codeOf(weight, scale, zero, 2 ** bits - 1);
        codes[(start + i) * 4 * this.#codes.stride + row] = code - STORED_CODE_OFFSET;
        const diagonal = u.values[(start + i) * u.stride + start + i]!;
        errors[errorsAt + i * ROW_GROUP] = (scale * (code - zero) - weight) / diagonal;
      }
    }
  }

  /** Puts the codes of all columns into the matrix. */
  finish(): void {
    const { rows, columns, codes } = this.#matrix;
    const from = int8(this.#codes);
    const stride = 4 * this.#codes.stride;
    forTiles(rows, columns, (row, end, i) => {
      const into = this.#permutation[i]!;
      for (let r = row; r < end; r++) {
        codes[r * columns + into] = from[i * stride + r]! + STORED_CODE_OFFSET;
      }
    });
  }

  [Symbol.dispose](): void {
    for (const each of [
      ...[this.#values, this.#scales, this.#zeros],
      ...[this.#groups, this.#errors, this.#codes],
    ]) {
      each[Symbol.dispose]();
    }
  }
}

/** into[i][row] = from[row][permutation[i]] */
function transpose(from: Matrix, into: Matrix, permutation: Uint32Array): void {
  const { values, stride } = into;
  const { values: source, stride: sourceStride } = from;
  forTiles(from.rows, permutation.length, (row, end, i) => {
    const column = permutation[i]!;
    for (let r = row; r < end; r++) values[i * stride + r] = source[r * sourceStride + column]!;
  });
}

/** Calls `visit` with some rows of a column at a time, such that both orders stay in the cache. */
function forTiles(
  rows: number,
  columns: number,
  visit: (row: number, end: number, i: number) => void,
): void {
  const tile = 32;
  for (let row = 0; row < rows; row += tile) {
    const end = Math.min(rows, row + tile);
    for (let i = 0; i < columns; i++) visit(row, end, i);
  }
}

function int32({ values }: Matrix): Int32Array {
  return new Int32Array(values.buffer, values.byteOffset, values.length);
}

function int8({ values }: Matrix): Int8Array {
  return new Int8Array(values.buffer, values.byteOffset, values.byteLength);
}
