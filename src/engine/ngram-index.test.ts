import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { MAX_MATCH_LENGTH, NgramIndex } from './ngram-index.ts';
import { TokenList } from './token-list.ts';

/** The longest earlier match of the end of the list, the latest of equally long ones, by comparing everything. */
function slowFind(ids: readonly number[], order: number): { end: number; length: number } | null {
  let best: { end: number; length: number } | null = null;
  for (let end = 1; end < ids.length; end++) {
    let length = 0;
    while (
      length < Math.min(end, MAX_MATCH_LENGTH) &&
      ids[end - 1 - length] === ids.at(-1 - length)
    ) {
      length++;
    }
    if (length >= order && length >= (best?.length ?? 0)) best = { end, length };
  }
  return best;
}

test('finds what comparing everything finds, while the list grows', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(1, 2, 3, 5),
      // Up to 33 tokens, so that no chain is longer than what is compared.
      fc.array(fc.nat({ max: 3 }), { minLength: 1, maxLength: 33, size: 'max' }),
      (order, ids) => {
        const index = new NgramIndex(order);
        const tokens = new TokenList([]);
        for (const [i, id] of ids.entries()) {
          tokens.push(id);
          const expected = slowFind(ids.slice(0, i + 1), order);
          assert.equal(index.find(tokens), expected !== null);
          if (expected === null) continue;
          assert.deepEqual([index.matchEnd, index.matchLength], [expected.end, expected.length]);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('finds a long match far back in a long list', () => {
  const ids = Array.from({ length: 5000 }, (_, i) => Math.imul(i + 7, 0x9e3779b1) >>> 20);
  const tokens = new TokenList([...ids, ...ids.slice(1234, 1284)]);
  const index = new NgramIndex(5);
  assert.ok(index.find(tokens));
  assert.deepEqual([index.matchEnd, index.matchLength], [1284, MAX_MATCH_LENGTH]);
});

test('an end that never stood before has no match', () => {
  const index = new NgramIndex(2);
  assert.equal(index.find(new TokenList([1, 2, 3, 1, 3])), false);
  assert.equal(index.find(new TokenList([])), false);
});
