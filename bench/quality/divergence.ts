/** How far one model's predictions are from another's, in f64. Knows nothing of where logits come from. */

/** log(sum(exp(logits))). */
export function logSumExp(logits: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > max) max = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return max + Math.log(sum);
}

/** KL(reference || other) of the softmax of two rows, natural logarithm. */
export function klDivergence(reference: Float32Array, other: Float32Array): number {
  const refNorm = logSumExp(reference);
  const otherNorm = logSumExp(other);
  let sum = 0;
  for (let i = 0; i < reference.length; i++) {
    const logp = reference[i]! - refNorm;
    sum += Math.exp(logp) * (logp - (other[i]! - otherNorm));
  }
  return sum;
}

function argmax(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}

/** What is known of one engine after some rows. */
export class QualityTally {
  #nll = 0;
  #sameTop = 0;
  readonly #divergences: number[] = [];

  /** One position: the engine's row beside the reference's, and the token that came next. */
  add(reference: Float32Array, row: Float32Array, nextToken: number): void {
    this.#nll += logSumExp(row) - row[nextToken]!;
    if (reference === row) return;
    this.#divergences.push(klDivergence(reference, row));
    if (argmax(reference) === argmax(row)) this.#sameTop++;
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
      p99Kld: sorted[Math.floor(0.99 * count)] ?? 0,
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
  readonly p99Kld: number;
  /** Share of positions where the likeliest token is the reference's. */
  readonly sameTop: number;
}
