/**
 * What a linear's inputs look like over the calibration text: their second moments and mean magnitudes, and how they go with the inputs that the
 * linear has in the model before compression.
 */
import { type Matrix, type MatrixMath, packTransposed } from './matrix-math.ts';

/**
 * A token counts as at most so many median tokens of its window, by |x|². Where attention parks itself (the first token of a text, mostly) inputs of o_proj and
 * down_proj are a thousand times larger than elsewhere; alone they would decide how everything is rounded, although a norm behind makes little of them.
 */
const MOST_MEDIANS = 4;

/** Rows of the moments that are summed in one product; below the diagonal within them is wasted work. */
const ROWS_AT_ONCE = 256;

export class InputStatistics implements Disposable {
  readonly width: number;
  readonly #math: MatrixMath;
  /** Sums of x xᵀ, on and above the diagonal; the product is not made in place, so there are two that change places. */
  #moments: Matrix;
  #next: Matrix;
  /** Sums of (exact x) xᵀ, likewise; null while no exact inputs have come. */
  #cross: Matrix | null = null;
  #nextCross: Matrix | null = null;
  readonly #magnitudes: Float64Array;
  #numTokens = 0;
  #isFinished = false;

  constructor(math: MatrixMath, width: number) {
    this.#math = math;
    this.width = width;
    this.#moments = math.matrix(width, width);
    this.#next = math.matrix(width, width);
    this.#magnitudes = new Float64Array(width);
  }

  get numTokens(): number {
    return this.#numTokens;
  }

  /**
   * @param inputs of a window, f32 [numTokens, stride]; the first `width` columns count
   * @param exact the same of the model before compression; for all windows or for none
   */
  add(
    inputs: Float32Array,
    stride: number,
    numTokens: number,
    exact: Float32Array | null = null,
  ): void {
    const { width } = this;
    using transposed = this.#math.matrix(width, numTokens);
    using rows = this.#math.matrix(numTokens, width);
    using packed = this.#math.packed(width, numTokens);
    const weights = tokenWeights(inputs, stride, numTokens, width);
    copyWeighted(inputs, stride, weights, rows);
    for (let t = 0; t < numTokens; t++) {
      const from = t * rows.stride;
      for (let j = 0; j < width; j++) this.#magnitudes[j]! += Math.abs(rows.values[from + j]!);
    }
    transpose(rows, transposed, numTokens, width);
    packTransposed(packed, 0, rows, { row: 0, column: 0, count: numTokens });
    for (let row = 0; row < width; row += ROWS_AT_ONCE) {
      this.#math.multiply({
        ...{ a: transposed, aRow: row, b: packed, bRow: row },
        ...{ m: Math.min(ROWS_AT_ONCE, width - row), n: width - row, k: numTokens },
        ...{ out: this.#next, outRow: row, outColumn: row, residual: this.#moments },
      });
    }
    [this.#moments, this.#next] = [this.#next, this.#moments];
    if (exact !== null) {
      this.#cross ??= this.#math.matrix(width, width);
      this.#nextCross ??= this.#math.matrix(width, width);
      copyWeighted(exact, stride, weights, rows);
      transpose(rows, transposed, numTokens, width);
      this.#math.multiply({
        ...{ a: transposed, b: packed, m: width, n: width, k: numTokens },
        ...{ out: this.#nextCross, residual: this.#cross },
      });
      [this.#cross, this.#nextCross] = [this.#nextCross, this.#cross];
    }
    this.#numTokens += numTokens;
    this.#isFinished = false;
  }

  /**
   * Mean of (exact x / scales - x) xᵀ, f32 [width, width]: how far the inputs are from what they were, and how that goes with them. For the caller to
   * dispose of; null without exact inputs.
   *
   * @param scales what the inputs have been divided by since, f32 [width]
   */
  drift(scales: Float32Array | null): Matrix | null {
    if (this.#cross === null) return null;
    const moments = this.moments();
    const drift = this.#math.matrix(this.width, this.width);
    for (let i = 0; i < this.width; i++) {
      const factor = 1 / (Math.max(1, this.#numTokens) * (scales?.[i] ?? 1));
      for (let at = i * drift.stride; at < i * drift.stride + this.width; at++) {
        drift.values[at] = factor * this.#cross.values[at]! - moments.values[at]!;
      }
    }
    return drift;
  }

  /** Mean of x xᵀ, f32 [width, width], whole. Valid until more is added or this is disposed of. */
  moments(): Matrix {
    if (!this.#isFinished) this.#finish();
    return this.#next;
  }

  #finish(): void {
    const { width } = this;
    const { values: sums, stride } = this.#moments;
    const out = this.#next.values;
    const scale = 1 / Math.max(1, this.#numTokens);
    for (let i = 0; i < width; i++) {
      for (let j = i; j < width; j++) {
        const mean = sums[i * stride + j]! * scale;
        out[i * stride + j] = mean;
        out[j * stride + i] = mean;
      }
    }
    this.#isFinished = true;
  }

  /** Mean of x², f32 [width]: ggml's importance. */
  meanSquares(): Float32Array {
    const { values, stride } = this.moments();
    return Float32Array.from({ length: this.width }, (_, i) => values[i * stride + i]!);
  }

  /** Mean of |x|, f32 [width]. */
  meanMagnitudes(): Float32Array {
    return Float32Array.from(this.#magnitudes, (sum) => sum / Math.max(1, this.#numTokens));
  }

  [Symbol.dispose](): void {
    this.#moments[Symbol.dispose]();
    this.#next[Symbol.dispose]();
    this.#cross?.[Symbol.dispose]();
    this.#nextCross?.[Symbol.dispose]();
  }
}

/** What each token counts for, f64 [numTokens]: 1, or what makes it as large as tokens may be. */
function tokenWeights(
  inputs: Float32Array,
  stride: number,
  numTokens: number,
  width: number,
): Float64Array {
  const energies = new Float64Array(numTokens);
  for (let t = 0; t < numTokens; t++) {
    for (let j = t * stride; j < t * stride + width; j++) energies[t]! += inputs[j]! * inputs[j]!;
  }
  const most = MOST_MEDIANS * energies.toSorted()[numTokens >> 1]!;
  return energies.map((energy) => (energy > most ? Math.sqrt(most / energy) : 1));
}

function copyWeighted(
  inputs: Float32Array,
  stride: number,
  weights: Float64Array,
  { values, columns, stride: intoStride }: Matrix,
): void {
  for (let t = 0; t < weights.length; t++) {
    const weight = weights[t]!;
    const from = t * stride;
    const into = t * intoStride;
    for (let j = 0; j < columns; j++) values[into + j] = weight * inputs[from + j]!;
  }
}

/** In tiles that stay in the cache. */
function transpose(from: Matrix, into: Matrix, rows: number, columns: number): void {
  const tile = 32;
  for (let r0 = 0; r0 < rows; r0 += tile) {
    const r1 = Math.min(rows, r0 + tile);
    for (let c0 = 0; c0 < columns; c0 += tile) {
      const c1 = Math.min(columns, c0 + tile);
      for (let c = c0; c < c1; c++) {
        for (let r = r0; r < r1; r++) {
          into.values[c * into.stride + r] = from.values[r * from.stride + c]!;
        }
      }
    }
  }
}
