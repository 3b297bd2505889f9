/**
 * Where drafted tokens come from: guesses of how a text goes on, checked by the model several at a time. Knows nothing of steps or of costs;
 * how many tokens are worth checking is the speculator's decision.
 *
 * A draft is a function of the tokens before it and of nothing random, so the model's own draw decides: the text is the same with any source.
 */

import type { TokenSpan } from './token-list.ts';

export const SPECULATIONS = ['ngram', 'off'] as const;
/** `ngram`: what the text itself said the last time. A draft model takes its place. */
export type Speculation = (typeof SPECULATIONS)[number];

/** What a source keeps of one sequence. */
export interface Drafter {
  /**
   * Takes in the tokens that came since the last call, and looks for a way on.
   *
   * @param tokens of the sequence, all that are settled; never fewer than before
   * @returns how good the guess is, from 0 to `numClasses - 1` of its source; `null` if there is none
   */
  look(tokens: TokenSpan): number | null;
  /** Share of drafts of class `c` whose first `numTokens` tokens turn out right, as this sequence and those before it have shown. */
  survival(c: number, numTokens: number): number;
  /** The sequence waits or is over: lets go of what is kept beside the tokens. `look` may come again. */
  drop(): void;
}

/** A draft that is asked for: how a text goes on from the last `look` of its drafter. */
export interface DraftOrder {
  readonly drafter: Drafter;
  readonly maxTokens: number;
  /** The drafted tokens. */
  readonly into: Int32Array;
  /** How many there are: `maxTokens` or fewer. Set by the source. */
  numTokens: number;
}

export interface DraftSource {
  /** For logs and figures. */
  readonly name: string;
  /** Guesses are told apart by how good they look; each class learns for itself. */
  readonly numClasses: number;
  open(): Drafter;
  /** Time that drafts of `count` tokens in all take, the longest of `depth` tokens, milliseconds; 0 where it is next to nothing or not known. */
  draftMs(depth: number, count: number): number;
  /** Writes the first `numOrders` drafts. */
  draft(orders: readonly DraftOrder[], numOrders: number): void;
  /** Does some of the work that drafters wait for since their last `look`, for about `budgetMs`. Returns the time that it took. */
  catchUp(budgetMs: number): number;
}

/** Most tokens drafted for one sequence in one step. */
export const MAX_DRAFT_TOKENS = 31;
