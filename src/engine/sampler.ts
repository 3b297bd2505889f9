/**
 * Draws the next token of one row. Knows nothing of sequences, penalties or seeds: it gets the row as it stands and one number in [0, 1).
 *
 * The rule, in vLLM's order: temperature, then min-p, then top-k, then top-p over what is left, then the draw. What makes it quick is that
 * none of it reads the whole vocabulary when the slice statistics already settle the answer; what makes it exact is that a bound is only
 * believed where it cannot change the answer, and is replaced by the true sum where it could (`#refineTo`).
 *
 * The token is the inverse of the cumulative distribution at `unit`. With a cut (min-p, top-k, top-p) candidates stand by falling logit, then
 * rising id; without one, slices stand by falling maximum and tokens by rising id inside a slice, so that nothing need be sorted.
 */

import { SamplingError } from './errors.ts';
import { GREEDY_TEMPERATURE } from './sampling-params.ts';
import type { SlicedLogits } from './sliced-logits.ts';
import { weightExp } from './weight-exp.ts';
import { WideNucleus } from './wide-nucleus.ts';

/** How far the runner's slice sums may be off, as a share: f32 sums of up to thousands of terms from an approximate exp. */
const EXP_SUM_TOLERANCE = 1e-4;
/** Temperatures this near each other, as a share, are the same: the runner's are f32, and weights are off by far less than the tolerance. */
const SAME_TEMPERATURE = 1e-6;
/** Candidates that are sorted in search of a nucleus, first and second; where the second are too few, `WideNucleus` takes over. */
const NUCLEUS_LIMITS = [64, 512];
/** Slices summed exactly first, and the factor by which that grows. */
const FIRST_REFINED = 4;
const REFINED_GROWTH = 2;

export interface DrawParams {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
}

/** Whether a draw needs no weights: the largest logit it is. */
export function isGreedy({ temperature, topK }: DrawParams): boolean {
  return temperature < GREEDY_TEMPERATURE || topK === 1;
}

export class Sampler {
  readonly #row: SlicedLogits;
  readonly #wideNucleus: WideNucleus;
  /** Weights exp((logit - largest) / temperature) of the candidates, f64 [vocabSize]. */
  readonly #weights: Float64Array;
  /** Bounds of the weight of each slice, f64 [numSlices]; equal where it was summed exactly. */
  readonly #lower: Float64Array;
  readonly #upper: Float64Array;
  #numRefined = 0;
  #origin = 0;
  #inverseTemperature = 1;

  constructor(row: SlicedLogits) {
    this.#row = row;
    this.#wideNucleus = new WideNucleus(row);
    this.#weights = new Float64Array(row.vocabSize);
    this.#lower = new Float64Array(row.numSlices);
    this.#upper = new Float64Array(row.numSlices);
  }

  /**
   * @param unit random number in [0, 1); not used by greedy choice
   * @returns the token id
   * @throws {SamplingError} if the logits are not numbers that a token can be drawn from
   */
  draw(params: DrawParams, unit: number): number {
    const { temperature, topK, topP, minP } = params;
    if (isGreedy(params)) return this.#row.argmax();
    this.#origin = this.#row.largest();
    this.#inverseTemperature = 1 / temperature;
    if (topK > 0 || minP > 0) return this.#drawAmongFew(topK, topP, minP, temperature, unit);
    return topP < 1 ? this.#drawNucleus(topP, unit) : this.#drawAny(unit);
  }

  #drawAmongFew(topK: number, topP: number, minP: number, temperature: number, unit: number) {
    const minLogit =
      minP > 0 ? this.#origin + temperature * Math.log(minP) : Number.NEGATIVE_INFINITY;
    const numCandidates = this.#row.selectTop(topK > 0 ? topK : this.#row.vocabSize, minLogit);
    const total = this.#weighTop(numCandidates);
    const numKept = topP < 1 ? this.#nucleusSize(numCandidates, topP * total) : numCandidates;
    return this.#pickTop(numKept, unit);
  }

  /**
   * Top-p over the whole vocabulary. The nucleus is the fewest tokens whose weights reach `topP` of the total, so its weight is between that share and one
   * token more; the slice sums bound the total, and slices are summed exactly until both bounds of the mark meet the same token.
   */
  #drawNucleus(topP: number, unit: number): number {
    const { numSlices } = this.#row;
    this.#boundSlices();
    for (const limit of NUCLEUS_LIMITS) {
      const numCandidates = this.#row.selectTop(limit, Number.NEGATIVE_INFINITY);
      const found = this.#weighTop(numCandidates);
      for (;;) {
        const isExact = this.#numRefined === numSlices;
        const lower = topP * this.#sumOf(this.#lower);
        const upper = topP * this.#sumOf(this.#upper);
        const first = this.#nucleusSize(numCandidates, lower);
        const last = this.#nucleusSize(numCandidates, upper);
        if (found >= upper && (first === last || isExact)) return this.#pickTop(first, unit);
        // No token at the edge weighs more than the first that may be there.
        const id = this.#topAt(
          numCandidates,
          unit * lower,
          unit * (upper + this.#weights[first - 1]!),
        );
        if (id !== null) return id;
        if (isExact) break;
        this.#refineTo(Math.max(FIRST_REFINED, this.#numRefined * REFINED_GROWTH));
      }
    }
    return this.#wideNucleus.draw(this.#origin, this.#inverseTemperature, topP, unit);
  }

  /** The candidate whose interval of cumulative weight holds both marks; `null` if there is none. */
  #topAt(numCandidates: number, lowMark: number, highMark: number): number | null {
    let before = 0;
    for (let i = 0; i < numCandidates; i++) {
      const after = before + this.#weights[i]!;
      if (after > lowMark) return after > highMark ? this.#row.topId(i) : null;
      before = after;
    }
    return null;
  }

  /** A draw from the whole vocabulary: slice by slice, reading only as many as it takes to know the token. */
  #drawAny(unit: number): number {
    const { numSlices } = this.#row;
    this.#boundSlices();
    for (;;) {
      this.#refineTo(Math.max(FIRST_REFINED, this.#numRefined * REFINED_GROWTH));
      const id = this.#tokenAt(
        unit * this.#sumOf(this.#lower),
        unit * this.#sumOf(this.#upper),
        this.#numRefined === numSlices,
      );
      if (id !== null) return id;
    }
  }

  /**
   * The token whose interval of cumulative weight holds both marks, among the slices summed exactly.
   *
   * @returns `null` if the marks lie in different intervals or beyond those slices
   */
  #tokenAt(lowMark: number, highMark: number, isComplete: boolean): number | null {
    const row = this.#row;
    let before = 0;
    let rank = 0;
    while (rank < this.#numRefined && before + this.#lower[row.rankedSlice(rank)]! <= lowMark) {
      before += this.#lower[row.rankedSlice(rank++)]!;
    }
    if (rank === this.#numRefined) {
      if (!isComplete) return null;
      // Only rounding gets here: the mark is at the very end, so the last token that has any weight it is.
      while (this.#lower[row.rankedSlice(--rank)] === 0);
      before -= this.#lower[row.rankedSlice(rank)]!;
    }
    const s = row.rankedSlice(rank);
    const end = row.sliceEnd(s);
    let last = -1;
    for (let id = s * row.sliceSize; id < end; id++) {
      const weight = weightExp((row.logits[id]! - this.#origin) * this.#inverseTemperature);
      if (weight === 0) continue;
      before += weight;
      last = id;
      if (before > lowMark) return before > highMark || isComplete ? id : null;
    }
    if (!isComplete) return null;
    if (last < 0) throw new SamplingError('no logit has a weight that can be drawn');
    return last;
  }

  /** Weighs what `selectTop` found. Returns the sum. */
  #weighTop(numCandidates: number): number {
    const row = this.#row;
    let total = 0;
    for (let i = 0; i < numCandidates; i++) {
      const logit = row.logits[row.topId(i)]!;
      const weight = weightExp((logit - this.#origin) * this.#inverseTemperature);
      this.#weights[i] = weight;
      total += weight;
    }
    return total;
  }

  /** The fewest candidates whose weights reach `mass`; all if they do not. */
  #nucleusSize(numCandidates: number, mass: number): number {
    let sum = 0;
    for (let i = 0; i < numCandidates; i++) {
      sum += this.#weights[i]!;
      if (sum >= mass) return i + 1;
    }
    return numCandidates;
  }

  #pickTop(numKept: number, unit: number): number {
    let total = 0;
    for (let i = 0; i < numKept; i++) total += this.#weights[i]!;
    if (!(total > 0))
      throw new SamplingError(`the weights of ${numKept} candidates sum to ${total}`);
    const mark = unit * total;
    let sum = 0;
    for (let i = 0; i < numKept; i++) {
      sum += this.#weights[i]!;
      if (sum > mark) return this.#row.topId(i);
    }
    let last = numKept - 1; // only rounding gets here: the mark is at the very end
    while (this.#weights[last] === 0) last--;
    return this.#row.topId(last);
  }

  /**
   * Bounds the weight of every slice. Where the row was summed at this very temperature, the sum S is the weight. With x = exp(logit - max) <= 1, p = 1 / temperature
   * and q that of the sums, the weight is a sum of (x^q)^r, r = p / q: by Hölder at least n^(1-r) S^r and at most S for r >= 1, the other
   * way round for r < 1; and never less than 1.
   */
  #boundSlices(): void {
    const row = this.#row;
    const p = this.#inverseTemperature;
    const r = p / row.inverseTemperature;
    const isSummed = Math.abs(r - 1) < SAME_TEMPERATURE;
    for (let s = 0; s < row.numSlices; s++) {
      const expSum = row.expSum[s]!;
      const scale = expSum > 0 ? weightExp((row.max[s]! - this.#origin) * p) : 0;
      let low = expSum * (1 - EXP_SUM_TOLERANCE);
      let high = expSum * (1 + EXP_SUM_TOLERANCE);
      if (!isSummed && scale > 0) {
        const n = row.sliceEnd(s) - s * row.sliceSize;
        const byHoelder = (sum: number): number =>
          Math.exp((1 - r) * Math.log(n) + r * Math.log(sum));
        if (r > 1) low = Math.max(1, byHoelder(low));
        else high = byHoelder(high);
      }
      this.#lower[s] = scale === 0 ? 0 : scale * low;
      this.#upper[s] = scale === 0 ? 0 : scale * high;
    }
    this.#numRefined = 0;
  }

  /** Replaces the bounds of the first `count` ranked slices by their exact weight. */
  #refineTo(count: number): void {
    const row = this.#row;
    const target = Math.min(count, row.numSlices);
    for (; this.#numRefined < target; this.#numRefined++) {
      const s = row.rankedSlice(this.#numRefined);
      const weight = row.weightOfSlice(s, this.#origin, this.#inverseTemperature);
      if (Number.isNaN(weight)) throw new SamplingError('the model gave NaN among its logits');
      this.#lower[s] = weight;
      this.#upper[s] = weight;
    }
  }

  #sumOf(slices: Float64Array): number {
    let sum = 0;
    for (let s = 0; s < slices.length; s++) sum += slices[s]!;
    return sum;
  }
}
