import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SPAN_TOKENS, TILE_ENTRY } from '../kernels/tile-entry.ts';
import type { StepBatch } from '../targets/model-runner.ts';
import { type AttentionTileLimits, AttentionTiles, maxTileEntries } from './attention-tiles.ts';

const FIELDS = TILE_ENTRY.bytes / 4;
const LIMITS: AttentionTileLimits = {
  tileTokens: 4,
  maxParts: 64,
  numKvHeads: 3,
  numThreads: 2,
  openGroups: null,
};

interface Entry {
  readonly sequence: number;
  readonly firstToken: number;
  readonly numTokens: number;
  readonly spans: readonly [number, number];
  /** First part, of entries that have any. */
  readonly part: number | null;
}

/** Tiles and merges for sequences of (contextLen, queryLen). */
function tilesOf(
  sequences: readonly (readonly [number, number])[],
  limits: AttentionTileLimits = LIMITS,
): { tiles: Entry[]; merges: Entry[] } {
  const queryStarts = new Int32Array(sequences.length + 1);
  sequences.forEach(([, queryLen], s) => {
    queryStarts[s + 1] = queryStarts[s]! + queryLen;
  });
  const most = maxTileEntries(limits, {
    maxTokens: queryStarts.at(-1)!,
    maxSeqs: sequences.length,
  });
  const lists = {
    tiles: new Int32Array(FIELDS * most.tiles),
    merges: new Int32Array(FIELDS * most.merges),
  };
  const made = new AttentionTiles(limits, lists);
  const contextLens = Int32Array.from(sequences, ([contextLen]) => contextLen);
  made.make({ numSeqs: sequences.length, queryStarts, contextLens } as unknown as StepBatch);
  assert.ok(made.numTiles <= most.tiles && made.numMerges <= most.merges, 'the lists have room');
  const entries = (list: Int32Array, count: number, isMerge: boolean): Entry[] =>
    Array.from({ length: count }, (_, i) => {
      const [sequence, firstToken, numTokens, firstSpan, endSpan, isPart, part] = list.subarray(
        i * FIELDS,
      ) as unknown as number[];
      return {
        sequence: sequence!,
        firstToken: firstToken!,
        numTokens: numTokens!,
        spans: [firstSpan!, endSpan!],
        part: isPart || isMerge ? part! : null,
      };
    });
  return {
    tiles: entries(lists.tiles, made.numTiles, false),
    merges: entries(lists.merges, made.numMerges, true),
  };
}

test('one long sequence is split into its spans, and merged', () => {
  const { tiles, merges } = tilesOf([[2 * SPAN_TOKENS + 1, 1]]);
  const tile = { sequence: 0, firstToken: 0, numTokens: 1 };
  assert.deepEqual(tiles, [
    { ...tile, spans: [0, 1], part: 0 },
    { ...tile, spans: [1, 2], part: 1 },
    { ...tile, spans: [2, 3], part: 2 },
  ]);
  assert.deepEqual(merges, [{ ...tile, spans: [0, 3], part: 0 }]);
});

test('a context of one span stays whole', () => {
  const { tiles, merges } = tilesOf([[SPAN_TOKENS, 1]]);
  assert.deepEqual(tiles, [
    { sequence: 0, firstToken: 0, numTokens: 1, spans: [0, 1], part: null },
  ]);
  assert.deepEqual(merges, []);
});

test('enough tiles of like size stay whole; a much longer one among them is split', () => {
  const many = Array.from({ length: 16 }, () => [2 * SPAN_TOKENS, 1] as const);
  assert.deepEqual(tilesOf(many).merges, []);
  const { merges } = tilesOf([...many, [30 * SPAN_TOKENS, 1]]);
  assert.deepEqual(
    merges.map(({ sequence, spans }) => ({ sequence, spans })),
    [{ sequence: 16, spans: [0, 30] }],
  );
});

test('a prompt is not split, but a few tokens behind a long context are', () => {
  assert.deepEqual(tilesOf([[4 * SPAN_TOKENS, 4 * SPAN_TOKENS]]).merges, []);
  assert.equal(tilesOf([[4 * SPAN_TOKENS, 3]]).merges.length, 1);
});

test('parts of all tiles fit the memory and do not overlap', () => {
  const sequences = Array.from({ length: 4 }, (_, i) => [(8 + i) * SPAN_TOKENS, 3] as const);
  const { tiles, merges } = tilesOf(sequences, { ...LIMITS, numKvHeads: 1 });
  const used = new Set<number>();
  for (const { part, numTokens } of tiles) {
    for (let t = 0; part !== null && t < numTokens; t++) {
      assert.ok(part + t < LIMITS.maxParts);
      assert.ok(!used.has(part + t), 'each part belongs to one tile');
      used.add(part + t);
    }
  }
  assert.equal(merges.length, 2, 'the third would not fit');
  assert.equal(used.size, 3 * (8 + 9));
});

test('every token of the step is in one tile for each of its spans', () => {
  const sequences = [
    [700, 9],
    [12, 12],
    [5000, 1],
    [300, 2],
  ] as const;
  const { tiles } = tilesOf(sequences);
  const seen: number[][] = Array.from({ length: 24 }, () => []);
  for (const { firstToken, numTokens, spans } of tiles) {
    for (let t = firstToken; t < firstToken + numTokens; t++) {
      for (let span = spans[0]; span < spans[1]; span++) seen[t]!.push(span);
    }
  }
  let token = 0;
  for (const [contextLen, queryLen] of sequences) {
    for (let i = contextLen - queryLen; i < contextLen; i++, token++) {
      const needed = Math.ceil((i + 1) / SPAN_TOKENS);
      assert.deepEqual(
        seen[token]!.slice(0, needed),
        Array.from({ length: needed }, (_, s) => s),
      );
    }
  }
});
