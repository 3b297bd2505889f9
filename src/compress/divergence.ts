/** How far one model's predictions are from another's, in f64. Knows nothing of where logits come from. */

/** log(sum(exp(logits))). */
export function logSumExp(logits: Float32Array): number {
  const max = logits[argmax(logits)]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - max);
  return max + Math.log(sum);
}

function argmax(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}

/** The reference's prediction at one position, worked out once for all that are compared with it. */
export class ReferenceRow {
  readonly #probabilities: Float64Array;
  /** Sum of p * log p. */
  #negativeEntropy = 0;
  /** The likeliest token. */
  top = 0;

  constructor(vocabSize: number) {
    this.#probabilities = new Float64Array(vocabSize);
  }

  set(logits: Float32Array): void {
    this.top = argmax(logits);
    const p = this.#probabilities;
    const max = logits[this.top]!;
    let sum = 0;
    let weighted = 0;
    for (let i = 0; i < p.length; i++) {
      const shifted = logits[i]! - max;
      p[i] = Math.exp(shifted);
      sum += p[i]!;
      weighted += p[i]! * shifted;
    }
    for (let i = 0; i < p.length; i++) p[i]! /= sum;
    this.#negativeEntropy = weighted / sum - Math.log(sum);
  }

  /** KL(reference || softmax(logits)), natural logarithm. @param norm logSumExp of `logits` */
  divergence(logits: Float32Array, norm: number): number {
    const p = this.#probabilities;
    let expected = 0;
    for (let i = 0; i < p.length; i++) expected += p[i]! * logits[i]!;
    return this.#negativeEntropy - expected + norm;
  }
}

/** What is known of one engine after some rows. */
export class QualityTally {
  #nll = 0;
  #sameTop = 0;
  #kld = 0;
  readonly #divergences: number[] = [];

  /** So far: negative log likelihoods, and divergences. */
  get sums(): { readonly nll: number; readonly kld: number } {
    return { nll: this.#nll, kld: this.#kld };
  }

  /** One position: the engine's row, the token that came next, and the reference's prediction (null for the reference itself). */
  add(logits: Float32Array, nextToken: number, reference: ReferenceRow | null): void {
    const norm = logSumExp(logits);
    this.#nll += norm - logits[nextToken]!;
    if (reference === null) return;
    const divergence = reference.divergence(logits, norm);
    this.#divergences.push(divergence);
    this.#kld += divergence;
    if (reference.top === argmax(logits)) this.#sameTop++;
  }

  /** The divergences that these shares of the rows do not exceed; 0 without rows. @param shares from 0 to 1 */
  quantiles(shares: readonly number[]): number[] {
    const sorted = this.#divergences.toSorted((a, b) => a - b);
    const last = sorted.length - 1;
    return shares.map((share) => sorted[Math.min(last, Math.floor(share * sorted.length))] ?? 0);
  }

  /** @param numTokens rows added */
  result(numTokens: number): QualityResult {
    const [median, p90, p99, p999, max] = this.quantiles([0.5, 0.9, 0.99, 0.999, 1]);
    const count = this.#divergences.length;
    return {
      tokens: numTokens,
      nll: this.#nll / numTokens,
      meanKld: count === 0 ? 0 : this.#kld / count,
      ...{ medianKld: median!, p90Kld: p90!, p99Kld: p99!, p999Kld: p999!, maxKld: max! },
      sameTop: count === 0 ? 1 : this.#sameTop / count,
    };
  }
}

export interface QualityResult {
  readonly tokens: number;
  /** Mean negative log-likelihood of the text. */
  readonly nll: number;
  /** To the reference; 0 for the reference itself. */
  readonly meanKld: number;
  readonly medianKld: number;
  readonly p90Kld: number;
  readonly p99Kld: number;
  readonly p999Kld: number;
  readonly maxKld: number;
  /** Share of positions where the likeliest token is the reference's. */
  readonly sameTop: number;
}
