import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { StepBatch } from './model-runner.ts';
import { maxSeals, maxStepGroups, numOwnGroups, OpenGroups } from './open-groups.ts';
import { createStepBatch, StepError } from './step-batch.ts';

const LIMITS = {
  maxTokens: 256,
  maxSeqs: 4,
  maxLogitRows: 4,
  maxModelLen: 1024,
  blockSize: 32,
  numBlocks: 128,
  vocabSize: 10,
  hiddenSize: 8,
};

/** Of a step: the slot of each sequence, and the positions [begin, end) that it computes. Blocks are numbered by sequence: 1000 * slot + index. */
type Part = readonly [slot: number, begin: number, end: number];

function batchOf(parts: readonly Part[]): StepBatch {
  const batch = createStepBatch(LIMITS);
  for (const [s, [slot, begin, end]] of parts.entries()) {
    batch.sequenceSlots[s] = slot;
    batch.queryStarts[s + 1] = batch.queryStarts[s]! + end - begin;
    batch.contextLens[s] = end;
    for (let b = 0; b < batch.maxBlocksPerSeq; b++) {
      batch.blockTables[s * batch.maxBlocksPerSeq + b] = 1000 * slot + b;
    }
  }
  batch.numSeqs = parts.length;
  batch.numTokens = batch.queryStarts[parts.length]!;
  return batch;
}

/** Group of each of the step's groups of 32 positions, and [group, block] of those that it fills. */
function step(groups: OpenGroups, ...parts: Part[]) {
  groups.make(batchOf(parts));
  const ids = parts.map(([, begin, end], s) => {
    const of: number[] = [];
    for (let g = Math.floor(begin / 32); 32 * g < end; g++) {
      of.push(groups.idOf(s, Math.max(begin, 32 * g)));
    }
    return of;
  });
  let token = 0;
  for (const [s, [, begin, end]] of parts.entries()) {
    for (let position = begin; position < end; position++) {
      const expected = 32 * groups.idOf(s, position) + (position % 32);
      assert.equal(groups.openSlots[token++], expected);
    }
  }
  assert.ok(groups.numSeals <= maxSeals(LIMITS));
  const seals = Array.from({ length: groups.numSeals }, (_, i) => [
    groups.seals[2 * i]!,
    groups.seals[2 * i + 1]!,
  ]);
  return { ids, seals };
}

test('a sequence stays in its group until the group is full, and then leaves it', () => {
  const groups = new OpenGroups(LIMITS);
  const { ids } = step(groups, [0, 0, 5]);
  const home = ids[0]![0]!;
  assert.deepEqual(step(groups, [0, 5, 31]), { ids: [[home]], seals: [] });
  assert.deepEqual(step(groups, [0, 31, 32]), { ids: [[home]], seals: [[home, 0]] });
  // The next group takes the same memory: one sequence, one group in use.
  assert.deepEqual(step(groups, [0, 32, 33]), { ids: [[home]], seals: [] });
});

test('a chunk of many groups keeps the first one if it was begun before, and the last', () => {
  const groups = new OpenGroups(LIMITS);
  const [home] = step(groups, [1, 0, 20]).ids[0]!;
  const { ids, seals } = step(groups, [1, 20, 140]);
  const [first, ...rest] = ids[0]!;
  const last = rest.pop()!;
  assert.equal(first, home);
  assert.ok(last < numOwnGroups(LIMITS) && last !== first);
  assert.deepEqual(
    rest,
    [0, 1, 2].map((i) => numOwnGroups(LIMITS) + i),
  );
  assert.ok(rest.length <= maxStepGroups(LIMITS));
  assert.deepEqual(
    seals,
    [first!, ...rest].map((id, i) => [id, 1000 + i]),
  );
  assert.deepEqual(step(groups, [1, 140, 141]).ids, [[last]]);
});

test('drafts over the end of a group are taken back, or not', () => {
  const groups = new OpenGroups(LIMITS);
  step(groups, [0, 0, 30]);
  const [first, last] = step(groups, [0, 30, 36]).ids[0]!;
  assert.deepEqual(step(groups, [0, 31, 35]).ids, [[first, last]], 'refused');
  assert.deepEqual(step(groups, [0, 33, 40]).ids, [[last]], 'accepted');
  assert.throws(() => step(groups, [0, 31, 32]), StepError, 'too late');
});

test('a step made twice, or a batch that is refused, changes nothing', () => {
  const groups = new OpenGroups(LIMITS);
  step(groups, [0, 0, 20], [2, 0, 70]);
  const again = () => step(groups, [0, 20, 50], [2, 70, 100]);
  const made = again();
  assert.deepEqual(again(), made);
  assert.throws(() => step(groups, [0, 50, 51], [1, 3, 4]), /does not keep/);
  assert.throws(() => step(groups, [0, 50, 51], [0, 0, 4]), /another sequence/);
  assert.throws(() => step(groups, [0, 55, 56]), /position 55/);
  assert.deepEqual(again(), made);
});

test('sequences that come and go never share a group', () => {
  const groups = new OpenGroups(LIMITS);
  const lengths = [0, 0, 0, 0];
  let state = 7;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % below;
  };
  for (let round = 0; round < 2000; round++) {
    const parts: Part[] = [];
    for (let slot = 0; slot < 4; slot++) {
      if (random(3) === 0) continue;
      // A new one, or one behind cached blocks, or the next tokens, some of them drafts.
      if (random(20) === 0 || lengths[slot]! > 900) lengths[slot] = 32 * random(4);
      const begin = lengths[slot]!;
      const end = begin + 1 + random(random(8) === 0 ? 60 : 9);
      parts.push([slot, begin, end]);
      lengths[slot] = begin + 1 + random(end - begin);
      if (end - begin > 31) lengths[slot] = end;
    }
    const { ids, seals } = step(groups, ...parts);
    const all = ids.flat();
    assert.equal(new Set(all).size, all.length);
    const numFilled = parts.map(([, b, e]) => Math.floor(e / 32) - Math.floor(b / 32));
    assert.equal(
      seals.length,
      numFilled.reduce((a, b) => a + b, 0),
    );
  }
});
