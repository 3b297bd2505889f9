/** Rounds matrices to nearest on a given grid: a scale and a zero point for each group. Knows nothing of where a grid comes from but the range of a group. */
import {
  codeOf,
  GroupFitter,
  type GroupParams,
  type GroupScheme,
  type QuantizedMatrix,
} from './group-quantizer.ts';
import type { Matrix } from './matrix-math.ts';

/** Of all groups, [rows, groups] each. */
export interface GroupGrid {
  readonly scales: Float32Array;
  readonly zeros: Uint8Array;
}

export class NearestRounder {
  readonly groupSize: number;
  /** The largest code. */
  readonly levels: number;
  readonly #scheme: GroupScheme;
  readonly #fitter: GroupFitter;

  constructor(scheme: GroupScheme, groupSize: number) {
    this.#scheme = scheme;
    this.#fitter = new GroupFitter({ ...scheme, searchesRange: false });
    this.levels = 2 ** scheme.bits - 1;
    this.groupSize = groupSize;
  }

  /** All scales and zero points 0. */
  grid(rows: number, columns: number): GroupGrid {
    const numGroups = (rows * columns) / this.groupSize;
    return { scales: new Float32Array(numGroups), zeros: new Uint8Array(numGroups) };
  }

  /** The grid of each group's range times `ratio`. */
  fit(from: Matrix, columns: number, ratio: number, { scales, zeros }: GroupGrid): void {
    const params: GroupParams = { scale: 1, zero: 0 };
    const numGroups = columns / this.groupSize;
    for (let group = 0; group < scales.length; group++) {
      const start = startOf(group, numGroups, from.stride, this.groupSize);
      this.#fitter.fitShrunk(from.values, start, this.groupSize, ratio, params);
      scales[group] = params.scale;
      zeros[group] = params.zero;
    }
  }

  /** Puts the rounded values `into` another matrix. */
  round(from: Matrix, columns: number, { scales, zeros }: GroupGrid, into: Matrix): void {
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
}

/** Where a group begins in a matrix of rows of `stride`. */
function startOf(group: number, numGroups: number, stride: number, groupSize: number): number {
  const row = Math.floor(group / numGroups);
  return row * stride + (group - row * numGroups) * groupSize;
}
