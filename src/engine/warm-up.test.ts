import assert from 'node:assert/strict';
import test from 'node:test';
import { BlockManager } from './block-manager.ts';
import { EngineCore } from './engine-core.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner, type MockRunnerOptions } from './testing/mock-runner.ts';
import { type WarmUpTimes, warmUpRunner } from './warm-up.ts';

/** Steps take `costMs` of their tokens. */
async function warmUp(
  budgetMs: number,
  costMs: (numTokens: number) => number,
  options: MockRunnerOptions = {},
): Promise<{ times: WarmUpTimes; tookMs: number; sizes: number[] }> {
  let nowMs = 0;
  const sizes: number[] = [];
  const runner = new MockRunner({
    ...options,
    onStep: (_, { numTokens, numLogitRows }) => {
      sizes.push(numTokens);
      assert.ok(numLogitRows === 1 || numLogitRows === numTokens);
      nowMs += costMs(numTokens);
    },
  });
  const { numBlocks, blockSize } = runner.limits;
  const blocks = new BlockManager({ numBlocks, blockSize, hasPrefixCache: true });
  const times = await warmUpRunner(runner, blocks, budgetMs, () => nowMs);
  assert.equal(blocks.numFreeBlocks, numBlocks);
  assert.equal(blocks.numSealedBlocks, 0);
  return { times, tookMs: nowMs, sizes };
}

const countsOf = (times: WarmUpTimes['rows']): number[] => times.map(({ count }) => count);
const LIMITS = { maxTokens: 600, maxModelLen: 1000, numBlocks: 300, maxLogitRows: 20 };

test('every size up to the limits is run, and the least of its runs counts', async () => {
  let numSteps = 0;
  const held = (numTokens: number): number => (numSteps++ === 1 ? 100 : numTokens);
  const { times, sizes } = await warmUp(100_000, held, { limits: LIMITS });
  assert.deepEqual(countsOf(times.rows), [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20]);
  assert.deepEqual(countsOf(times.prompts), [32, 128, 512, 600]);
  for (const { count, ms } of [...times.rows, ...times.prompts]) assert.equal(ms, count);
  assert.equal(sizes.length, 3 * 15);
});

test('a slow model is warmed up as far as there is time', async () => {
  const { times, tookMs } = await warmUp(1000, (numTokens) => 10 * numTokens, { limits: LIMITS });
  assert.ok(tookMs <= 1000, `${tookMs} ms`);
  assert.ok(countsOf(times.rows).includes(4));
  assert.deepEqual(countsOf(times.prompts), [32]);
  const slowest = await warmUp(10, () => 1000, { limits: LIMITS });
  assert.deepEqual(slowest.sizes, [1, 32], 'code and weights are touched in any case');
});

test('a pool or a step smaller than every size is no obstacle, nor is a step that finishes later', async () => {
  const limits = { maxTokens: 1, maxLogitRows: 1, numBlocks: 1, blockSize: 1 };
  const { times } = await warmUp(100, () => 1, { limits, isAsync: true });
  assert.deepEqual([countsOf(times.rows), countsOf(times.prompts)], [[1], [1]]);
});

test('warming up changes no text', async () => {
  const texts: string[] = [];
  for (const isWarm of [false, true]) {
    const runner = new MockRunner();
    const core = new EngineCore({ runner, tokenizer: byteTokenizer, eosTokenIds: [] });
    if (isWarm) await core.warmUp(50);
    const samplingParams = { maxTokens: 40, seed: 5, temperature: 1 } as never;
    core.submit({ promptTokenIds: [1, 2, 3], samplingParams } as never);
    await assert.rejects(core.warmUp(50), /before work/);
    while (core.hasWork) {
      core.begin();
      core.finish();
    }
    texts.push(
      core
        .takeEvents()
        .map(({ text }) => text)
        .join(''),
    );
  }
  assert.equal(texts[0], texts[1]);
  assert.ok(texts[0]!.length > 20);
});
