/**
 * AWQ: inputs that matter are scaled up before rounding and the operation before them is scaled down, so that their weights are rounded more finely;
 * then the range of each group is searched (range-search.ts). Lin et al. 2023, arXiv:2306.00978. Errors are those of the linear's own outputs,
 * exact over the calibration text through the second moments of its inputs (the published code measures a sample).
 */
import { type GroupScheme, resolveGroupSize } from './group-quantizer.ts';
import type { InputStatistics } from './input-statistics.ts';
import type { Matrix, MatrixMath } from './matrix-math.ts';
import { NearestRounder } from './nearest-rounder.ts';
import { OutputNorm, RowSample } from './output-error.ts';

/** Powers of an input's magnitude that are tried: 0, 0.05, ..., 0.95. */
const GRID = 20;

export interface ScaleSearch {
  /** What inputs are divided and weights multiplied by, f32 [columns]. */
  readonly scales: Float32Array;
  /** Error of the outputs before and after. */
  readonly before: number;
  readonly after: number;
}

/**
 * Errors are those of at most 512 rows, evenly spread: what is good for them is good for all, since all share the scales.
 *
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
  const moments = statistics.moments();
  // The published code has the mean only; where a few tokens are loud, the root mean square says more.
  const magnitudes = [statistics.meanMagnitudes(), statistics.meanSquares().map(Math.sqrt)];
  const means = tied(weightMeans(weights, columns, groupSize), tie);
  using sample = new RowSample(math, weights);
  using trials = new ScaleTrials(
    math,
    sample.values,
    moments,
    new NearestRounder(math, scheme, groupSize),
  );
  const unscaled = new Float32Array(columns).fill(1);
  const before = trials.error(unscaled);
  let best: Pick<ScaleSearch, 'scales' | 'after'> = { scales: unscaled, after: before };
  for (const each of magnitudes) {
    const inputs = tied(each, tie);
    for (let step = 0; step < GRID; step++) {
      const scales = trialScales(inputs, means, step / GRID);
      const after = trials.error(scales);
      if (after < best.after) best = { scales, after };
    }
  }
  return { ...best, before };
}

/** What rounding scaled weights does to the outputs. */
class ScaleTrials implements Disposable {
  readonly #weights: Matrix;
  readonly #norm: OutputNorm;
  readonly #rounder: NearestRounder;
  readonly #change: Matrix;

  constructor(math: MatrixMath, weights: Matrix, moments: Matrix, rounder: NearestRounder) {
    const { rows, columns } = weights;
    this.#weights = weights;
    this.#norm = new OutputNorm(math, moments);
    this.#rounder = rounder;
    this.#change = math.matrix(rows, columns);
  }

  error(scales: Float32Array): number {
    this.#rounder.change(this.#weights, this.#weights.columns, scales, this.#change);
    return this.#norm.of(this.#change);
  }

  [Symbol.dispose](): void {
    for (const each of [this.#norm, this.#rounder, this.#change]) each[Symbol.dispose]();
  }
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
