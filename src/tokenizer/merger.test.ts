import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { StringList } from '../platform/string-list.ts';
import { bridgeCutStep } from './bridge-cuts.ts';
import { Merger } from './merger.ts';
import { MergeTable, ScoreRanks } from './merges.ts';
import { Vocabulary } from './vocabulary.ts';

const noFallback = { byteIds: null, unknownId: null, fuseUnknown: false, ignoreMerges: false };

function encodeWith(merger: Merger, text: string): number[] {
  const bytes = new TextEncoder().encode(text);
  const ids: number[] = [];
  merger.encode(bytes, bytes.length, ids);
  return ids;
}

/** Byte-pair encoding as it is defined: the lowest-ranked pair, the leftmost of equals, again and again. */
function encodeSlowly(
  text: string,
  rankOf: (left: string, right: string) => number | undefined,
): string[] {
  const symbols = [...text];
  for (;;) {
    let best = -1;
    let bestRank = Number.POSITIVE_INFINITY;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const rank = rankOf(symbols[i]!, symbols[i + 1]!);
      if (rank !== undefined && rank < bestRank) {
        best = i;
        bestRank = rank;
      }
    }
    if (best < 0) return symbols;
    symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
  }
}

/** Random merges over a, b, c: each joins two tokens that are there already. */
const mergesArbitrary = fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 25 }).map((picks) => {
  const tokens = ['a', 'b', 'c'];
  const merges: [string, string][] = [];
  for (const [left, right] of picks) {
    const pair: [string, string] = [tokens[left % tokens.length]!, tokens[right % tokens.length]!];
    if (merges.some(([l, r]) => l === pair[0] && r === pair[1])) continue;
    merges.push(pair);
    if (!tokens.includes(pair.join(''))) tokens.push(pair.join(''));
  }
  return { tokens, merges };
});
const textArbitrary = fc
  .array(fc.constantFrom('a', 'b', 'c'), { maxLength: 60 })
  .map((chars) => chars.join(''));

test('ranked merges: the heap does what the definition says', () => {
  fc.assert(
    fc.property(mergesArbitrary, textArbitrary, ({ tokens, merges }, text) => {
      const vocabulary = new Vocabulary({
        tokens: StringList.of(tokens),
        spelling: 'plain',
        isIndexed: () => true,
      });
      const table = new MergeTable(vocabulary, merges, true);
      const merger = new Merger(vocabulary, table, { ...noFallback, symbols: 'bytes' });
      const expected = encodeSlowly(text, (left, right) => {
        const rank = merges.findIndex(([l, r]) => l === left && r === right);
        return rank < 0 ? undefined : rank;
      });
      assert.deepEqual(
        encodeWith(merger, text).map((id) => tokens[id]),
        expected,
      );
    }),
    { numRuns: 3000 },
  );
});

test('scored tokens: the heap does what the definition says, cut at bridges or not', () => {
  const scored = fc.tuple(
    mergesArbitrary,
    fc.array(fc.integer({ min: -8, max: 0 }), { minLength: 40, maxLength: 40 }),
  );
  fc.assert(
    fc.property(scored, textArbitrary, ([{ tokens }, allScores], text) => {
      const scores = allScores.slice(0, tokens.length);
      const vocabulary = new Vocabulary({
        tokens: StringList.of(tokens),
        spelling: 'plain',
        isIndexed: () => true,
      });
      const merger = new Merger(vocabulary, new ScoreRanks(scores), {
        ...noFallback,
        symbols: 'characters',
      });
      const expected = encodeSlowly(text, (left, right) => {
        const id = tokens.indexOf(left + right);
        return id < 0 ? undefined : -scores[id]!;
      });
      assert.deepEqual(
        encodeWith(merger, text).map((id) => tokens[id]),
        expected,
      );
      const pieces = bridgeCutStep(vocabulary)(text, true);
      assert.equal(pieces.join(''), text);
      assert.deepEqual(
        pieces.flatMap((piece) => encodeWith(merger, piece)).map((id) => tokens[id]),
        expected,
      );
    }),
    { numRuns: 3000 },
  );
});

test('bridge cuts fall between characters, never inside one', () => {
  const vocabulary = new Vocabulary({
    tokens: StringList.of(['a', ' a']),
    spelling: 'space-mark',
    isIndexed: () => true,
  });
  const cut = bridgeCutStep(vocabulary);
  assert.deepEqual(cut('a a a', true), ['a', ' a', ' a']);
  assert.deepEqual(cut('a▁a', true), ['a', '▁a']);
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 30 }), (text) => {
      const pieces = cut(text, true);
      assert.equal(pieces.join(''), text);
      for (const piece of pieces) assert.ok(piece.isWellFormed());
    }),
  );
});

test('a symbol that is no token becomes bytes, else unknown, else nothing', () => {
  const tokens = ['a', '<unk>', '<0xC3>', '<0xA9>'];
  const vocabulary = new Vocabulary({
    tokens: StringList.of(tokens),
    spelling: 'plain',
    isIndexed: (id) => id === 0,
  });
  const encode = (
    options: Partial<ConstructorParameters<typeof Merger>[2]>,
    text: string,
  ): number[] =>
    encodeWith(
      new Merger(vocabulary, new ScoreRanks([0, 0, 0, 0]), {
        ...noFallback,
        symbols: 'characters',
        ...options,
      }),
      text,
    );
  const byteIds = new Int32Array(256).fill(-1);
  byteIds[0xc3] = 2;
  byteIds[0xa9] = 3;
  assert.deepEqual(encode({ byteIds, unknownId: 1 }, 'aé'), [0, 2, 3]);
  assert.deepEqual(encode({ byteIds, unknownId: 1 }, 'aèa'), [0, 1, 0], 'a byte is missing');
  assert.deepEqual(encode({ unknownId: 1 }, 'éèa'), [1, 1, 0]);
  assert.deepEqual(encode({ unknownId: 1, fuseUnknown: true }, 'éèaé'), [1, 0, 1]);
  assert.deepEqual(encode({}, 'éèa'), [0]);
});

test('ignoreMerges takes a piece that is a token whole', () => {
  const tokens = ['a', 'b', 'ab', 'abab'];
  const vocabulary = new Vocabulary({
    tokens: StringList.of(tokens),
    spelling: 'plain',
    isIndexed: () => true,
  });
  const table = new MergeTable(vocabulary, ['a b'], true);
  for (const [ignoreMerges, expected] of [
    [true, [3]],
    [false, [2, 2]],
  ] as const) {
    const merger = new Merger(vocabulary, table, { ...noFallback, symbols: 'bytes', ignoreMerges });
    assert.deepEqual(encodeWith(merger, 'abab'), expected);
  }
});

test('of two tokens with the same bytes, encoding gives the first', () => {
  const vocabulary = new Vocabulary({
    tokens: StringList.of(['a', 'a']),
    spelling: 'plain',
    isIndexed: () => true,
  });
  assert.equal(vocabulary.find(new TextEncoder().encode('a'), 0, 1), 0);
  assert.deepEqual([...vocabulary.bytesOf(1)], [97]);
});
