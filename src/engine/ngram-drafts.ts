/**
 * Drafts by prompt lookup: what followed the last time the text ended like this, in the prompt or the output of the same request. It costs next to
 * nothing, and pays where a text repeats itself: editing, extraction, code. Saxena 2023, "Prompt lookup decoding".
 *
 * Whether a guess was right is known for nothing as soon as the text has gone on, drafted or not. So each sequence follows its guess along in any
 * case, and what it would have gained by drafting is known without trying.
 */

import {
  type Drafter,
  type DraftOrder,
  type DraftSource,
  MAX_DRAFT_TOKENS,
} from './draft-source.ts';
import { DraftSurvival } from './draft-survival.ts';
import { MAX_MATCH_LENGTH, NgramIndex } from './ngram-index.ts';
import type { TokenSpan } from './token-list.ts';

/** Long n-grams first: they find the one right place in a long text; short ones resume a copy soon after a change. */
const ORDERS = [5, 2];
/** Classes by the length of the match: each takes lengths up to this, from 2. */
const CLASS_ENDS = [2, 3, 4, 6, 9, 15, MAX_MATCH_LENGTH - 1, MAX_MATCH_LENGTH];
/** Shares of right tokens believed at first, low enough for a class to prove itself before it costs anything. */
const FIRST_RATES = [0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85];
const SHARED_RATE = 0.05;
const OWN_RATE = 0.15;

const classOfLength = Uint8Array.from({ length: MAX_MATCH_LENGTH + 1 }, (_, length) =>
  CLASS_ENDS.findIndex((end) => length <= end),
);

export class NgramDraftSource implements DraftSource {
  readonly name = 'ngram';
  readonly numClasses = CLASS_ENDS.length;
  /** Learned over all sequences: what a new one starts from. */
  readonly #survival = DraftSurvival.of(FIRST_RATES, SHARED_RATE);

  open(): Drafter {
    return new NgramDrafter(this.#survival);
  }

  draftMs(): number {
    return 0;
  }

  draft(orders: readonly DraftOrder[], numOrders: number): void {
    for (let i = 0; i < numOrders; i++) {
      const order = orders[i]!;
      order.numTokens = (order.drafter as NgramDrafter).draft(order.maxTokens, order.into);
    }
  }

  catchUp(): number {
    return 0;
  }
}

class NgramDrafter implements Drafter {
  readonly #shared: DraftSurvival;
  readonly #own: DraftSurvival;
  readonly #indexes = ORDERS.map((order) => new NgramIndex(order));
  /** As `look` last saw them. */
  #tokens: TokenSpan | null = null;
  #numSeen = 0;
  /** The guess under observation: the text is to go on like the tokens from `#source`. */
  #hasGuess = false;
  #source = 0;
  /** Length of the match when the guess was made, and how many tokens were right since. */
  #matchLength = 0;
  #numRight = 0;

  constructor(shared: DraftSurvival) {
    this.#shared = shared;
    this.#own = shared.copy(OWN_RATE);
  }

  look(tokens: TokenSpan): number | null {
    const { ids, length } = tokens;
    this.#tokens = tokens;
    for (; this.#numSeen < length; this.#numSeen++) {
      if (this.#hasGuess) this.#compare(ids[this.#source]! === ids[this.#numSeen]!);
    }
    if (!this.#hasGuess) this.#guess(tokens);
    if (!this.#hasGuess) return null;
    return classOfLength[Math.min(this.#matchLength + this.#numRight, MAX_MATCH_LENGTH)]!;
  }

  /** Writes the guess found by the last `look`. Returns how many tokens it wrote. */
  draft(maxTokens: number, into: Int32Array): number {
    const tokens = this.#tokens;
    if (!this.#hasGuess || tokens === null) return 0;
    // Where the source runs into the end of the text, the text repeats what stands between: the draft goes on with its own start.
    const period = tokens.length - this.#source;
    for (let i = 0; i < maxTokens; i++) {
      into[i] = i < period ? tokens.ids[this.#source + i]! : into[i - period]!;
    }
    return maxTokens;
  }

  survival(c: number, numTokens: number): number {
    return this.#own.share(c, numTokens);
  }

  /** An index of the text is the text's own, wherever its keys and values are. */
  drop(): void {}

  #compare(isRight: boolean): void {
    if (isRight) {
      this.#source++;
      this.#numRight++;
      if (this.#numRight < MAX_DRAFT_TOKENS) return;
    }
    this.#learn(!isRight);
    if (isRight) {
      this.#matchLength = Math.min(this.#matchLength + this.#numRight, MAX_MATCH_LENGTH);
      this.#numRight = 0;
    } else {
      this.#hasGuess = false;
    }
  }

  /** A guess that was right for a while would have been made again at each of its tokens, with a longer match: each class learns once. */
  #learn(isOver: boolean): void {
    let before = -1;
    for (let i = 0; i <= this.#numRight; i++) {
      const c = classOfLength[Math.min(this.#matchLength + i, MAX_MATCH_LENGTH)]!;
      if (c === before) continue;
      before = c;
      this.#shared.observe(c, this.#numRight - i, isOver);
      this.#own.observe(c, this.#numRight - i, isOver);
    }
  }

  #guess(tokens: TokenSpan): void {
    for (const index of this.#indexes) {
      if (!index.find(tokens)) continue;
      this.#hasGuess = true;
      this.#source = index.matchEnd;
      this.#matchLength = index.matchLength;
      this.#numRight = 0;
      return;
    }
  }
}
