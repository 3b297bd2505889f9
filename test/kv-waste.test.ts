/** How much of the KV cache is taken and not used, under loads as benchmarks of servers have them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EngineCore } from '../src/engine/engine-core.ts';
import { prepareRequest } from '../src/engine/request.ts';
import { byteTokenizer } from '../src/engine/testing/byte-decoder.ts';
import { MockRunner } from '../src/engine/testing/mock-runner.ts';
import { kvBlockSize } from '../src/kernels/kv-layout.ts';
import { drawLengths, type LengthMix } from '../src/loadgen/lengths.ts';
import { SeededRandom } from '../src/loadgen/random.ts';

const BLOCK_SIZE = kvBlockSize('f16');

const NUM_REQUESTS = 160;

/** Unused token slots of all held ones, over all steps of a run in which the engine is full all the time. */
function wasteOf(mix: LengthMix): number {
  const runner = new MockRunner({
    limits: {
      blockSize: BLOCK_SIZE,
      numBlocks: 800,
      maxTokens: 512,
      maxSeqs: 32,
      maxLogitRows: 64,
      maxModelLen: 2048,
    },
    // Drafts hold blocks, too, for a step.
    editLogits: (logits, context) => {
      const next = context.at(-9);
      if (next !== undefined) logits[next]! += 5;
    },
  });
  const core = new EngineCore({ runner, tokenizer: byteTokenizer, eosTokenIds: [] });
  const random = new SeededRandom(1, 'waste');
  for (let i = 0; i < NUM_REQUESTS; i++) {
    const { inputTokens, outputTokens } = drawLengths(mix, random);
    const promptTokenIds = Array.from({ length: inputTokens }, () => random.integer(0, 39));
    const samplingParams = { temperature: 0, maxTokens: outputTokens };
    core.submit(prepareRequest({ promptTokenIds, samplingParams }, runner.limits));
  }
  let numHeld = 0;
  let numUnused = 0;
  while (core.hasWork) {
    assert.ok(core.begin() !== null);
    const { numBlocks, numFreeBlocks, numUnusedSlots, numWaiting } = core.stats();
    // The emptying at the end is no load.
    if (numWaiting > 0) {
      numHeld += (numBlocks - numFreeBlocks) * BLOCK_SIZE;
      numUnused += numUnusedSlots;
    }
    core.finish();
    core.takeEvents();
  }
  assert.ok(numUnused > 0 && numUnused < numHeld);
  return numUnused / numHeld;
}

test('under mixed load less than 4 % of the slots that are held are not used', (t) => {
  const waste = wasteOf({ kind: 'sharegpt', maxTotalTokens: 2048 });
  t.diagnostic(`ShareGPT-like lengths: ${(100 * waste).toFixed(2)} %`);
  assert.ok(waste < 0.04, `${(100 * waste).toFixed(2)} %`);
});

test('what is wasted is half a block by sequence, so short ones waste a larger share', (t) => {
  for (const [inputTokens, outputTokens] of [
    [32, 32],
    [190, 64],
  ] as const) {
    const waste = wasteOf({ kind: 'fixed', inputTokens, outputTokens, rangeRatio: 0.5 });
    const mean = inputTokens + outputTokens / 2;
    t.diagnostic(`${inputTokens} in, ${outputTokens} out: ${(100 * waste).toFixed(2)} %`);
    assert.ok(waste < (0.75 * BLOCK_SIZE) / mean, `${waste} at ${mean} tokens`);
  }
});
