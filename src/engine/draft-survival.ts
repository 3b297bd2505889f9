/**
 * How far drafts of each class go before the model disagrees, learned from how far they went. Knows classes and lengths only.
 *
 * A table of shares, f64 [numClasses, MAX_DRAFT_TOKENS]: entry (c, j) is the share of drafts of class c whose first j + 1 tokens were right. Not a
 * single rate per class, since drafts are of two kinds: wrong at once, or right for long.
 */

import { MAX_DRAFT_TOKENS } from './draft-source.ts';

export class DraftSurvival {
  readonly #shares: Float64Array;
  readonly #rate: number;

  private constructor(shares: Float64Array, rate: number) {
    this.#shares = shares;
    this.#rate = rate;
  }

  /**
   * @param firstRates what is believed of each class before anything was seen: the share of tokens that are right, given that those before are
   * @param rate       weight of a new draft in the running mean
   */
  static of(firstRates: readonly number[], rate: number): DraftSurvival {
    const shares = new Float64Array(firstRates.length * MAX_DRAFT_TOKENS);
    for (const [c, first] of firstRates.entries()) {
      for (let j = 0; j < MAX_DRAFT_TOKENS; j++)
        shares[c * MAX_DRAFT_TOKENS + j] = first ** (j + 1);
    }
    return new DraftSurvival(shares, rate);
  }

  /** What is known, as the start of something that learns for itself. */
  copy(rate: number): DraftSurvival {
    return new DraftSurvival(this.#shares.slice(), rate);
  }

  /** Share of drafts of class `c` whose first `numTokens` tokens are right. */
  share(c: number, numTokens: number): number {
    return this.#shares[c * MAX_DRAFT_TOKENS + numTokens - 1]!;
  }

  /**
   * Takes in one draft.
   *
   * @param numRight tokens that were right
   * @param isOver   whether the next one was wrong; else nobody knows
   */
  observe(c: number, numRight: number, isOver: boolean): void {
    const shares = this.#shares;
    const start = c * MAX_DRAFT_TOKENS;
    const end = start + (isOver ? MAX_DRAFT_TOKENS : Math.min(numRight, MAX_DRAFT_TOKENS));
    for (let i = start; i < end; i++) {
      const right = i - start < numRight ? 1 : 0;
      shares[i]! += this.#rate * (right - shares[i]!);
    }
  }
}
