/**
 * Log-probabilities as vLLM reports them: log-softmax of the model's own logits, before penalties, bias and temperature.
 */

import type { SlicedLogits } from './sliced-logits.ts';

export interface TokenLogprob {
  readonly tokenId: number;
  /** Natural logarithm. */
  readonly logprob: number;
}

/** The `count` most probable tokens of a row, the most probable first. The row must not be edited at the time. */
export function topLogprobs(row: SlicedLogits, count: number): TokenLogprob[] {
  const logNormaliser = row.logNormaliser();
  const numFound = row.selectTop(count, Number.NEGATIVE_INFINITY);
  const top: TokenLogprob[] = [];
  for (let i = 0; i < numFound; i++) {
    const tokenId = row.topId(i);
    top.push({ tokenId, logprob: row.logits[tokenId]! - logNormaliser });
  }
  return top;
}

/** Log-probability of one token. The row must not be edited at the time. */
export function logprobOf(row: SlicedLogits, tokenId: number): number {
  return row.logits[tokenId]! - row.logNormaliser();
}
