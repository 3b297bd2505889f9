/**
 * Finds where the end of a token list stood before in the same list: hash chains over n-grams, as LZ77 packers keep them. Grows with the list, at
 * a few nanoseconds a token and eight bytes. Knows nothing of what is done with a match.
 *
 *   tokens    a b c d e x a b c d         the last n-gram "c d" stands at its earlier end, too,
 *                   ^end                  and on from there the list went: e x a ...
 */

import type { TokenSpan } from './token-list.ts';

/** Matches are measured up to this many tokens back. */
export const MAX_MATCH_LENGTH = 32;
/** Places that are compared before the best so far is taken. */
const MAX_CANDIDATES = 32;

export class NgramIndex {
  readonly #order: number;
  /** By hash: the latest position at which such an n-gram ends, plus one; 0 for none. */
  #heads: Int32Array = new Int32Array(256);
  /** By position: the position before it in the same chain, plus one. */
  #previous: Int32Array<ArrayBuffer> = new Int32Array(256);
  /** N-grams that end before this position are indexed. */
  #numIndexed = 0;

  /** Position after the best match: the first token of what came then. */
  matchEnd = 0;
  /** Tokens before `matchEnd` that are equal to the last ones of the list, up to `MAX_MATCH_LENGTH`; at least the order of the index. */
  matchLength = 0;

  /** @param order tokens in an n-gram: shorter matches are not found */
  constructor(order: number) {
    this.#order = order;
  }

  /** Looks for the longest earlier match of the list's end, the latest of equally long ones. */
  find(tokens: TokenSpan): boolean {
    const { ids, length } = tokens;
    this.matchLength = 0;
    if (length <= this.#order) return false;
    this.#extend(ids, length - 1);
    const last = length - 1;
    let next = this.#heads[this.#hash(ids, last)]!;
    for (let tried = 0; next > 0 && tried < MAX_CANDIDATES; tried++) {
      const position = next - 1;
      next = this.#previous[position]!;
      const most = Math.min(position + 1, MAX_MATCH_LENGTH);
      let matched = 0;
      while (matched < most && ids[position - matched] === ids[last - matched]) matched++;
      if (matched < this.#order || matched <= this.matchLength) continue;
      this.matchLength = matched;
      this.matchEnd = position + 1;
      if (matched === MAX_MATCH_LENGTH) break;
    }
    return this.matchLength > 0;
  }

  /** Indexes the n-grams that end before `end`. */
  #extend(ids: Int32Array, end: number): void {
    if (end > this.#previous.length) {
      this.#previous = new Int32Array(this.#previous.buffer.transfer(4 * 2 * end));
      // Chains stay short where there are as many of them as tokens.
      this.#heads = new Int32Array(2 ** Math.ceil(Math.log2(this.#previous.length)));
      this.#numIndexed = 0;
    }
    for (let i = Math.max(this.#numIndexed, this.#order - 1); i < end; i++) {
      const hash = this.#hash(ids, i);
      this.#previous[i] = this.#heads[hash]!;
      this.#heads[hash] = i + 1;
    }
    this.#numIndexed = end;
  }

  /** Of the n-gram that ends at position `last`. */
  #hash(ids: Int32Array, last: number): number {
    let hash = 0;
    for (let i = last - this.#order + 1; i <= last; i++) {
      hash = Math.imul(hash ^ ids[i]!, 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    return hash & (this.#heads.length - 1);
  }
}
