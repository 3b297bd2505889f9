/**
 * Coordinate descent on a rounded matrix: each code goes where, all others kept, the outputs change least, and each group's scale and zero point go where they fit its
 * codes best, group after group until nothing is left to gain. The error never grows. It is trace((Q - W) M (Q - W)ᵀ) with the inputs' second moments M, whose
 * gradient is kept up to date by products. Knows nothing of where the codes come from. QuantEase: Behdin et al. 2023, arXiv:2309.01885.
 */
import { type QuantizedMatrix, roundHalfEven, storedScale } from './group-quantizer.ts';
import { type Matrix, type MatrixMath, type PackedMatrix, packTransposed } from './matrix-math.ts';

/** Rows at once: their gradients stay in the cache. */
const ROWS = 256;
/** Columns whose codes are settled among themselves before the others hear of it. */
const BLOCK = 64;

export interface SettleOptions {
  /** Times that all groups are gone through, at most. */
  readonly sweeps: number;
}

/**
 * @param weights f32 [rows, columns], what the codes stand for
 * @param moments of the inputs, f32 [columns, columns]
 * @param quantized changed in place
 */
export function settleCodes(
  math: MatrixMath,
  weights: Matrix,
  moments: Matrix,
  quantized: QuantizedMatrix,
  { sweeps }: SettleOptions,
): void {
  using settler = new CodeSettler(math, moments, quantized);
  for (let start = 0; start < quantized.rows; start += ROWS) {
    settler.begin(weights, start, Math.min(ROWS, quantized.rows - start));
    for (let sweep = 0; sweep < sweeps; sweep++) if (settler.sweep() === 0) break;
  }
}

class CodeSettler implements Disposable {
  readonly #math: MatrixMath;
  readonly #moments: Matrix;
  readonly #quantized: QuantizedMatrix;
  readonly #packed: PackedMatrix;
  /** (Q - W) M of the rows at hand, f32 [ROWS, columns]: half the gradient. */
  readonly #gradient: Matrix;
  /** What becomes of some columns of Q, f32 [ROWS, group or block]. */
  readonly #change: Matrix;
  /** What a unit of each row's scale adds to its gradient, f32 [ROWS, columns]. */
  readonly #response: Matrix;
  /** What a unit of all of a group's weights adds to the gradient, f64 [columns] for each group. */
  readonly #shifts: readonly Float64Array[];
  readonly #local = { gradient: new Float64Array(BLOCK), moments: new Float64Array(BLOCK * BLOCK) };
  #start = 0;
  #rows = 0;

  constructor(math: MatrixMath, moments: Matrix, quantized: QuantizedMatrix) {
    const { columns, groupSize } = quantized;
    const rows = Math.min(ROWS, quantized.rows);
    this.#math = math;
    this.#moments = moments;
    this.#quantized = quantized;
    this.#packed = math.packed(columns, columns);
    packTransposed(this.#packed, 0, moments, { row: 0, column: 0, count: columns });
    this.#gradient = math.matrix(rows, columns);
    this.#change = math.matrix(rows, columns);
    this.#response = math.matrix(rows, columns);
    this.#shifts = Array.from({ length: columns / groupSize }, (_, g) => {
      const shift = new Float64Array(columns);
      for (let i = g * groupSize; i < (g + 1) * groupSize; i++) {
        for (let j = 0; j < columns; j++) shift[j]! += moments.values[i * moments.stride + j]!;
      }
      return shift;
    });
  }

  /** Takes up `rows` rows from `start`. */
  begin(weights: Matrix, start: number, rows: number): void {
    this.#start = start;
    this.#rows = rows;
    const { columns, groupSize, codes, scales, zeros } = this.#quantized;
    const numGroups = columns / groupSize;
    for (let row = 0; row < rows; row++) {
      const from = (start + row) * weights.stride;
      const into = row * this.#change.stride;
      const at = (start + row) * columns;
      for (let j = 0; j < columns; j++) {
        const group = (start + row) * numGroups + Math.floor(j / groupSize);
        const value = scales[group]! * (codes[at + j]! - zeros[group]!);
        this.#change.values[into + j] = value - weights.values[from + j]!;
      }
    }
    this.#multiply(0, columns, this.#gradient, false);
  }

  /** `out` = the first columns of the changes times rows `column` to `column + count` of the moments. */
  #multiply(column: number, count: number, out: Matrix, isAdded: boolean): void {
    const { columns } = this.#quantized;
    this.#math.multiply({
      ...{ a: this.#change, b: this.#packed, bColumn: column, m: this.#rows, n: columns, k: count },
      ...{ out, ...(isAdded && { residual: out }) },
    });
  }

  /** How much was changed. */
  sweep(): number {
    const { columns, groupSize } = this.#quantized;
    let changes = 0;
    for (let column = 0; column < columns; column += groupSize) {
      changes += this.#settleScales(column);
      const end = column + groupSize;
      for (let at = column; at < end; at += BLOCK) {
        changes += this.#settleCodes(at, Math.min(BLOCK, end - at));
      }
    }
    return changes;
  }

  /** Scale and zero point of the group that begins at `column`, in each row, for the codes that it has. */
  #settleScales(column: number): number {
    const { columns, groupSize, codes, zeros } = this.#quantized;
    const g = column / groupSize;
    const numGroups = columns / groupSize;
    const change = this.#change;
    for (let row = 0; row < this.#rows; row++) {
      const at = (this.#start + row) * columns + column;
      const into = row * change.stride;
      const zero = zeros[(this.#start + row) * numGroups + g]!;
      for (let i = 0; i < groupSize; i++) change.values[into + i] = codes[at + i]! - zero;
    }
    this.#multiply(column, groupSize, this.#response, false);
    let changes = 0;
    for (let row = 0; row < this.#rows; row++) changes += this.#settleScale(row, column, g);
    return changes;
  }

  #settleScale(row: number, column: number, g: number): number {
    const { columns, groupSize, scales, zeros, isSymmetric, bits } = this.#quantized;
    const group = (this.#start + row) * (columns / groupSize) + g;
    const gradient = this.#gradient.values;
    const response = this.#response.values;
    const u = row * this.#change.stride;
    const at = row * this.#gradient.stride;
    let slope = 0;
    let curve = 0;
    for (let i = 0; i < groupSize; i++) {
      const unit = this.#change.values[u + i]!;
      slope += unit * gradient[at + column + i]!;
      curve += unit * response[at + column + i]!;
    }
    let changes = 0;
    if (curve > 0) {
      const step = storedScale(scales[group]! - slope / curve) - scales[group]!;
      if (step !== 0 && step * (2 * slope + step * curve) < 0) {
        scales[group]! += step;
        for (let j = 0; j < columns; j++) gradient[at + j]! += step * response[at + j]!;
        changes++;
      }
    }
    if (isSymmetric) return changes;
    const shift = this.#shifts[g]!;
    let sum = 0;
    let shiftCurve = 0;
    for (let j = column; j < column + groupSize; j++) {
      sum += gradient[at + j]!;
      shiftCurve += shift[j]!;
    }
    const scale = scales[group]!;
    const by = sum * scale > 0 ? -1 : 1;
    const zero = zeros[group]! - by;
    const step = by * scale;
    if (zero < 0 || zero >= 2 ** bits || step * (2 * sum + step * shiftCurve) >= 0) return changes;
    zeros[group] = zero;
    for (let j = 0; j < columns; j++) gradient[at + j]! += step * shift[j]!;
    return changes + 1;
  }

  /** Hot. Codes of some columns of one group in all rows. */
  #settleCodes(column: number, size: number): number {
    const { columns, groupSize, codes, scales, bits } = this.#quantized;
    const levels = 2 ** bits - 1;
    const { gradient: g, moments: m } = this.#local;
    const change = this.#change.values;
    for (let i = 0; i < size; i++) {
      const at = (column + i) * this.#moments.stride + column;
      for (let j = 0; j < size; j++) m[i * size + j] = this.#moments.values[at + j]!;
    }
    let changes = 0;
    for (let row = 0; row < this.#rows; row++) {
      const from = row * this.#gradient.stride + column;
      const into = row * this.#change.stride;
      const c = (this.#start + row) * columns + column;
      const scale = scales[Math.floor(c / groupSize)]!;
      for (let i = 0; i < size; i++) g[i] = this.#gradient.values[from + i]!;
      for (let i = 0; i < size; i++) {
        const code = codes[c + i]!;
        const curve = m[i * size + i]! * scale;
        const wanted = curve === 0 ? code : code - roundHalfEven(g[i]! / curve);
        const next = wanted < 0 ? 0 : wanted > levels ? levels : wanted;
        const step = (next - code) * scale;
        change[into + i] = step;
        if (step === 0) continue;
        codes[c + i] = next;
        changes++;
        for (let j = 0; j < size; j++) g[j]! += step * m[i * size + j]!;
      }
    }
    if (changes > 0) this.#multiply(column, size, this.#gradient, true);
    return changes;
  }

  [Symbol.dispose](): void {
    for (const each of [this.#packed, this.#gradient, this.#change, this.#response]) {
      each[Symbol.dispose]();
    }
  }
}
