/**
 * How ggml looks for the scale (and min) of a group of weights: some candidates around the plain one, each followed by a weighted least-squares fit.
 * Every step is rounded to f32 in ggml's order, so that the bytes are those that llama.cpp writes (ggml-quants.c; make_qx_quants, make_q3_quants,
 * make_qkx2_quants and make_qkx3_quants, make_qp_quants). Knows nothing of blocks.
 */

const fround = Math.fround;
/** Groups below this magnitude are all zero. */
export const SMALLEST = fround(1e-15);
/** ggml's 0.1f and 0.05f. */
export const STEP_01 = fround(0.1);
const STEP_005 = fround(0.05);

/** Most elements of a group. */
const MAX_GROUP = 32;
const trial = new Uint8Array(MAX_GROUP);
/** Of {@link fitAffine}: x - min. */
const aboveMin = new Float32Array(MAX_GROUP);

/** To the nearest integer, halves to even; for f32 values below 2^22. */
export function nearestInt(value: number): number {
  return fround(value + 12582912) - 12582912;
}

/** What {@link fitAffine} found besides the scale: the min, negated, so at least 0. */
export const affineFit = { min: 0 };

/** The first of the values of largest magnitude, with its sign; 0 of none. */
function farthestFromZero(n: number, x: Float32Array): number {
  let max = 0;
  for (let i = 0; i < n; i++) if (Math.abs(x[i]!) > Math.abs(max)) max = x[i]!;
  return max;
}

/**
 * Symmetric: x ~ scale * (code - levels), codes from 0 to 2 * levels - 1.
 *
 * @param weights of the squared error; null for x²
 * @returns the scale, which may be negative: the element of largest magnitude is near code 0
 */
export function fitSymmetric(
  n: number,
  levels: number,
  x: Float32Array,
  codes: Uint8Array,
  weights: Float32Array | null,
): number {
  const max = farthestFromZero(n, x);
  if (Math.abs(max) < SMALLEST) {
    codes.fill(0, 0, n);
    return 0;
  }
  let inverse = fround(-levels / max);
  let sumXl = 0;
  let sumL2 = 0;
  for (let i = 0; i < n; i++) {
    const l = clamp(nearestInt(fround(inverse * x[i]!)), -levels, levels - 1);
    codes[i] = l + levels;
    const w = weights === null ? fround(x[i]! * x[i]!) : weights[i]!;
    sumXl = fround(sumXl + fround(fround(w * x[i]!) * l));
    sumL2 = fround(sumL2 + fround(fround(w * l) * l));
  }
  let scale = sumL2 !== 0 ? fround(sumXl / sumL2) : 0;
  let best = fround(scale * sumXl);
  for (let step = -9; step <= 9; step++) {
    if (step === 0) continue;
    inverse = fround(-fround(levels + fround(STEP_01 * step)) / max);
    sumXl = 0;
    sumL2 = 0;
    for (let i = 0; i < n; i++) {
      const l = clamp(nearestInt(fround(inverse * x[i]!)), -levels, levels - 1);
      trial[i] = l + levels;
      const w = weights === null ? fround(x[i]! * x[i]!) : weights[i]!;
      sumXl = fround(sumXl + fround(fround(w * x[i]!) * l));
      sumL2 = fround(sumL2 + fround(fround(w * l) * l));
    }
    if (sumL2 > 0 && fround(sumXl * sumXl) > fround(best * sumL2)) {
      for (let i = 0; i < n; i++) codes[i] = trial[i]!;
      scale = fround(sumXl / sumL2);
      best = fround(scale * sumXl);
    }
  }
  return scale;
}

const signedCodes = new Int8Array(MAX_GROUP);

/** As {@link fitSymmetric}, but codes are moved one at a time while that lowers the error (Q3_K). */
export function fitSymmetricByMoves(
  n: number,
  levels: number,
  x: Float32Array,
  codes: Uint8Array,
): number {
  const max = farthestFromZero(n, x);
  if (Math.abs(max) < SMALLEST) {
    codes.fill(0, 0, n);
    return 0;
  }
  const inverse = fround(-levels / max);
  let sumXl = 0;
  let sumL2 = 0;
  for (let i = 0; i < n; i++) {
    const l = clamp(nearestInt(fround(inverse * x[i]!)), -levels, levels - 1);
    signedCodes[i] = l;
    const w = fround(x[i]! * x[i]!);
    sumXl = fround(sumXl + fround(fround(w * x[i]!) * l));
    sumL2 = fround(sumL2 + fround(fround(w * l) * l));
  }
  for (let round = 0; round < 5; round++) {
    let moved = 0;
    for (let i = 0; i < n; i++) {
      const old = signedCodes[i]!;
      const w = fround(x[i]! * x[i]!);
      let withoutXl = fround(sumXl - fround(fround(w * x[i]!) * old));
      if (!(withoutXl > 0)) continue;
      let withoutL2 = fround(sumL2 - fround(fround(w * old) * old));
      const l = clamp(
        nearestInt(fround(fround(x[i]! * withoutL2) / withoutXl)),
        -levels,
        levels - 1,
      );
      if (l === old) continue;
      withoutXl = fround(withoutXl + fround(fround(w * x[i]!) * l));
      withoutL2 = fround(withoutL2 + fround(fround(w * l) * l));
      const gain = fround(fround(withoutXl * withoutXl) * sumL2);
      if (withoutL2 > 0 && gain > fround(fround(sumXl * sumXl) * withoutL2)) {
        signedCodes[i] = l;
        sumXl = withoutXl;
        sumL2 = withoutL2;
        moved++;
      }
    }
    if (moved === 0) break;
  }
  for (let i = 0; i < n; i++) codes[i] = signedCodes[i]! + levels;
  return sumL2 > 0 ? fround(sumXl / sumL2) : 0;
}

/** Candidates of {@link fitAffine}: (levels + first + k * step) / range for k from 0 to count, as the inverse scale. */
export interface AffineSearch {
  readonly first: number;
  readonly step: number;
  readonly count: number;
  /** Absolute instead of squared error. */
  readonly isAbsolute: boolean;
}

/** Of all formats with a min, where there is an importance. */
export const WEIGHTED_SEARCH: AffineSearch = {
  first: fround(-0.9),
  step: STEP_005,
  count: 36,
  isAbsolute: false,
};

/**
 * With a min: x ~ scale * code - min, codes from 0 to `levels`, min at least 0 (in `affineFit.min`).
 *
 * @returns the scale, at least 0
 */
export function fitAffine(
  n: number,
  levels: number,
  x: Float32Array,
  weights: Float32Array,
  codes: Uint8Array,
  { first, step, count, isAbsolute }: AffineSearch,
): number {
  let min = x[0]!;
  let max = min;
  let sumW = weights[0]!;
  let sumX = fround(sumW * x[0]!);
  for (let i = 1; i < n; i++) {
    const v = x[i]!;
    if (v < min) min = v;
    if (v > max) max = v;
    const w = weights[i]!;
    sumW = fround(sumW + w);
    sumX = fround(sumX + fround(w * v));
  }
  if (min > 0) min = 0;
  if (max <= min) {
    codes.fill(0, 0, n);
    affineFit.min = -min;
    return 0;
  }
  let inverse = fround(levels / fround(max - min));
  let scale = fround(1 / inverse);
  let bestError = 0;
  for (let i = 0; i < n; i++) {
    const l = clamp(nearestInt(fround(inverse * fround(x[i]! - min))), 0, levels);
    codes[i] = l;
    const off = fround(fround(fround(scale * l) + min) - x[i]!);
    const error = isAbsolute ? Math.abs(off) : fround(off * off);
    bestError = fround(bestError + fround(weights[i]! * error));
  }
  // ggml goes on from the min of the best candidate so far.
  let range = fround(max - min);
  for (let i = 0; i < n; i++) aboveMin[i] = x[i]! - min;
  for (let k = 0; k <= count; k++) {
    inverse = fround(fround(fround(first + fround(step * k)) + levels) / range);
    let sumL = 0;
    let sumL2 = 0;
    let sumXl = 0;
    for (let i = 0; i < n; i++) {
      const l = clamp(nearestInt(fround(inverse * aboveMin[i]!)), 0, levels);
      trial[i] = l;
      const wl = fround(weights[i]! * l);
      sumL = fround(sumL + wl);
      sumL2 = fround(sumL2 + fround(wl * l));
      sumXl = fround(sumXl + fround(wl * x[i]!));
    }
    const determinant = fround(fround(sumW * sumL2) - fround(sumL * sumL));
    if (!(determinant > 0)) continue;
    let newScale = fround(fround(fround(sumW * sumXl) - fround(sumX * sumL)) / determinant);
    let newMin = fround(fround(fround(sumL2 * sumX) - fround(sumL * sumXl)) / determinant);
    if (newMin > 0) {
      newMin = 0;
      newScale = fround(sumXl / sumL2);
    }
    let error = 0;
    // Errors only add up: a candidate that is worse already is given up.
    for (let i = 0; i < n && error < bestError; i++) {
      const off = fround(fround(fround(newScale * trial[i]!) + newMin) - x[i]!);
      error = fround(
        error + fround(weights[i]! * (isAbsolute ? Math.abs(off) : fround(off * off))),
      );
    }
    if (error < bestError) {
      for (let i = 0; i < n; i++) codes[i] = trial[i]!;
      bestError = error;
      scale = newScale;
      min = newMin;
      range = fround(max - min);
      for (let i = 0; i < n; i++) aboveMin[i] = x[i]! - min;
    }
  }
  affineFit.min = -min;
  return scale;
}

/** Scales themselves as codes, weighted: x ~ scale * code for x at least 0, codes from 0 to `levels`. */
export function fitPositive(
  n: number,
  levels: number,
  x: Float32Array,
  codes: Uint8Array,
  weights: Float32Array,
): number {
  let max = 0;
  for (let i = 0; i < n; i++) if (x[i]! > max) max = x[i]!;
  if (max < SMALLEST) {
    codes.fill(0, 0, n);
    return 0;
  }
  let inverse = fround(levels / max);
  const scale = fround(1 / inverse);
  let best = 0;
  for (let i = 0; i < n; i++) {
    const l = nearestInt(fround(inverse * x[i]!));
    const off = fround(x[i]! - fround(scale * l));
    best = fround(best + fround(fround(weights[i]! * off) * off));
  }
  for (let step = -4; step <= 4; step++) {
    if (step === 0) continue;
    const trialInverse = fround(fround(fround(STEP_01 * step) + levels) / max);
    const trialScale = fround(1 / trialInverse);
    let error = 0;
    for (let i = 0; i < n; i++) {
      const l = Math.min(levels, nearestInt(fround(trialInverse * x[i]!)));
      const off = fround(x[i]! - fround(trialScale * l));
      error = fround(error + fround(fround(weights[i]! * off) * off));
    }
    if (error < best) {
      best = error;
      inverse = trialInverse;
    }
  }
  let sumXl = 0;
  let sumL2 = 0;
  for (let i = 0; i < n; i++) {
    const l = Math.min(levels, nearestInt(fround(inverse * x[i]!)));
    codes[i] = l;
    sumXl = fround(sumXl + fround(fround(weights[i]! * x[i]!) * l));
    sumL2 = fround(sumL2 + fround(fround(weights[i]! * l) * l));
  }
  for (let round = 0; round < 5; round++) {
    let moved = 0;
    for (let i = 0; i < n; i++) {
      const w = weights[i]!;
      const old = codes[i]!;
      let withoutXl = fround(sumXl - fround(fround(w * x[i]!) * old));
      let withoutL2 = fround(sumL2 - fround(fround(w * old) * old));
      if (!(withoutXl > 0 && withoutL2 > 0)) continue;
      const l = Math.min(levels, nearestInt(fround(fround(x[i]! * withoutL2) / withoutXl)));
      if (l === old) continue;
      withoutXl = fround(withoutXl + fround(fround(w * x[i]!) * l));
      withoutL2 = fround(withoutL2 + fround(fround(w * l) * l));
      const gain = fround(fround(withoutXl * withoutXl) * sumL2);
      if (gain > fround(fround(sumXl * sumXl) * withoutL2)) {
        codes[i] = l;
        sumXl = withoutXl;
        sumL2 = withoutL2;
        moved++;
      }
    }
    if (moved === 0) break;
  }
  return sumL2 > 0 ? fround(sumXl / sumL2) : 0;
}

function clamp(value: number, low: number, high: number): number {
  return value < low ? low : value > high ? high : value;
}
