/** The lists that say which tile of queries sees which spans of its context (attention-spans.ts): what those who fill them must know. */

/** Tokens of a span, counted from position 0 of the context. */
export const SPAN_TOKENS = 256;

/**
 * An entry of the lists `tiles` and `merges`: i32 fields, by their offsets in bytes. A tile is query tokens of one sequence, [firstToken, firstToken +
 * numTokens) of the step, attending to spans [firstSpan, endSpan) as far as any of them sees these.
 *
 * With `isPart` (1 or 0) the tile has one span, and the state of its rows goes to the parts `firstPart` .. `firstPart + numTokens - 1`; an entry of
 * `merges` then folds them, the parts of span s beginning at its firstPart + s * numTokens. `openGroup` is where the tile's own group of positions lies
 * (open-group.ts), for formats that have these.
 */
export const TILE_ENTRY = {
  sequence: 0,
  firstToken: 4,
  numTokens: 8,
  firstSpan: 12,
  endSpan: 16,
  isPart: 20,
  firstPart: 24,
  openGroup: 28,
  bytes: 32,
} as const;
