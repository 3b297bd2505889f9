/**
 * The factor that GPTQ walks along: the upper triangular U with H⁻¹ = Uᵀ U, found without inverting H. Flipped (last row and column first), H = L Lᵀ;
 * then H⁻¹ = (L⁻¹)ᵀ L⁻¹ flipped back, so U is L⁻¹ with rows and columns in reverse. Blocks of 128: small parts in f64 here, the rest as products.
 */
import {
  IN_PLACE_INPUTS,
  type Matrix,
  type MatrixMath,
  packRows,
  packTransposed,
  paddedColumns,
} from './matrix-math.ts';

const BLOCK = IN_PLACE_INPUTS;
/** Rows of a trailing update that are done in one product; what is above the diagonal within them is wasted work. */
const ROWS_AT_ONCE = 512;
/** Columns of a product with a triangle that are done in one: what is 0 within them is wasted work. */
const COLUMNS_AT_ONCE = 512;

/**
 * @param h symmetric f32 [n, n], n a multiple of 32 or with a unit diagonal in its padding; overwritten
 * @returns U, f32 [n, n], zero below the diagonal; null if `h` is not positive definite
 */
export function inverseFactor(math: MatrixMath, h: Matrix, n: number): Matrix | null {
  flip(h, n);
  const inverses = choleskyInPlace(math, h, n);
  if (inverses === null) return null;
  const inverse = invertLower(math, h, n, inverses);
  flip(inverse, n);
  return inverse;
}

export interface DampedFactor {
  readonly u: Matrix;
  /** What was added, as part of the mean diagonal. */
  readonly damping: number;
}

/**
 * U of the damped moments with their inputs in the given order.
 *
 * @param step part of the mean diagonal that is added to the diagonal; raised by as much until the matrix can be factored
 * @returns null if no damping helped
 */
export function dampedInverseFactor(
  math: MatrixMath,
  moments: Matrix,
  permutation: Uint32Array,
  step: number,
): DampedFactor | null {
  const n = permutation.length;
  const size = paddedColumns(n);
  let mean = 0;
  for (let i = 0; i < n; i++) mean += moments.values[i * moments.stride + i]! / n;
  for (let damping = step; damping <= 1; damping = damping < 0.1 ? damping + step : damping * 2) {
    using h = math.matrix(size, size);
    for (let i = 0; i < size; i++) {
      if (i >= n) {
        h.values[i * h.stride + i] = 1;
        continue;
      }
      const from = permutation[i]! * moments.stride;
      const row = moments.values.subarray(from, from + n);
      const into = h.values.subarray(i * h.stride, i * h.stride + n);
      for (let j = 0; j < n; j++) into[j] = row[permutation[j]!]!;
      const diagonal = into[i]!;
      into[i] = (diagonal > 0 ? diagonal : mean || 1) + damping * mean;
    }
    const u = inverseFactor(math, h, size);
    if (u !== null) return { u, damping };
  }
  return null;
}

/**
 * A · H⁻¹, in place.
 *
 * @param a f32 [rows, n]
 * @param u the factor of H⁻¹ = Uᵀ U, f32 [n, n] or larger
 */
export function multiplyByInverse(math: MatrixMath, a: Matrix, u: Matrix): void {
  const { rows: m, columns: n } = a;
  const whole = { row: 0, column: 0, rows: n, count: n };
  using products = math.matrix(m, n);
  using packed = math.packed(n, n);
  const columns = Array.from({ length: Math.ceil(n / COLUMNS_AT_ONCE) }, (_, i) => {
    const first = i * COLUMNS_AT_ONCE;
    return { first, count: Math.min(COLUMNS_AT_ONCE, n - first) };
  });
  packRows(packed, u, whole);
  for (const { first, count } of columns) {
    math.multiply({
      ...{ a, aColumn: first, b: packed, bRow: first, bColumn: first },
      ...{ m, n: count, k: n - first, out: products, outColumn: first },
    });
  }
  packTransposed(packed, 0, u, whole);
  for (const { first, count } of columns) {
    math.multiply({
      ...{ a: products, b: packed, bRow: first },
      ...{ m, n: count, k: first + count, out: a, outColumn: first },
    });
  }
}

/** Rows and columns in reverse order, in place. */
function flip({ values, stride }: Matrix, n: number): void {
  for (let i = 0; i < n; i++) values.subarray(i * stride, i * stride + n).reverse();
  const row = new Float32Array(n);
  for (let i = 0; 2 * i + 1 < n; i++) {
    const a = values.subarray(i * stride, i * stride + n);
    const b = values.subarray((n - 1 - i) * stride, (n - 1 - i) * stride + n);
    row.set(a);
    a.set(b);
    b.set(row);
  }
}

/** The lower triangle becomes L; what is above the diagonal is left in disorder. @returns inverses of the diagonal blocks, f64 [size, size] each */
function choleskyInPlace(math: MatrixMath, h: Matrix, n: number): Float64Array[] | null {
  const { values, stride } = h;
  const inverses: Float64Array[] = [];
  using panel = math.matrix(n, BLOCK);
  using blockInverse = math.matrix(BLOCK, BLOCK);
  using packedInverse = math.packed(BLOCK, BLOCK);
  using packedPanel = math.packed(n, BLOCK);
  for (let start = 0; start < n; start += BLOCK) {
    const size = Math.min(BLOCK, n - start);
    const factor = factorBlock(values, stride, start, size);
    if (factor === null) return null;
    const inverse = invertBlock(factor, size);
    inverses.push(inverse);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j <= i; j++) {
        values[(start + i) * stride + start + j] = factor[i * size + j]!;
      }
    }
    const next = start + size;
    const rest = n - next;
    if (rest === 0) break;
    blockInverse.values.fill(0);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        blockInverse.values[i * blockInverse.stride + j] = inverse[i * size + j]!;
      }
    }
    // panel = A21 · L11⁻ᵀ
    packRows(packedInverse, blockInverse, { row: 0, column: 0, rows: BLOCK, count: size });
    math.multiply({
      ...{ a: h, aRow: next, aColumn: start, b: packedInverse, m: rest, n: BLOCK, k: size },
      out: panel,
    });
    for (let i = 0; i < rest; i++) {
      const from = i * panel.stride;
      values.set(panel.values.subarray(from, from + size), (next + i) * stride + start);
    }
    // A22 -= panel · panelᵀ, the lower part
    packRows(packedPanel, panel, { row: 0, column: 0, rows: rest, count: size, sign: -1 });
    for (let row = 0; row < rest; row += ROWS_AT_ONCE) {
      const rows = Math.min(ROWS_AT_ONCE, rest - row);
      math.multiply({
        ...{ a: panel, aRow: row, b: packedPanel, m: rows, n: row + rows, k: size },
        ...{ out: h, outRow: next + row, outColumn: next, residual: h },
      });
    }
  }
  return inverses;
}

/** Cholesky factor of a diagonal block, f64 [size, size]; null if it is not positive definite. */
function factorBlock(
  values: Float32Array,
  stride: number,
  start: number,
  size: number,
): Float64Array | null {
  const l = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = values[(start + i) * stride + start + j]!;
      for (let k = 0; k < j; k++) sum -= l[i * size + k]! * l[j * size + k]!;
      if (i === j) {
        if (!(sum > 0) || !Number.isFinite(sum)) return null;
        l[i * size + i] = Math.sqrt(sum);
      } else {
        l[i * size + j] = sum / l[j * size + j]!;
      }
    }
  }
  return l;
}

/** Inverse of a lower triangular block. */
function invertBlock(l: Float64Array, size: number): Float64Array {
  const x = new Float64Array(size * size);
  for (let j = 0; j < size; j++) {
    x[j * size + j] = 1 / l[j * size + j]!;
    for (let i = j + 1; i < size; i++) {
      let sum = 0;
      for (let k = j; k < i; k++) sum += l[i * size + k]! * x[k * size + j]!;
      x[i * size + j] = -sum / l[i * size + i]!;
    }
  }
  return x;
}

/** L⁻¹, block row after block row: X[i, :i] = -L_ii⁻¹ · (L[i, :i] · X[:i, :i]). */
function invertLower(
  math: MatrixMath,
  l: Matrix,
  n: number,
  inverses: readonly Float64Array[],
): Matrix {
  const x = math.matrix(n, n);
  using products = math.matrix(BLOCK, n);
  using blockInverse = math.matrix(BLOCK, BLOCK);
  using packedX = math.packed(n, n);
  using packedProducts = math.packed(n, BLOCK);
  for (const [index, inverse] of inverses.entries()) {
    const start = index * BLOCK;
    const size = Math.min(BLOCK, n - start);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        const value = inverse[i * size + j]!;
        blockInverse.values[i * blockInverse.stride + j] = -value;
        x.values[(start + i) * x.stride + start + j] = value;
      }
    }
    if (start > 0) {
      // Above the diagonal of X there is nothing.
      for (let column = 0; column < start; column += COLUMNS_AT_ONCE) {
        const count = Math.min(COLUMNS_AT_ONCE, start - column);
        math.multiply({
          ...{ a: l, aRow: start, aColumn: column, b: packedX, bRow: column, bColumn: column },
          ...{ m: size, n: count, k: start - column, out: products, outColumn: column },
        });
      }
      packTransposed(packedProducts, 0, products, { row: 0, column: 0, count: size });
      // Into rows whose later columns are filled already: only as wide as `start`, a multiple of 32.
      math.multiply({
        ...{ a: blockInverse, b: packedProducts, m: size, n: start, k: size },
        ...{ out: x, outRow: start },
      });
    }
    // Behind the block there is nothing but the zeros of fresh memory.
    packTransposed(packedX, start, x, { row: start, column: 0, count: size, rows: start + size });
  }
  return x;
}
