/**
 * Top-p where the nucleus is too wide to be worth sorting: tokens are counted into buckets by falling weight, and only the buckets that hold
 * the edge of the nucleus and the drawn token are sorted. Two or three passes over the vocabulary, whatever the distribution.
 */

import { SamplingError } from './errors.ts';
import type { SlicedLogits } from './sliced-logits.ts';
import { weightExp } from './weight-exp.ts';

/** Buckets per factor e of weight; the last bucket takes everything below e^-40. */
const BUCKETS_PER_UNIT = 64;
const NUM_BUCKETS = 40 * BUCKETS_PER_UNIT + 1;

export class WideNucleus {
  readonly #row: SlicedLogits;
  /** Sum of the weights in each bucket. */
  readonly #masses = new Float64Array(NUM_BUCKETS);
  #origin = 0;
  #inverseTemperature = 1;

  constructor(row: SlicedLogits) {
    this.#row = row;
  }

  /**
   * @param origin the largest logit
   * @param unit   random number in [0, 1)
   * @returns the token at `unit` of the nucleus, its tokens standing by falling logit, then rising id
   */
  draw(origin: number, inverseTemperature: number, topP: number, unit: number): number {
    this.#origin = origin;
    this.#inverseTemperature = inverseTemperature;
    const total = this.#fillBuckets();
    const edge = this.#walkTo(topP * total);
    const mark = unit * (edge.before + edge.weight);
    return mark >= edge.before ? edge.id : this.#walkTo(mark).id;
  }

  #bucketOf(logit: number): number {
    const depth = (this.#origin - logit) * this.#inverseTemperature * BUCKETS_PER_UNIT;
    return depth < NUM_BUCKETS - 1 ? Math.floor(depth) : NUM_BUCKETS - 1;
  }

  #fillBuckets(): number {
    const { logits, vocabSize } = this.#row;
    this.#masses.fill(0);
    for (let id = 0; id < vocabSize; id++) {
      const logit = logits[id]!;
      const weight = weightExp((logit - this.#origin) * this.#inverseTemperature);
      this.#masses[this.#bucketOf(logit)]! += weight;
    }
    const total = this.#masses.reduce((sum, mass) => sum + mass, 0);
    if (Number.isNaN(total)) throw new SamplingError('the model gave NaN among its logits');
    return total;
  }

  /** The first token with which the cumulative weight passes `mark`, and the cumulative weight before it. */
  #walkTo(mark: number): { readonly id: number; readonly weight: number; readonly before: number } {
    let before = 0;
    let bucket = 0;
    while (bucket < NUM_BUCKETS - 1 && before + this.#masses[bucket]! <= mark) {
      before += this.#masses[bucket++]!;
    }
    if (this.#masses[bucket] === 0) {
      // Only rounding gets here: the mark is at the very end, so the last bucket that has any weight it is.
      while (this.#masses[bucket] === 0) bucket--;
      before -= this.#masses[bucket]!;
    }
    const tokens = this.#sortedTokens(bucket);
    let id = tokens[0]!;
    for (let i = 0; ; i++) {
      id = tokens[i]!;
      const weight = this.#weightOf(id);
      const isLast = i + 1 === tokens.length || this.#weightOf(tokens[i + 1]!) === 0;
      if (before + weight > mark || isLast) return { id, weight, before };
      before += weight;
    }
  }

  #weightOf(id: number): number {
    return weightExp((this.#row.logits[id]! - this.#origin) * this.#inverseTemperature);
  }

  #sortedTokens(bucket: number): number[] {
    const { logits, vocabSize } = this.#row;
    const ids: number[] = [];
    for (let id = 0; id < vocabSize; id++) {
      if (this.#bucketOf(logits[id]!) === bucket) ids.push(id);
    }
    return ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
  }
}
