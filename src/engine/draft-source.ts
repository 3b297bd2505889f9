/**
 * Where drafted tokens come from: guesses of how a text goes on, checked by the model several at a time. Knows nothing of steps or of costs;
 * how many tokens are worth checking is the speculator's decision.
 *
 * A draft is a function of the tokens before it and of nothing random, so the model's own draw decides: the text is the same with any source.
 */

import type { TokenSpan } from './token-list.ts';

/** What a source keeps of one sequence. */
export interface Drafter {
  /**
   * Takes in the tokens that came since the last call, and looks for a way on.
   *
   * @param tokens of the sequence, all that are settled; never fewer than before
   * @returns how good the guess is, from 0 to `numClasses - 1` of its source; `null` if there is none
   */
  look(tokens: TokenSpan): number | null;
  /**
   * Writes the guess found by the last `look`.
   *
   * @returns how many tokens it wrote: `maxTokens` or fewer
   */
  draft(tokens: TokenSpan, maxTokens: number, into: Int32Array): number;
  /** Share of drafts of class `c` whose first `numTokens` tokens turn out right, as this sequence and those before it have shown. */
  survival(c: number, numTokens: number): number;
}

export interface DraftSource {
  /** For logs and figures. */
  readonly name: string;
  /** Guesses are told apart by how good they look; each class learns for itself. */
  readonly numClasses: number;
  /** Time that one drafted token takes, milliseconds; 0 where it is next to nothing. */
  readonly draftTokenMs: number;
  open(): Drafter;
}

/** Most tokens drafted for one sequence in one step. */
export const MAX_DRAFT_TOKENS = 31;
