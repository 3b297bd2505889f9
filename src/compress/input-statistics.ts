/**
 * What a linear's inputs look like over the calibration text: their second moments and mean magnitudes, and how they go with the inputs that the
 * linear has in the model before compression.
 */
import { type Matrix, type MatrixMath, type PackedMatrix, packRows } from './matrix-math.ts';

/**
 * A token counts as at most so many median tokens of its window, by |x|². Where attention parks itself (the first token of a text, mostly) inputs of o_proj and
 * down_proj are a thousand times larger than elsewhere; alone they would decide how everything is rounded, although a norm behind makes little of them.
 */
const MOST_MEDIANS = 4;

/** Rows of sums that are made in one product: their left factor stays in the cache, and little is wasted below the diagonal of the moments. */
const ROWS_AT_ONCE = 256;

/** What a linear's inputs are in the model before compression. */
export interface ExactInputs {
  /** f32 [numTokens, stride] */
  readonly inputs: Float32Array;
  /** What the inputs have been divided by since, f32 [width]; null for nothing. */
  readonly scales: Float32Array | null;
}

/** How far inputs are from what they were, and how that goes with them; means over the tokens whose exact inputs are known. */
export interface Drift {
  /** Of (exact x - x) xᵀ, f32 [width, width]. */
  readonly drift: Matrix;
  /** Of x xᵀ, likewise. */
  readonly moments: Matrix;
}

/** A window's inputs as both factors of a product. */
interface Scratch {
  /** f32 [width, numTokens] */
  readonly transposed: Matrix;
  readonly packed: PackedMatrix;
}

export class InputStatistics implements Disposable {
  readonly width: number;
  readonly #math: MatrixMath;
  /** Sums of x xᵀ, on and above the diagonal; the product is not made in place, so there are two that change places. */
  #moments: Matrix;
  #next: Matrix;
  /** Sums of (exact x - x) xᵀ, whole, likewise; null while no exact inputs have come. */
  #drift: Matrix | null = null;
  #nextDrift: Matrix | null = null;
  #driftTokens = 0;
  /** Moments of the tokens with exact inputs; null while there are no others. */
  #earlyMoments: Matrix | null = null;
  readonly #magnitudes: Float64Array;
  #scratch: Scratch | null = null;
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
   * @param exact of the same window in the model before compression; from some window on it may be left out
   */
  add(
    inputs: Float32Array,
    stride: number,
    numTokens: number,
    exact: ExactInputs | null = null,
  ): void {
    const { width } = this;
    if (exact === null && this.#drift !== null) this.#keepEarlyMoments();
    const { transposed, packed } = this.#scratchFor(numTokens);
    const weights = tokenWeights(inputs, stride, numTokens, width);
    const { values } = transposed;
    forTiles(numTokens, width, (t0, t1, j) => {
      let magnitude = 0;
      for (let t = t0, at = j * transposed.stride + t0; t < t1; t++, at++) {
        values[at] = weights[t]! * inputs[t * stride + j]!;
        magnitude += Math.abs(values[at]!);
      }
      this.#magnitudes[j]! += magnitude;
    });
    packRows(packed, transposed, { row: 0, column: 0, rows: width, count: numTokens });
    for (let row = 0; row < width; row += ROWS_AT_ONCE) {
      this.#math.multiply({
        ...{ a: transposed, aRow: row, b: packed, bRow: row },
        ...{ m: Math.min(ROWS_AT_ONCE, width - row), n: width - row, k: numTokens },
        ...{ out: this.#next, outRow: row, outColumn: row, residual: this.#moments },
      });
    }
    [this.#moments, this.#next] = [this.#next, this.#moments];
    if (exact !== null) this.#addDrift(exact, stride, weights);
    this.#numTokens += numTokens;
    this.#isFinished = false;
  }

  #keepEarlyMoments(): void {
    if (this.#earlyMoments !== null) return;
    const moments = this.moments();
    this.#earlyMoments = this.#math.matrix(this.width, this.width);
    this.#earlyMoments.values.set(moments.values);
  }

  /** Kept from window to window: fresh memory costs more than what is done in it. */
  #scratchFor(numTokens: number): Scratch {
    if (this.#scratch?.transposed.columns === numTokens) return this.#scratch;
    this.#disposeScratch();
    this.#scratch = {
      transposed: this.#math.matrix(this.width, numTokens),
      packed: this.#math.packed(this.width, numTokens),
    };
    return this.#scratch;
  }

  #disposeScratch(): void {
    if (this.#scratch === null) return;
    const { transposed, packed } = this.#scratch;
    for (const each of [transposed, packed]) each[Symbol.dispose]();
    this.#scratch = null;
  }

  /** The inputs stand in the scratch, and change there into how far they are from the exact ones. */
  #addDrift({ inputs, scales }: ExactInputs, stride: number, weights: Float64Array): void {
    const { width } = this;
    const numTokens = weights.length;
    const { transposed, packed } = this.#scratchFor(numTokens);
    const { values } = transposed;
    forTiles(numTokens, width, (t0, t1, j) => {
      const factor = 1 / (scales?.[j] ?? 1);
      for (let t = t0, at = j * transposed.stride + t0; t < t1; t++, at++) {
        values[at] = weights[t]! * factor * inputs[t * stride + j]! - values[at]!;
      }
    });
    this.#drift ??= this.#math.matrix(width, width);
    this.#nextDrift ??= this.#math.matrix(width, width);
    for (let row = 0; row < width; row += ROWS_AT_ONCE) {
      this.#math.multiply({
        ...{ a: transposed, aRow: row, b: packed, n: width, k: numTokens },
        ...{ m: Math.min(ROWS_AT_ONCE, width - row), outRow: row },
        ...{ out: this.#nextDrift, residual: this.#drift },
      });
    }
    [this.#drift, this.#nextDrift] = [this.#nextDrift, this.#drift];
    this.#driftTokens += numTokens;
  }

  /** Null without exact inputs; valid until more is added or this is disposed of. */
  drift(): Drift | null {
    if (this.#drift === null || this.#nextDrift === null) return null;
    const sums = this.#drift.values;
    const means = this.#nextDrift.values;
    for (let i = 0; i < sums.length; i++) means[i] = sums[i]! / this.#driftTokens;
    const early = this.#earlyMoments;
    return { drift: this.#nextDrift, moments: early === null ? this.moments() : early };
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
    this.#earlyMoments?.[Symbol.dispose]();
    this.#drift?.[Symbol.dispose]();
    this.#nextDrift?.[Symbol.dispose]();
    this.#disposeScratch();
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
    let energy = 0;
    for (let j = t * stride; j < t * stride + width; j++) energy += inputs[j]! * inputs[j]!;
    energies[t] = energy;
  }
  const most = MOST_MEDIANS * energies.toSorted()[numTokens >> 1]!;
  return energies.map((energy) => (energy > most ? Math.sqrt(most / energy) : 1));
}

/** Calls `visit` with some tokens of a column at a time, such that rows and columns of inputs stay in the cache. */
function forTiles(
  numTokens: number,
  width: number,
  visit: (tokenStart: number, tokenEnd: number, column: number) => void,
): void {
  const tile = 32;
  for (let t0 = 0; t0 < numTokens; t0 += tile) {
    const t1 = Math.min(numTokens, t0 + tile);
    for (let j = 0; j < width; j++) visit(t0, t1, j);
  }
}
