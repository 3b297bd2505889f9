/** What a change of a linear's weights does to its outputs over the calibration text, from the second moments of its inputs. */

import { ROW_GROUP } from '../kernels/packed-format.ts';
import { dequantize, type QuantizedMatrix, rowsOf } from '../tensor/quantized-matrix.ts';
import type { Matrix, MatrixMath, PackedMatrix } from './matrix-math.ts';

/** Rows that errors are taken from: of all rows it would take as long as the rounding itself. */
const MOST_ROWS = 512;

/** Columns of a product with a triangle that are done in one: what is 0 within them is wasted work. */
const COLUMNS_AT_ONCE = 256;

/** Mean of |W x|² over the inputs: trace(W M Wᵀ), with what M has below its diagonal added to what it has above. */
export class OutputNorm implements Disposable {
  readonly #math: MatrixMath;
  readonly #columns: number;
  readonly #packed: PackedMatrix;

  /** @param moments of the inputs; not looked at again */
  constructor(math: MatrixMath, moments: Matrix) {
    this.#math = math;
    this.#columns = moments.columns;
    this.#packed = math.packed(moments.columns, moments.columns);
    packTriangle(this.#packed, moments);
  }

  of(weights: Matrix): number {
    const { rows, values, stride } = weights;
    const n = this.#columns;
    using products = this.#math.matrix(rows, n);
    for (let first = 0; first < n; first += COLUMNS_AT_ONCE) {
      const end = Math.min(n, first + COLUMNS_AT_ONCE);
      this.#math.multiply({
        ...{ a: weights, b: this.#packed, bRow: first, m: rows, n: end - first, k: end },
        ...{ out: products, outColumn: first },
      });
    }
    let sum = 0;
    for (let row = 0; row < rows; row++) {
      for (let j = 0; j < n; j++) {
        sum += products.values[row * products.stride + j]! * values[row * stride + j]!;
      }
    }
    return sum;
  }

  [Symbol.dispose](): void {
    this.#packed[Symbol.dispose]();
  }
}

/** into(n, k) = from(k, n) on the diagonal, twice that above it. */
function packTriangle({ values, capacity }: PackedMatrix, from: Matrix): void {
  const source = from.values;
  const { columns, stride } = from;
  for (let n = 0; n < columns; n += ROW_GROUP) {
    for (let k = 0; k < Math.min(columns, n + ROW_GROUP); k++) {
      const s = k * stride + n;
      const d = n * capacity + k * ROW_GROUP;
      const diagonal = k - n;
      for (let r = Math.max(0, diagonal); r < ROW_GROUP; r++) {
        values[d + r] = r === diagonal ? source[s + r]! : 2 * source[s + r]!;
      }
    }
  }
}

/** Rows of a linear before it is rounded, evenly spread over all of them. */
export class RowSample implements Disposable {
  readonly #math: MatrixMath;
  readonly #rows: readonly number[];
  /** f32 [at most 512, columns] */
  readonly values: Matrix;

  constructor(math: MatrixMath, { rows, columns, stride, values }: Matrix) {
    this.#math = math;
    const count = Math.min(rows, MOST_ROWS);
    this.#rows = Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * rows) / count));
    this.values = math.matrix(count, columns);
    for (const [i, row] of this.#rows.entries()) {
      const from = row * stride;
      this.values.values.set(values.subarray(from, from + stride), i * stride);
    }
  }

  /** mean |(W - Q) x|² / mean |W x|² of these rows. */
  relativeError(quantized: QuantizedMatrix, moments: Matrix): number {
    const before = this.values;
    using norm = new OutputNorm(this.#math, moments);
    const whole = norm.of(before);
    if (whole <= 0) return 0;
    const { columns } = quantized;
    using difference = this.#math.matrix(before.rows, columns);
    for (const [i, row] of this.#rows.entries()) {
      const at = i * before.stride;
      const values = dequantize(rowsOf(quantized, row, row + 1));
      for (let j = 0; j < columns; j++) {
        difference.values[at + j] = before.values[at + j]! - values[j]!;
      }
    }
    return norm.of(difference) / whole;
  }

  [Symbol.dispose](): void {
    this.values[Symbol.dispose]();
  }
}
