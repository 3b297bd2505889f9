/**
 * What a linear's inputs look like over the calibration text: their second moments and mean magnitudes, and how they go with the inputs that the
 * linear has in the model before compression.
 */
import { ROW_GROUP } from '../kernels/packed-format.ts';
import { type Matrix, type MatrixMath, type PackedMatrix, paddedColumns } from './matrix-math.ts';

/**
 * A token counts as at most so many median tokens of its window, by |x|². Where attention parks itself (the first token of a text, mostly) inputs of o_proj and
 * down_proj are a thousand times larger than elsewhere; alone they would decide how everything is rounded, although a norm behind makes little of them.
 */
const MOST_MEDIANS = 4;

/** Rows of sums that are made in one product: their left factor stays in the cache, and little is wasted below the diagonal of the moments. */
const ROWS_AT_ONCE = 128;

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

/** Of a window, [width, numTokens] each. */
interface Scratch {
  readonly inputs: PackedMatrix;
  /** How far they are from the exact ones. */
  readonly changes: PackedMatrix | null;
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
    this.#moments = this.#square();
    this.#next = this.#square();
    this.#magnitudes = new Float64Array(width);
  }

  /** [width, width]; products are written in groups of rows. */
  #square(): Matrix {
    return this.#math.matrix(paddedColumns(this.width), this.width);
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
    const { inputs: packed, changes } = this.#scratchFor(numTokens, exact !== null);
    const weights = tokenWeights(inputs, stride, numTokens, width);
    const magnitudes = this.#magnitudes;
    forRuns(packed, width, numTokens, (t, column, count, at) => {
      const weight = weights[t]!;
      const from = t * stride + column;
      for (let i = 0; i < count; i++) {
        const value = weight * inputs[from + i]!;
        packed.values[at + i] = value;
        magnitudes[column + i]! += Math.abs(value);
      }
    });
    for (let row = 0; row < width; row += ROWS_AT_ONCE) {
      this.#math.multiplyPacked({
        ...{ a: packed, aRow: row, b: packed, bRow: row, isUpper: true },
        ...{ m: Math.min(ROWS_AT_ONCE, width - row), n: width - row, k: numTokens },
        ...{ out: this.#next, outRow: row, outColumn: row, residual: this.#moments },
      });
    }
    [this.#moments, this.#next] = [this.#next, this.#moments];
    if (exact !== null) this.#addDrift(exact, stride, weights, packed, changes!);
    this.#numTokens += numTokens;
    this.#isFinished = false;
  }

  #keepEarlyMoments(): void {
    if (this.#earlyMoments !== null) return;
    const moments = this.moments();
    this.#earlyMoments = this.#square();
    this.#earlyMoments.values.set(moments.values);
  }

  /** Kept from window to window: fresh memory costs more than what is done in it. */
  #scratchFor(numTokens: number, needsChanges: boolean): Scratch {
    if (this.#scratch?.inputs.capacity !== numTokens) this.#disposeScratch();
    const make = (): PackedMatrix => this.#math.packed(this.width, numTokens);
    const { inputs = make(), changes = null } = this.#scratch ?? {};
    this.#scratch = { inputs, changes: changes ?? (needsChanges ? make() : null) };
    return this.#scratch;
  }

  #disposeScratch(): void {
    this.#scratch?.inputs[Symbol.dispose]();
    this.#scratch?.changes?.[Symbol.dispose]();
    this.#scratch = null;
  }

  #addDrift(
    { inputs, scales }: ExactInputs,
    stride: number,
    weights: Float64Array,
    packed: PackedMatrix,
    changes: PackedMatrix,
  ): void {
    const { width } = this;
    const numTokens = weights.length;
    const factors = Float64Array.from({ length: width }, (_, j) => 1 / (scales?.[j] ?? 1));
    forRuns(changes, width, numTokens, (t, column, count, at) => {
      const weight = weights[t]!;
      const from = t * stride + column;
      for (let i = 0; i < count; i++) {
        const exact = weight * factors[column + i]! * inputs[from + i]!;
        changes.values[at + i] = exact - packed.values[at + i]!;
      }
    });
    this.#drift ??= this.#square();
    this.#nextDrift ??= this.#square();
    for (let row = 0; row < width; row += ROWS_AT_ONCE) {
      this.#math.multiplyPacked({
        ...{ a: changes, aRow: row, b: packed, n: width, k: numTokens },
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

/** Calls `visit` with up to 16 neighbouring inputs of a token and the place of the first in `packed`, a few tokens at a time: both sides are read and written in runs. */
function forRuns(
  { capacity }: PackedMatrix,
  width: number,
  numTokens: number,
  visit: (token: number, column: number, count: number, at: number) => void,
): void {
  const tile = 32;
  for (let t0 = 0; t0 < numTokens; t0 += tile) {
    const t1 = Math.min(numTokens, t0 + tile);
    for (let column = 0; column < width; column += ROW_GROUP) {
      const count = Math.min(ROW_GROUP, width - column);
      for (let t = t0; t < t1; t++) visit(t, column, count, column * capacity + t * ROW_GROUP);
    }
  }
}
