/**
 * What a linear's inputs look like over the calibration text: their second moments and mean magnitudes, and how they go with the inputs that the
 * linear has in the model before compression.
 */
import { type Matrix, type MatrixMath, paddedColumns } from './matrix-math.ts';
import { type ExactInputs, PackedTokens } from './packed-tokens.ts';

/** Rows of sums that are made in one product: their left factor stays in the cache, and little is wasted below the diagonal of the moments. */
const ROWS_AT_ONCE = 128;

/** How far inputs are from what they were, and how that goes with them; means over the tokens whose exact inputs are known. */
export interface Drift {
  /** Of (exact x - x) xᵀ, f32 [width, width]. */
  readonly drift: Matrix;
  /** Of x xᵀ, likewise. */
  readonly moments: Matrix;
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
  /** Kept from window to window. */
  #tokens: PackedTokens | null = null;
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
    const tokens = this.#tokensOf(numTokens);
    tokens.take(inputs, stride);
    const { inputs: packed, magnitudes } = tokens;
    for (let j = 0; j < width; j++) this.#magnitudes[j]! += magnitudes[j]!;
    for (let row = 0; row < width; row += ROWS_AT_ONCE) {
      this.#math.multiplyPacked({
        ...{ a: packed, aRow: row, b: packed, bRow: row, isUpper: true },
        ...{ m: Math.min(ROWS_AT_ONCE, width - row), n: width - row, k: numTokens },
        ...{ out: this.#next, outRow: row, outColumn: row, residual: this.#moments },
      });
    }
    [this.#moments, this.#next] = [this.#next, this.#moments];
    if (exact !== null) this.#addDrift(exact, stride, tokens);
    this.#numTokens += numTokens;
    this.#isFinished = false;
  }

  #keepEarlyMoments(): void {
    if (this.#earlyMoments !== null) return;
    const moments = this.moments();
    this.#earlyMoments = this.#square();
    this.#earlyMoments.values.set(moments.values);
  }

  #tokensOf(numTokens: number): PackedTokens {
    if (this.#tokens?.numTokens === numTokens) return this.#tokens;
    this.#tokens?.[Symbol.dispose]();
    this.#tokens = new PackedTokens(this.#math, this.width, numTokens);
    return this.#tokens;
  }

  #addDrift(exact: ExactInputs, stride: number, tokens: PackedTokens): void {
    const { width } = this;
    const { inputs, numTokens } = tokens;
    const changes = tokens.changesTo(exact, stride);
    this.#drift ??= this.#square();
    this.#nextDrift ??= this.#square();
    for (let row = 0; row < width; row += ROWS_AT_ONCE) {
      this.#math.multiplyPacked({
        ...{ a: changes, aRow: row, b: inputs, n: width, k: numTokens },
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
    this.#tokens?.[Symbol.dispose]();
  }
}
