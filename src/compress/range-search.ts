/**
 * Scale and zero point of each group of a matrix such that rounding to nearest changes the outputs least: shrunk ranges first (AWQ's clip search), then the
 * zero point one code up and down, then the scale that fits the codes best, by least squares. Groups are searched one after another, twice, each beside
 * what the others' rounding does to the outputs, so that errors of a row's groups take from each other rather than add up. Errors are exact over the
 * calibration text, through the second moments of the inputs. Queries and keys, which AWQ leaves whole, are searched, too.
 */
import { type GroupScheme, storedScale } from './group-quantizer.ts';
import { type Matrix, type MatrixMath, type PackedMatrix, packTransposed } from './matrix-math.ts';
import type { GroupGrid, NearestRounder } from './nearest-rounder.ts';

/** Ranges that are tried: 1, 0.95, ..., 0.55. */
const CLIP_STEPS = 10;
const CLIP_STEP = 0.05;
/** Times that the scale is fitted to the codes, which change with it. */
const REFITS = 2;
/** Times that every group is searched; the first time, only groups before it have errors. */
const SWEEPS = 2;

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
  const { rows } = weights;
  const { columns } = moments;
  const numGroups = columns / rounder.groupSize;
  const grid = rounder.grid(rows, columns);
  using search = new GroupSearch(math, weights, moments, rounder);
  for (let sweep = 0; sweep < (numGroups === 1 ? 1 : SWEEPS); sweep++) {
    for (let group = 0; group < numGroups; group++) {
      search.begin(group);
      for (let step = 0; step < CLIP_STEPS; step++) search.tryShrunk(1 - step * CLIP_STEP);
      if (symmetry === 'asymmetric') for (const shift of [-1, 1]) search.tryShifted(shift);
      for (let i = 0; i < REFITS; i++) search.tryRefitted();
      const { scales, zeros } = search.end();
      for (let row = 0; row < rows; row++) {
        grid.scales[row * numGroups + group] = scales[row]!;
        grid.zeros[row * numGroups + group] = zeros[row]!;
      }
    }
  }
  return grid;
}

/** Tries grids for one group of every row at a time. */
class GroupSearch implements Disposable {
  readonly #math: MatrixMath;
  readonly #all: Matrix;
  readonly #moments: Matrix;
  readonly #rounder: NearestRounder;
  #group = 0;
  /** The best so far, a group for each row. */
  readonly #best: GroupGrid;
  readonly #trial: GroupGrid;
  readonly #leastErrors: Float64Array;
  /** What the best scale of a row is to be multiplied by for its codes. */
  readonly #refits: Float64Array;
  /** What rounding adds with the grids found so far, f32 [rows, columns]. */
  readonly #changes: Matrix;
  /** The moments' columns of the group, f32 [group size, columns]. */
  readonly #panel: PackedMatrix;
  /** The group's weights, what rounding adds to them, and that times the group's moments, f32 [rows, group size] each. */
  readonly #weights: Matrix;
  readonly #change: Matrix;
  readonly #products: Matrix;
  /** Weights times the group's moments; errors of the other groups times what they have in common with this one. */
  readonly #outputs: Matrix;
  readonly #others: Matrix;

  constructor(math: MatrixMath, weights: Matrix, moments: Matrix, rounder: NearestRounder) {
    const { rows } = weights;
    const { groupSize } = rounder;
    this.#math = math;
    this.#all = weights;
    this.#moments = moments;
    this.#rounder = rounder;
    this.#best = rounder.grid(rows, groupSize);
    this.#trial = rounder.grid(rows, groupSize);
    this.#leastErrors = new Float64Array(rows);
    this.#refits = new Float64Array(rows);
    this.#changes = math.matrix(rows, moments.columns);
    this.#panel = math.packed(groupSize, moments.columns);
    this.#weights = math.matrix(rows, groupSize);
    this.#change = math.matrix(rows, groupSize);
    this.#products = math.matrix(rows, groupSize);
    this.#outputs = math.matrix(rows, groupSize);
    this.#others = math.matrix(rows, groupSize);
  }

  begin(group: number): void {
    const { groupSize } = this.#rounder;
    const { rows } = this.#all;
    const { columns } = this.#moments;
    this.#group = group;
    this.#leastErrors.fill(Number.POSITIVE_INFINITY);
    const column = group * groupSize;
    for (let row = 0; row < rows; row++) {
      const from = row * this.#all.stride + column;
      const into = row * this.#weights.stride;
      this.#weights.values.set(this.#all.values.subarray(from, from + groupSize), into);
      const change = row * this.#changes.stride + column;
      this.#changes.values.fill(0, change, change + groupSize);
    }
    packTransposed(this.#panel, 0, this.#moments, { row: 0, column, count: columns });
    const whole = { m: rows, n: groupSize, k: columns };
    this.#math.multiply({ ...whole, a: this.#changes, b: this.#panel, out: this.#others });
    this.#multiply(this.#weights, this.#outputs);
  }

  /** Times the group's part of the moments. */
  #multiply(a: Matrix, out: Matrix): void {
    const { groupSize } = this.#rounder;
    this.#math.multiply({
      ...{ a, b: this.#panel, bColumn: this.#group * groupSize },
      ...{ m: a.rows, n: groupSize, k: groupSize, out },
    });
  }

  tryShrunk(ratio: number): void {
    this.#rounder.fit(this.#weights, this.#rounder.groupSize, ratio, this.#trial);
    this.#try();
  }

  /** Codes of the best grid moved by `shift`, as far as there are any. */
  tryShifted(shift: number): void {
    const { scales, zeros } = this.#best;
    this.#trial.scales.set(scales);
    for (let row = 0; row < zeros.length; row++) {
      const zero = zeros[row]! + shift;
      this.#trial.zeros[row] = zero < 0 || zero > this.#rounder.levels ? zeros[row]! : zero;
    }
    this.#try();
  }

  tryRefitted(): void {
    const { scales, zeros } = this.#best;
    this.#trial.zeros.set(zeros);
    for (let row = 0; row < scales.length; row++) {
      this.#trial.scales[row] = storedScale(scales[row]! * this.#refits[row]!);
    }
    this.#try();
  }

  /** Rows where the trial is better than the best so far take it. */
  #try(): void {
    this.#round(this.#trial);
    this.#multiply(this.#change, this.#products);
    for (let row = 0; row < this.#all.rows; row++) this.#take(row);
  }

  #round(grid: GroupGrid): void {
    const { groupSize } = this.#rounder;
    const { rows, stride } = this.#weights;
    const change = this.#change.values;
    const weights = this.#weights.values;
    this.#rounder.round(this.#weights, groupSize, grid, this.#change);
    for (let i = 0; i < rows * stride; i++) change[i] = change[i]! - weights[i]!;
  }

  #take(row: number): void {
    const { groupSize } = this.#rounder;
    const at = row * this.#weights.stride;
    const change = this.#change.values;
    const weights = this.#weights.values;
    const products = this.#products.values;
    const outputs = this.#outputs.values;
    const others = this.#others.values;
    let error = 0;
    // With the rounded values q, their change e and the others' part o: what q -> t q does, by t.
    let slope = 0;
    let curve = 0;
    for (let i = at; i < at + groupSize; i++) {
      const e = change[i]!;
      const q = e + weights[i]!;
      error += (products[i]! + 2 * others[i]!) * e;
      slope += q * (products[i]! + others[i]!);
      curve += q * (products[i]! + outputs[i]!);
    }
    if (error >= this.#leastErrors[row]!) return;
    this.#leastErrors[row] = error;
    this.#refits[row] = curve > 0 ? 1 - slope / curve : 1;
    this.#best.scales[row] = this.#trial.scales[row]!;
    this.#best.zeros[row] = this.#trial.zeros[row]!;
  }

  /** The best grid, valid until another group begins. Its errors count for the groups to come. */
  end(): GroupGrid {
    const { groupSize } = this.#rounder;
    this.#round(this.#best);
    for (let row = 0; row < this.#all.rows; row++) {
      const from = row * this.#change.stride;
      const into = row * this.#changes.stride + this.#group * groupSize;
      this.#changes.values.set(this.#change.values.subarray(from, from + groupSize), into);
    }
    return this.#best;
  }

  [Symbol.dispose](): void {
    for (const each of [
      ...[this.#changes, this.#panel, this.#weights, this.#change],
      ...[this.#products, this.#outputs, this.#others],
    ]) {
      each[Symbol.dispose]();
    }
  }
}
