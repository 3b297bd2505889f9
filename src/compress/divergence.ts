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
  readonly #divergences: number[] = [];

  /** One position: the engine's row, the token that came next, and the reference's prediction (null for the reference itself). */
  add(logits: Float32Array, nextToken: number, reference: ReferenceRow | null): void {
    const norm = logSumExp(logits);
    this.#nll += norm - logits[nextToken]!;
    if (reference === null) return;
    this.#divergences.push(reference.divergence(logits, norm));
    if (reference.top === argmax(logits)) this.#sameTop++;
  }

  /** @param numTokens rows added */
  result(numTokens: number): QualityResult {
    const sorted = this.#divergences.toSorted((a, b) => a - b);
    const count = sorted.length;
    return {
      tokens: numTokens,
      nll: this.#nll / numTokens,
      meanKld: count === 0 ? 0 : sorted.reduce((a, b) => a + b, 0) / count,
      medianKld: sorted[count >> 1] ?? 0,
      p90Kld: sorted[Math.floor(0.9 * count)] ?? 0,
      p99Kld: sorted[Math.floor(0.99 * count)] ?? 0,
      p999Kld: sorted[Math.floor(0.999 * count)] ?? 0,
      maxKld: sorted.at(-1) ?? 0,
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
