/** Grids of matrices, a scale and a zero point for each group, from the ranges of groups, and rounding to nearest on a grid. On native code where that can do it. */
import { GridKernels } from './grid-kernels.ts';
import {
  codeOf,
  GroupFitter,
  type GroupParams,
  type GroupScheme,
  type QuantizedMatrix,
  resolveGroupSize,
} from './group-quantizer.ts';
import type { Matrix, MatrixMath } from './matrix-math.ts';

/** Of all groups, [rows, groups] each. */
export interface GroupGrid {
  readonly scales: Float32Array;
  readonly zeros: Uint8Array;
}

export class NearestRounder implements Disposable {
  readonly groupSize: number;
  /** The largest code. */
  readonly levels: number;
  readonly #scheme: GroupScheme;
  readonly #fitter: GroupFitter;
  readonly #kernels: GridKernels | null;

  constructor(math: MatrixMath, scheme: GroupScheme, groupSize: number) {
    this.#scheme = scheme;
    this.#fitter = new GroupFitter(scheme);
    this.#kernels = GridKernels.create(math, scheme, groupSize);
    this.levels = 2 ** scheme.bits - 1;
    this.groupSize = groupSize;
  }

  /** All scales and zero points 0. */
  grid(rows: number, columns: number): GroupGrid {
    const numGroups = (rows * columns) / this.groupSize;
    return { scales: new Float32Array(numGroups), zeros: new Uint8Array(numGroups) };
  }

  /** The grid of each group's range times `ratio`. */
  fit(from: Matrix, columns: number, ratio: number, grid: GroupGrid): void {
    if (this.#kernels !== null) this.#kernels.fit(from, columns, ratio, grid);
    else {
      this.#fitPlainly(from, columns, grid, (start, params) =>
        this.#fitter.fitShrunk(from.values, start, this.groupSize, ratio, params),
      );
    }
  }

  /**
   * The grid of each group's range, or where the scheme searches ranges, of the best one.
   *
   * @param importance f32 [columns], what squared errors count for; null where all columns count alike, errors by their third power
   */
  search(from: Matrix, columns: number, importance: Float32Array | null, grid: GroupGrid): void {
    if (!this.#scheme.searchesRange) this.fit(from, columns, 1, grid);
    else if (this.#kernels !== null) this.#kernels.search(from, columns, importance, grid);
    else {
      this.#fitPlainly(from, columns, grid, (start, params) => {
        const column = start % from.stride;
        this.#fitter.fit(from.values, start, this.groupSize, importance, column, params);
      });
    }
  }

  #fitPlainly(
    from: Matrix,
    columns: number,
    { scales, zeros }: GroupGrid,
    fit: (start: number, params: GroupParams) => void,
  ): void {
    const params: GroupParams = { scale: 1, zero: 0 };
    const numGroups = columns / this.groupSize;
    for (let group = 0; group < scales.length; group++) {
      fit(startOf(group, numGroups, from.stride, this.groupSize), params);
      scales[group] = params.scale;
      zeros[group] = params.zero;
    }
  }

  /** Puts the rounded values `into` another matrix. */
  round(from: Matrix, columns: number, grid: GroupGrid, into: Matrix): void {
    if (this.#kernels !== null) {
      this.#kernels.round(from, columns, grid, into);
      return;
    }
    const { scales, zeros } = grid;
    const { groupSize, levels } = this;
    const numGroups = columns / groupSize;
    for (let group = 0; group < scales.length; group++) {
      const start = startOf(group, numGroups, from.stride, groupSize);
      const d = startOf(group, numGroups, into.stride, groupSize);
      const scale = scales[group]!;
      const zero = zeros[group]!;
      for (let i = 0; i < groupSize; i++) {
        into.values[d + i] = scale * (codeOf(from.values[start + i]!, scale, zero, levels) - zero);
      }
    }
  }

  /**
   * What rounding adds to weights that are multiplied by `factors` before and divided by them behind it; each group on the grid of its range.
   *
   * @param factors f32 [columns]
   */
  change(from: Matrix, columns: number, factors: Float32Array, into: Matrix): void {
    if (this.#kernels !== null) {
      this.#kernels.change(from, columns, factors, into);
      return;
    }
    const { rows, stride, values } = from;
    const eachWeight = (body: (at: number, j: number) => void): void => {
      for (let row = 0; row < rows; row++) {
        for (let j = 0; j < columns; j++) body(row * stride + j, j);
      }
    };
    const scaled = { ...from, values: new Float32Array(values.length) };
    eachWeight((at, j) => {
      scaled.values[at] = values[at]! * factors[j]!;
    });
    const grid = this.grid(rows, columns);
    this.fit(scaled, columns, 1, grid);
    this.round(scaled, columns, grid, into);
    eachWeight((at, j) => {
      into.values[at] = into.values[at]! / factors[j]! - values[at]!;
    });
  }

  /** The same as codes; takes the grid over. */
  quantize(from: Matrix, columns: number, { scales, zeros }: GroupGrid): QuantizedMatrix {
    const { groupSize, levels } = this;
    const { rows } = from;
    const numGroups = columns / groupSize;
    const codes = new Uint8Array(rows * columns);
    for (let group = 0; group < scales.length; group++) {
      const start = startOf(group, numGroups, from.stride, groupSize);
      const scale = scales[group]!;
      const zero = zeros[group]!;
      for (let i = 0; i < groupSize; i++) {
        codes[group * groupSize + i] = codeOf(from.values[start + i]!, scale, zero, levels);
      }
    }
    const { bits, symmetry } = this.#scheme;
    const isSymmetric = symmetry !== 'asymmetric';
    return { rows, columns, bits, groupSize, codes, scales, zeros, isSymmetric };
  }

  [Symbol.dispose](): void {
    this.#kernels?.[Symbol.dispose]();
  }
}

/**
 * @param weights f32 [rows, columns]; every value finite (check-finite.ts looks at what is read)
 * @param tensor for messages
 * @throws {CompressError | GroupSizeError} as `resolveGroupSize`
 */
export function quantizeToNearest(
  math: MatrixMath,
  weights: Matrix,
  scheme: GroupScheme,
  tensor: string,
): QuantizedMatrix {
  const { rows, columns } = weights;
  using rounder = new NearestRounder(math, scheme, resolveGroupSize(scheme, columns, tensor));
  const grid = rounder.grid(rows, columns);
  rounder.search(weights, columns, null, grid);
  return rounder.quantize(weights, columns, grid);
}

/** Where a group begins in a matrix of rows of `stride`. */
function startOf(group: number, numGroups: number, stride: number, groupSize: number): number {
  const row = Math.floor(group / numGroups);
  return row * stride + (group - row * numGroups) * groupSize;
}
