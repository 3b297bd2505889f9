/**
 * AWQ: inputs that matter are scaled up before rounding and the operation before them is scaled down, so that their weights are rounded more finely;
 * then the range of each group is clipped where that lowers the error. Lin et al. 2023, arXiv:2306.00978. Errors are those of the linear's own outputs,
 * exact over the calibration text through the second moments of its inputs (the published code measures a sample).
 */
import { outputNorm } from './gptq.ts';
import {
  codeOf,
  GroupFitter,
  type GroupParams,
  type GroupScheme,
  type QuantizedMatrix,
  resolveGroupSize,
} from './group-quantizer.ts';
import type { InputStatistics } from './input-statistics.ts';
import { type Matrix, type MatrixMath, packTransposed } from './matrix-math.ts';

/** Powers of the mean input that are tried: 0, 0.05, ..., 0.95. */
const GRID = 20;
/** Ranges that are tried: 1, 0.95, ..., 0.55. */
const CLIP_STEPS = 10;
const CLIP_STEP = 0.05;

/** Copies values and rounds them with the scheme's own ranges, times `shrink` of each group where given. */
export class NearestRounder {
  readonly #fitter: GroupFitter;
  readonly #levels: number;
  readonly #groupSize: number;
  readonly #params: GroupParams = { scale: 1, zero: 0 };

  constructor(scheme: GroupScheme, groupSize: number) {
    this.#fitter = new GroupFitter({ ...scheme, searchesRange: false });
    this.#levels = 2 ** scheme.bits - 1;
    this.#groupSize = groupSize;
  }

  /** @param shrink f32 [rows, groups]; null for the whole ranges */
  round(from: Matrix, columns: number, into: Matrix, shrink: Float32Array | number | null): void {
    const numGroups = columns / this.#groupSize;
    for (let row = 0; row < from.rows; row++) {
      for (let g = 0; g < numGroups; g++) {
        const ratio =
          shrink === null ? 1 : typeof shrink === 'number' ? shrink : shrink[row * numGroups + g]!;
        const start = row * from.stride + g * this.#groupSize;
        this.#fitter.fitShrunk(from.values, start, this.#groupSize, ratio, this.#params);
        const { scale, zero } = this.#params;
        const d = row * into.stride + g * this.#groupSize;
        for (let i = 0; i < this.#groupSize; i++) {
          const code = codeOf(from.values[start + i]!, scale, zero, this.#levels);
          into.values[d + i] = scale * (code - zero);
        }
      }
    }
  }

  /** The same as codes. */
  quantize(
    from: Matrix,
    scheme: GroupScheme,
    columns: number,
    shrink: Float32Array | null,
  ): QuantizedMatrix {
    const groupSize = this.#groupSize;
    const numGroups = columns / groupSize;
    const { rows } = from;
    const codes = new Uint8Array(rows * columns);
    const scales = new Float32Array(rows * numGroups);
    const zeros = new Uint8Array(rows * numGroups);
    for (let row = 0; row < rows; row++) {
      for (let g = 0; g < numGroups; g++) {
        const start = row * from.stride + g * groupSize;
        const group = row * numGroups + g;
        this.#fitter.fitShrunk(from.values, start, groupSize, shrink?.[group] ?? 1, this.#params);
        const { scale, zero } = this.#params;
        scales[group] = scale;
        zeros[group] = zero;
        for (let i = 0; i < groupSize; i++) {
          codes[row * columns + g * groupSize + i] = codeOf(
            from.values[start + i]!,
            scale,
            zero,
            this.#levels,
          );
        }
      }
    }
    const isSymmetric = scheme.symmetry !== 'asymmetric';
    return { rows, columns, bits: scheme.bits, groupSize, codes, scales, zeros, isSymmetric };
  }
}

export interface ScaleSearch {
  /** What inputs are divided and weights multiplied by, f32 [columns]. */
  readonly scales: Float32Array;
  /** Error of the outputs before and after. */
  readonly before: number;
  readonly after: number;
}

/**
 * @param tie which inputs must share a scale: input i belongs to class `tie[i]`; null where each has its own
 */
export function searchScales(
  math: MatrixMath,
  weights: Matrix,
  statistics: InputStatistics,
  scheme: GroupScheme,
  tensor: string,
  tie: Uint32Array | null = null,
): ScaleSearch {
  const columns = statistics.width;
  const groupSize = resolveGroupSize(scheme, columns, tensor);
  const rounder = new NearestRounder(scheme, groupSize);
  const moments = statistics.moments();
  const inputs = tied(statistics.meanMagnitudes(), tie);
  const means = tied(weightMeans(weights, columns, groupSize), tie);
  using scaled = math.matrix(weights.rows, columns);
  using rounded = math.matrix(weights.rows, columns);
  let scales: Float32Array = new Float32Array(columns).fill(1);
  let before = 0;
  let best = Number.POSITIVE_INFINITY;
  for (let step = 0; step < GRID; step++) {
    const trial = trialScales(inputs, means, step / GRID);
    for (let row = 0; row < weights.rows; row++) {
      for (let j = 0; j < columns; j++) {
        scaled.values[row * scaled.stride + j] =
          weights.values[row * weights.stride + j]! * trial[j]!;
      }
    }
    rounder.round(scaled, columns, rounded, null);
    for (let row = 0; row < weights.rows; row++) {
      for (let j = 0; j < columns; j++) {
        const at = row * rounded.stride + j;
        rounded.values[at] =
          rounded.values[at]! / trial[j]! - weights.values[row * weights.stride + j]!;
      }
    }
    const error = outputNorm(math, rounded, moments);
    // The first trial may still scale by the weights alone; the unscaled error is what is to be beaten.
    if (error < best) {
      best = error;
      scales = trial;
    }
  }
  rounder.round(weights, columns, rounded, null);
  for (let row = 0; row < weights.rows; row++) {
    for (let j = 0; j < columns; j++) {
      rounded.values[row * rounded.stride + j]! -= weights.values[row * weights.stride + j]!;
    }
  }
  before = outputNorm(math, rounded, moments);
  if (before <= best) return { scales: new Float32Array(columns).fill(1), before, after: before };
  return { scales, before, after: best };
}

/** Mean over outputs of |w| relative to the largest of its group. */
function weightMeans(weights: Matrix, columns: number, groupSize: number): Float32Array {
  const means = new Float32Array(columns);
  for (let row = 0; row < weights.rows; row++) {
    for (let start = 0; start < columns; start += groupSize) {
      const at = row * weights.stride + start;
      let largest = 1e-9;
      for (let i = 0; i < groupSize; i++)
        largest = Math.max(largest, Math.abs(weights.values[at + i]!));
      for (let i = 0; i < groupSize; i++) {
        means[start + i]! += Math.abs(weights.values[at + i]!) / largest / weights.rows;
      }
    }
  }
  return means;
}

function trialScales(inputs: Float32Array, means: Float32Array, power: number): Float32Array {
  const scales = new Float32Array(inputs.length);
  let most = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let j = 0; j < inputs.length; j++) {
    const s = Math.max(inputs[j]! ** power / (means[j]! ** (1 - power) + 1e-4), 1e-4);
    scales[j] = s;
    most = Math.max(most, s);
    least = Math.min(least, s);
  }
  const middle = Math.sqrt(most * least);
  for (let j = 0; j < scales.length; j++) {
    const s = scales[j]! / middle;
    scales[j] = Number.isFinite(s) && s > 0 ? s : 1;
  }
  return scales;
}

/** The mean of each class for all of its members. */
function tied(values: Float32Array, tie: Uint32Array | null): Float32Array {
  if (tie === null) return values;
  const sums = new Map<number, { sum: number; count: number }>();
  for (let i = 0; i < values.length; i++) {
    const entry = sums.get(tie[i]!) ?? { sum: 0, count: 0 };
    entry.sum += values[i]!;
    entry.count++;
    sums.set(tie[i]!, entry);
  }
  return values.map((_, i) => {
    const { sum, count } = sums.get(tie[i]!)!;
    return sum / count;
  });
}

/**
 * How far each group's range is shrunk, f32 [rows, groups]: the ratio of least error of the group's part of the outputs.
 *
 * @param moments of the inputs as the weights see them (after scaling)
 * @param rows those that may be clipped: queries and keys are left alone
 */
export function searchClipping(
  math: MatrixMath,
  weights: Matrix,
  moments: Matrix,
  scheme: GroupScheme,
  groupSize: number,
  mayClip: (row: number) => boolean,
): Float32Array {
  const columns = moments.columns;
  const numGroups = columns / groupSize;
  const { rows } = weights;
  const rounder = new NearestRounder(scheme, groupSize);
  const shrink = new Float32Array(rows * numGroups).fill(1);
  const best = new Float64Array(rows * numGroups).fill(Number.POSITIVE_INFINITY);
  using rounded = math.matrix(rows, columns);
  using products = math.matrix(rows, groupSize);
  using block = math.packed(groupSize, groupSize);
  for (let step = 0; step < CLIP_STEPS; step++) {
    const ratio = 1 - step * CLIP_STEP;
    rounder.round(weights, columns, rounded, ratio);
    for (let row = 0; row < rows; row++) {
      for (let j = 0; j < columns; j++) {
        rounded.values[row * rounded.stride + j]! -= weights.values[row * weights.stride + j]!;
      }
    }
    for (let g = 0; g < numGroups; g++) {
      const column = g * groupSize;
      packTransposed(block, 0, moments, { row: column, column, count: groupSize });
      math.multiply({
        ...{ a: rounded, aColumn: column, b: block, m: rows, n: groupSize, k: groupSize },
        out: products,
      });
      for (let row = 0; row < rows; row++) {
        if (!mayClip(row)) continue;
        let error = 0;
        for (let i = 0; i < groupSize; i++) {
          error +=
            products.values[row * products.stride + i]! *
            rounded.values[row * rounded.stride + column + i]!;
        }
        const at = row * numGroups + g;
        if (error < best[at]!) {
          best[at] = error;
          shrink[at] = ratio;
        }
      }
    }
  }
  return shrink;
}
