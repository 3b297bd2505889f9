/**
 * The linear that gives, from the inputs that the compressed layers before it make, what the exact model has there: least squares over the calibration
 * text, W' = W + strength * W D (H + damping)^-1 with D the mean of (exact x - x) xᵀ and H that of x xᵀ. Rounding W' instead of W keeps errors of earlier layers
 * from adding up. QEP: Arai & Ichikawa 2025, arXiv:2504.09629; GPTAQ: Li et al. 2025, arXiv:2504.02692.
 */
import { dampedInverseFactor, multiplyByInverse } from './factorize.ts';
import type { Drift } from './input-statistics.ts';
import { type Matrix, type MatrixMath, packTransposed } from './matrix-math.ts';

/** Strength where nothing else is asked for: whole, it fits the calibration text (SmolLM2-135M, 3 bits: KL divergence 0.957 without, 0.744 so, 0.800 with 1). */
export const ALIGNMENT = 0.5;

/** Tokens of the calibration text that the exact model goes through too; with all of 32k a run would take twice as long. */
export const ALIGNED_TOKENS = 8192;

export interface AlignOptions {
  /** 0 to 1. */
  readonly strength: number;
  /** Part of the mean diagonal of H that is added to its diagonal. */
  readonly damping?: number;
}

/**
 * @param weights f32 [rows, columns]; changed in place, left alone where H cannot be factored
 */
export function alignToExact(
  math: MatrixMath,
  weights: Matrix,
  { drift, moments }: Drift,
  { strength, damping = 0.1 }: AlignOptions,
): void {
  const { rows } = weights;
  const n = drift.columns;
  const stored = Uint32Array.from({ length: n }, (_, i) => i);
  const factored = dampedInverseFactor(math, moments, stored, damping);
  if (factored === null) return;
  using u = factored.u;
  using changes = math.matrix(rows, n);
  using packed = math.packed(n, n);
  const whole = { row: 0, column: 0, count: n };
  const product = { a: weights, b: packed, m: rows, n, k: n, out: changes };
  if (rows > n) {
    using map = math.matrix(n, n);
    map.values.set(drift.values.subarray(0, map.values.length));
    multiplyByInverse(math, map, u);
    packTransposed(packed, 0, map, whole);
    math.multiply(product);
  } else {
    packTransposed(packed, 0, drift, whole);
    math.multiply(product);
    multiplyByInverse(math, changes, u);
  }
  for (let row = 0; row < rows; row++) {
    const from = row * changes.stride;
    const into = row * weights.stride;
    for (let j = 0; j < n; j++) weights.values[into + j]! += strength * changes.values[from + j]!;
  }
}
