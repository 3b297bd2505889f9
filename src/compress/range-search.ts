/**
 * Scale and zero point of each group of a matrix such that rounding to nearest changes the group's part of the outputs least: shrunk ranges first (AWQ's
 * clip search), then the zero point one code up and down, then the scale that fits the codes best, by least squares. Errors are exact over the calibration
 * text, through the part of the inputs' second moments that belongs to the group. Queries and keys, which AWQ leaves whole, are searched, too.
 */
import { type GroupScheme, storedScale } from './group-quantizer.ts';
import { type Matrix, type MatrixMath, type PackedMatrix, packTransposed } from './matrix-math.ts';
import type { GroupGrid, NearestRounder } from './nearest-rounder.ts';

/** Ranges that are tried: 1, 0.95, ..., 0.55. */
const CLIP_STEPS = 10;
const CLIP_STEP = 0.05;
/** Times that the scale is fitted to the codes, which change with it. */
const REFITS = 2;

/**
 * @param weights f32 [rows, columns]
 * @param moments of the inputs as the weights see them
 */
export function searchRanges(
  math: MatrixMath,
  weights: Matrix,
  moments: Matrix,
  rounder: NearestRounder,
  { symmetry }: GroupScheme,
): GroupGrid {
  using search = new RangeSearch(math, weights, moments, rounder);
  for (let step = 0; step < CLIP_STEPS; step++) search.tryShrunk(1 - step * CLIP_STEP);
  if (symmetry === 'asymmetric') for (const shift of [-1, 1]) search.tryShifted(shift);
  for (let i = 0; i < REFITS; i++) search.tryRefitted();
  return search.best;
}

class RangeSearch implements Disposable {
  readonly best: GroupGrid;
  readonly #math: MatrixMath;
  readonly #weights: Matrix;
  readonly #moments: Matrix;
  readonly #rounder: NearestRounder;
  readonly #trial: GroupGrid;
  readonly #leastErrors: Float64Array;
  /** What the best scale of a group is to be multiplied by for its codes. */
  readonly #refits: Float64Array;
  /** What rounding adds, f32 [rows, columns]. */
  readonly #change: Matrix;
  /** W M within each group, f32 [rows, columns]. */
  readonly #outputs: Matrix;
  /** f32 [rows, group size] */
  readonly #products: Matrix;
  readonly #block: PackedMatrix;

  constructor(math: MatrixMath, weights: Matrix, moments: Matrix, rounder: NearestRounder) {
    const { rows } = weights;
    const { columns } = moments;
    this.#math = math;
    this.#weights = weights;
    this.#moments = moments;
    this.#rounder = rounder;
    this.best = rounder.grid(rows, columns);
    this.#trial = rounder.grid(rows, columns);
    this.#leastErrors = new Float64Array(this.best.scales.length).fill(Number.POSITIVE_INFINITY);
    this.#refits = new Float64Array(this.best.scales.length).fill(1);
    this.#change = math.matrix(rows, columns);
    this.#outputs = math.matrix(rows, columns);
    this.#products = math.matrix(rows, rounder.groupSize);
    this.#block = math.packed(rounder.groupSize, rounder.groupSize);
    for (let column = 0; column < columns; column += rounder.groupSize) {
      this.#multiply(weights, column);
      for (let row = 0; row < rows; row++) {
        const from = row * this.#products.stride;
        this.#outputs.values.set(
          this.#products.values.subarray(from, from + rounder.groupSize),
          row * this.#outputs.stride + column,
        );
      }
    }
  }

  /** Products of a group's columns with its part of the moments. */
  #multiply(a: Matrix, column: number): void {
    const { groupSize } = this.#rounder;
    packTransposed(this.#block, 0, this.#moments, { row: column, column, count: groupSize });
    this.#math.multiply({
      ...{ a, aColumn: column, b: this.#block, m: a.rows, n: groupSize, k: groupSize },
      out: this.#products,
    });
  }

  tryShrunk(ratio: number): void {
    this.#rounder.fit(this.#weights, this.#moments.columns, ratio, this.#trial);
    this.#try();
  }

  /** Codes of the best grid moved by `shift`, as far as there are any. */
  tryShifted(shift: number): void {
    const { scales, zeros } = this.best;
    this.#trial.scales.set(scales);
    for (let group = 0; group < zeros.length; group++) {
      const zero = zeros[group]! + shift;
      this.#trial.zeros[group] = zero < 0 || zero > this.#rounder.levels ? zeros[group]! : zero;
    }
    this.#try();
  }

  tryRefitted(): void {
    const { scales, zeros } = this.best;
    this.#trial.zeros.set(zeros);
    for (let group = 0; group < scales.length; group++) {
      this.#trial.scales[group] = storedScale(scales[group]! * this.#refits[group]!);
    }
    this.#try();
  }

  /** Groups where the trial is better than the best so far take it. */
  #try(): void {
    const { groupSize } = this.#rounder;
    const { columns } = this.#moments;
    const numGroups = columns / groupSize;
    const weights = this.#weights;
    const change = this.#change;
    this.#rounder.round(weights, columns, this.#trial, change);
    for (let row = 0; row < weights.rows; row++) {
      const from = row * weights.stride;
      const into = row * change.stride;
      for (let j = 0; j < columns; j++) change.values[into + j]! -= weights.values[from + j]!;
    }
    for (let g = 0; g < numGroups; g++) {
      this.#multiply(change, g * groupSize);
      for (let row = 0; row < weights.rows; row++) this.#take(row, row * numGroups + g, g);
    }
  }

  #take(row: number, group: number, g: number): void {
    const { groupSize } = this.#rounder;
    const { values: products, stride } = this.#products;
    const p = row * stride;
    const c = row * this.#change.stride + g * groupSize;
    const w = row * this.#weights.stride + g * groupSize;
    const o = row * this.#outputs.stride + g * groupSize;
    let error = 0;
    // With the rounded values q and their change e: qᵀ M e and qᵀ M q.
    let slope = 0;
    let curve = 0;
    for (let i = 0; i < groupSize; i++) {
      const e = this.#change.values[c + i]!;
      const product = products[p + i]!;
      const q = e + this.#weights.values[w + i]!;
      error += product * e;
      slope += q * product;
      curve += q * (product + this.#outputs.values[o + i]!);
    }
    if (error >= this.#leastErrors[group]!) return;
    this.#leastErrors[group] = error;
    this.#refits[group] = curve > 0 ? 1 - slope / curve : 1;
    this.best.scales[group] = this.#trial.scales[group]!;
    this.best.zeros[group] = this.#trial.zeros[group]!;
  }

  [Symbol.dispose](): void {
    for (const each of [this.#change, this.#outputs, this.#products, this.#block]) {
      each[Symbol.dispose]();
    }
  }
}
