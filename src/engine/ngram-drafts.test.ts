import assert from 'node:assert/strict';
import test from 'node:test';
import { MAX_DRAFT_TOKENS } from './draft-source.ts';
import { NgramDraftSource } from './ngram-drafts.ts';
import { TokenList } from './token-list.ts';

const drafted = (ids: number[], count: number): number[] | null => {
  const source = new NgramDraftSource();
  const drafter = source.open();
  if (drafter.look(new TokenList(ids)) === null) return null;
  const into = new Int32Array(MAX_DRAFT_TOKENS);
  const order = { drafter, maxTokens: count, into, numTokens: 0 };
  source.draft([order], 1);
  return Array.from(into.subarray(0, order.numTokens));
};

test('a draft is what came the last time', () => {
  assert.deepEqual(drafted([1, 2, 3, 4, 5, 6, 1, 2, 3], 4), [4, 5, 6, 1]);
  assert.equal(drafted([1, 2, 3, 4], 4), null);
});

test('a draft that runs into the end of the text goes on with itself', () => {
  assert.deepEqual(drafted([9, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
  assert.deepEqual(drafted([7, 7, 7], 3), [7, 7, 7]);
});

test('a longer match is preferred to a later one', () => {
  assert.deepEqual(drafted([1, 2, 3, 4, 50, 9, 3, 4, 60, 1, 2, 3, 4], 1), [50]);
});

/** Feeds a text token by token, as an engine that never drafts would, and gives the belief in a long match. */
function followed(ids: readonly number[]): { first: number; tenth: number } {
  const drafter = new NgramDraftSource().open();
  const tokens = new TokenList([]);
  let c = 0;
  for (const id of ids) {
    tokens.push(id);
    c = Math.max(c, drafter.look(tokens) ?? 0);
  }
  return { first: drafter.survival(c, 1), tenth: drafter.survival(c, 10) };
}

test('belief follows what would have come of the drafts, though none was made', () => {
  const page = Array.from({ length: 200 }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 18);
  const copied = followed([...page, ...page, ...page]);
  assert.ok(copied.first > 0.95 && copied.tenth > 0.85, JSON.stringify(copied));
  // Phrases of six that always go on differently: the next token of one may be known, the tenth never is.
  const phrase = [1, 2, 3, 4, 5, 6];
  const deceptive = followed(Array.from({ length: 60 }, (_, i) => [...phrase, 100 + i]).flat());
  assert.ok(deceptive.tenth < 0.05, JSON.stringify(deceptive));
});

test('a new sequence starts from what others have shown', () => {
  const source = new NgramDraftSource();
  const before = source.open().survival(7, 10);
  const drafter = source.open();
  const page = Array.from({ length: 300 }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 18);
  const tokens = new TokenList([]);
  for (const id of [...page, ...page]) {
    tokens.push(id);
    drafter.look(tokens);
  }
  assert.ok(source.open().survival(7, 10) > before + 0.1);
});
