import assert from 'node:assert/strict';
import test from 'node:test';
import { BlockManager, BlockTable } from './block-manager.ts';
import { PrefillPacer } from './prefill-pacer.ts';
import { DEFAULT_PRIORITY_OPTIONS } from './priority.ts';
import { type EngineRequest, prepareRequest } from './request.ts';
import { Scheduler, type SchedulerOutput } from './scheduler.ts';
import { Sequence } from './sequence.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';

const LIMITS = {
  maxTokens: 16,
  maxSeqs: 4,
  maxLogitRows: 4,
  maxModelLen: 200,
  blockSize: 4,
  numBlocks: 12,
  vocabSize: 100,
  hiddenSize: 8,
  hasOpenBlocks: false,
};

/** A scheduler with prompts chunked at 6 tokens beside streams, and what a test needs to drive it. */
function setUp(limits: Partial<typeof LIMITS> = {}) {
  const all = { ...LIMITS, ...limits };
  const blocks = new BlockManager({ ...all, hasPrefixCache: true });
  const pacer = new PrefillPacer({
    ...{ targetStepMs: 0, maxStepMs: 0, yieldStepMs: 0 },
    ...{ fewWaiting: 1, manyWaiting: 2, minTokens: 6 },
  });
  pacer.observe(1, 6, 1);
  const scheduler = new Scheduler({ limits: all, blocks, pacer });
  const add = (
    name: string,
    promptTokenIds: number[],
    maxTokens = 5,
    more: Partial<EngineRequest> = {},
  ): Sequence => {
    const samplingParams = { maxTokens };
    const request = prepareRequest(
      { requestId: name, promptTokenIds, samplingParams, ...more },
      all,
    );
    const sequence = new Sequence(request, byteTokenizer, 0);
    scheduler.add(sequence);
    return sequence;
  };
  /** One step, as the engine would take it. Returns who computed how much. */
  const step = (nowMs = 0): Record<string, number> => {
    const output = scheduler.schedule(nowMs);
    const shares: Record<string, number> = {};
    for (let s = 0; s < output.numSequences; s++) {
      const sequence = output.sequences[s]!;
      shares[sequence.requestId] = output.numNewTokens[s]!;
      sequence.numComputedTokens += output.numNewTokens[s]!;
      blocks.seal(sequence.blockTable, sequence.tokens, sequence.numComputedTokens);
      if (sequence.numComputedTokens === sequence.numTokens) sequence.appendOutput(7);
    }
    return shares;
  };
  return { scheduler, blocks, add, step };
}

const range = (from: number, length: number): number[] =>
  Array.from({ length }, (_, i) => from + i);

test('prompts share the token budget in order of arrival; what is left comes in chunks', () => {
  const { add, step } = setUp();
  add('a', range(0, 10));
  add('b', range(20, 20));
  assert.deepEqual(step(), { a: 10, b: 6 });
  assert.deepEqual(step(), { a: 1, b: 6 });
  assert.deepEqual(step(), { a: 1, b: 6 });
  assert.deepEqual(step(), { a: 1, b: 2 });
  assert.deepEqual(step(), { a: 1, b: 1 });
});

test('no more sequences run than can have their logits in one step', () => {
  const { add, step, scheduler } = setUp({ maxLogitRows: 2 });
  for (const name of ['a', 'b', 'c']) add(name, [1, 2]);
  assert.deepEqual(step(), { a: 2, b: 2 });
  assert.equal(scheduler.numWaiting, 1);
});

test('a sequence waits until blocks for all of its tokens are free, and nobody overtakes it', () => {
  const { add, step, scheduler } = setUp({ numBlocks: 6 });
  const a = add('a', range(0, 12));
  add('large', range(20, 12));
  add('small', [50]);
  assert.deepEqual(step(), { a: 12 });
  assert.equal(scheduler.numWaiting, 2);
  scheduler.remove(a);
  assert.deepEqual(step(), { large: 12, small: 1 });
});

test('when blocks run out the youngest gives its own back, and is computed again later', () => {
  const { add, step, scheduler, blocks } = setUp({ numBlocks: 5 });
  const a = add('a', range(0, 8), 12);
  const b = add('b', range(20, 4), 8);
  assert.deepEqual(step(), { a: 8, b: 4 });
  for (let i = 0; i < 4; i++) assert.deepEqual(step(), { a: 1, b: 1 });
  add('c', range(40, 20), 1);
  assert.deepEqual(step(), { a: 1 });
  assert.equal(b.numPreemptions, 1);
  assert.equal(b.blockTable.numBlocks, 0);
  assert.equal(a.blockTable.numBlocks, 4);
  assert.equal(scheduler.numWaiting, 2);
  scheduler.remove(a);
  // Ahead of what came later; its blocks were taken only as far as they were needed, the rest is found again.
  const again = step();
  assert.deepEqual(Object.keys(again), ['b']);
  assert.ok(again.b! < b.numTokens);
  scheduler.remove(b);
  assert.equal(blocks.numFreeBlocks, 5);
});

test('an equal prompt computes its last token only, into a copy of the last block', () => {
  const { add, scheduler, step, blocks } = setUp();
  const a = add('a', range(0, 8));
  step();
  const b = add('b', range(0, 8));
  const output: SchedulerOutput = scheduler.schedule(0);
  const index = output.sequences.indexOf(b);
  assert.equal(output.numNewTokens[index], 1);
  assert.equal(output.numCopies, 1);
  assert.deepEqual([...output.copies.subarray(0, 2)], [a.blockTable.ids[1], b.blockTable.ids[1]]);
  assert.equal(b.blockTable.blockId(0), a.blockTable.blockId(0));
  assert.equal(b.numCachedTokens, 7);
  scheduler.remove(a);
  scheduler.remove(b);
  assert.equal(blocks.numFreeBlocks, LIMITS.numBlocks);
});

test('with nothing to do the step is empty', () => {
  assert.deepEqual(setUp().step(), {});
});

test('a request of a higher class takes the place of the least urgent, and others of lower classes pause for its prompt', () => {
  const { add, step } = setUp({ maxLogitRows: 2 });
  const a = add('a', [1, 2], 20, { priority: 'low' });
  const b = add('b', [3, 4], 20, { priority: 'low' });
  assert.deepEqual(step(), { a: 2, b: 2 });
  add('normal', range(10, 20), 5);
  // The prompt has the whole step, and the next one, too.
  assert.deepEqual(step(), { normal: 16 });
  assert.deepEqual([a.numPreemptions, b.numPreemptions], [0, 1]);
  assert.deepEqual(step(), { normal: 4 });
  assert.deepEqual(step(), { normal: 1, a: 1 });
});

test('requests of one class do not displace each other, unless one has sunk far', () => {
  const { add, step, scheduler } = setUp({ maxLogitRows: 1 });
  const first = add('first', [1, 2], 30);
  assert.deepEqual(step(), { first: 2 });
  add('second', [3, 4], 30);
  assert.deepEqual(step(), { first: 1 });
  first.numServed = 4 * DEFAULT_PRIORITY_OPTIONS.sinkTokens;
  assert.deepEqual(step(), { first: 1 });
  assert.deepEqual(step(), { second: 2 });
  assert.equal(first.numPreemptions, 1);
  assert.equal(scheduler.numWaiting, 1);
});

test('a pause ends after its time, for streams and for prompts', () => {
  const { add, step } = setUp({ numBlocks: 40 });
  add('stream', [1], 20, { priority: 'low' });
  add('prompt', range(2, 36), 20, { priority: 'low' });
  // Nothing of a higher class is in the step, so it is as short as one with streams.
  assert.deepEqual(step(), { stream: 1, prompt: 5 });
  add('high', range(40, 60), 5, { priority: 'high' });
  assert.deepEqual(step(), { high: 16 });
  assert.deepEqual(step(999), { high: 16 });
  assert.deepEqual(step(1000), { stream: 1, prompt: 6 });
  assert.deepEqual(step(1001), { high: 16 });
});

test('a class that nobody was taken in of for long gets one in, past those of higher classes', () => {
  const { add, step } = setUp({ maxLogitRows: 1, numBlocks: 100 });
  add('high', [1, 2], 150, { priority: 'high' });
  const low = add('low', [3, 4], 100, { priority: 'low' });
  const start = DEFAULT_PRIORITY_OPTIONS.starvationMs;
  assert.deepEqual(step(), { high: 2 });
  assert.deepEqual(step(start - 1), { high: 1 });
  assert.deepEqual(step(start), { low: 2 });
  for (let i = 1; i < DEFAULT_PRIORITY_OPTIONS.escortTokens; i++) {
    assert.deepEqual(step(start + i), { low: 1 });
  }
  assert.equal(low.numOutputTokens, 64);
  // It has given what it was let in for, and goes back.
  assert.deepEqual(Object.keys(step(start + 64)), ['high']);
});

test('displacing is not begun where it would not make room', () => {
  const { add, step, scheduler } = setUp({ numBlocks: 8 });
  add('high', range(0, 16), 5, { priority: 'high' });
  const low = add('low', [50, 51], 5, { priority: 'low' });
  assert.deepEqual(step(), { high: 16 });
  assert.deepEqual(step(), { high: 1, low: 2 });
  add('large', range(60, 16), 5, { priority: 'high' });
  assert.deepEqual(step(), { high: 1, low: 1 });
  assert.equal(low.numPreemptions, 0);
  assert.equal(scheduler.numWaiting, 1);
});

test('what is taken in and displaced in one step leaves no copy behind: that of the other is made', () => {
  const { blocks, add, scheduler } = setUp({ maxSeqs: 1 });
  const texts = [range(0, 8), range(20, 8)];
  const cached = texts.map((ids) => {
    const table = new BlockTable();
    blocks.grow(table, 8);
    blocks.seal(table, { ids: Int32Array.from(ids), length: 8 }, 8);
    return table;
  });
  for (const table of cached) blocks.releaseAll(table);
  // It has climbed back while it waited, so it is first; once it runs it is as far down as before, and the other takes its place.
  const sunk = add('sunk', texts[0]!, 5, { priority: 'high' });
  scheduler.remove(sunk);
  sunk.sink = 2;
  scheduler.add(sunk);
  const fresh = add('fresh', texts[1]!, 5, { priority: 'high' });
  const output = scheduler.schedule(25_000);
  assert.deepEqual([output.numPreempted, output.numSequences], [1, 1]);
  assert.equal(output.sequences[0], fresh);
  assert.deepEqual(
    [...output.copies.subarray(0, 2 * output.numCopies)],
    [cached[1]!.ids[1], fresh.blockTable.ids[1]],
  );
});

test('where blocks are open until they are full, one that is cached is not gone on with: it is computed again', () => {
  const { add, step, scheduler } = setUp({ hasOpenBlocks: true });
  const a = add('a', range(0, 8));
  assert.deepEqual(step(), { a: 8 });
  const b = add('b', range(0, 8));
  const c = add('c', range(0, 7));
  assert.deepEqual(step(), { a: 1, b: 4, c: 2 });
  assert.equal(b.blockTable.ids[0], a.blockTable.ids[0]);
  assert.notEqual(b.blockTable.ids[1], a.blockTable.ids[1]);
  assert.equal(scheduler.schedule(0).numCopies, 0);
  assert.equal(new Set([a.slot, b.slot, c.slot]).size, 3);
  scheduler.remove(b);
  const d = add('d', [70]);
  scheduler.schedule(0);
  assert.equal(d.slot, b.slot, 'a slot that is free again');
});
