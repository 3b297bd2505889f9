import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { stepGraphOf } from '../models/step-graph.ts';
import { createRunner } from '../runtime/create-runner.ts';
import { CapacityError } from '../runtime/kv-budget.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import { runBenchmark } from './benchmark.ts';
import { OpenedModel } from './open-model.ts';
import { logSumExp, topIds, windowNll } from './scoring.ts';
import { SequenceDriver } from './sequence-driver.ts';
import { weightBytesPerStep } from './weight-traffic.ts';

const TINY = fileURLToPath(new URL('../../assets/models/tiny', import.meta.url));
const IDS = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 320);

async function tinyRunner(
  limits: { maxTokensPerStep?: number; maxLogitRows?: number } = {},
): Promise<ModelRunner> {
  using model = new OpenedModel(TINY);
  return await createRunner({
    source: model.description.weights,
    config: model.description.config,
    target: 'reference',
    precision: 'f32',
    threads: 1,
    maxSeqs: 1,
    planCacheFolder: null,
    ...limits,
  });
}

describe('a driven sequence', () => {
  test('gives the same rows whatever the chunks', async () => {
    const rowsOf = async (runner: ModelRunner) => {
      const rows = new Map<number, number[]>();
      await new SequenceDriver(runner).feed(IDS, 'all', (position, row) => {
        rows.set(position, [...runner.logits(row)]);
      });
      return rows;
    };
    using whole = await tinyRunner({ maxTokensPerStep: 64, maxLogitRows: 64 });
    using chunked = await tinyRunner({ maxTokensPerStep: 7, maxLogitRows: 3 });
    const rows = await rowsOf(whole);
    assert.deepEqual(
      [...rows.keys()],
      IDS.map((_, position) => position),
    );
    assert.deepEqual(await rowsOf(chunked), rows);
  });

  test('goes on where it was, and starts anew after a reset', async () => {
    using runner = await tinyRunner();
    const driver = new SequenceDriver(runner);
    await driver.feed(IDS, 'last');
    const expected = [...runner.logits(0)];
    driver.reset();
    await driver.feed(IDS.slice(0, 30), 'none');
    await driver.feed(IDS.slice(30), 'last');
    assert.equal(driver.numTokens, IDS.length);
    assert.deepEqual([...runner.logits(0)], expected);
  });

  test('refuses what does not fit', async () => {
    using runner = await tinyRunner();
    const tokens = new Array<number>(257).fill(1);
    await assert.rejects(new SequenceDriver(runner).feed(tokens, 'none'), CapacityError);
  });
});

test('log-sum-exp and likelihood agree with plain sums', async () => {
  using runner = await tinyRunner({ maxLogitRows: 8 });
  const driver = new SequenceDriver(runner);
  let expected = 0;
  await driver.feed(IDS, 'all', (position, row) => {
    const logits = [...runner.logits(row)];
    const plain = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
    assert.ok(Math.abs(logSumExp(runner, row) - plain) < 1e-5);
    const next = IDS[position + 1];
    if (next !== undefined) expected += plain - logits[next]!;
  });
  const nll = await windowNll(runner, driver, IDS);
  assert.ok(Math.abs(nll - expected / (IDS.length - 1)) < 1e-5);
});

test('top ids come largest first, of equal ones the lower id', () => {
  const logits = Float32Array.of(1, 5, 3, 5, -1);
  assert.deepEqual(topIds(logits, 3), [1, 3, 2]);
  assert.deepEqual(topIds(logits, 9), [1, 3, 2, 0, 4]);
  assert.deepEqual(topIds(logits, 0), []);
});

test('a benchmark counts repetitions and steps', async () => {
  using runner = await tinyRunner({ maxTokensPerStep: 16 });
  const done: number[] = [];
  const figures = await runBenchmark(runner, { kind: 'pp', numTokens: 32 }, 3, async (n) => {
    done.push(n);
  });
  assert.deepEqual(done, [1, 2, 3]);
  assert.ok(figures.stddev >= 0);
  assert.equal(Math.round((32 * figures.stepsPerSecond) / figures.tokensPerSecond), 2);
  const decode = await runBenchmark(runner, { kind: 'tg', numTokens: 4 }, 1);
  assert.equal(decode.stddev, 0);
  assert.equal(decode.stepsPerSecond, decode.tokensPerSecond);
});

test('a step reads every matrix of the model once', () => {
  using model = new OpenedModel(TINY);
  const { weights } = model.description;
  const stepGraph = stepGraphOf(model.description);
  const matrices = [...weights.tensors.values()].filter(
    ({ name, shape }) => shape.length === 2 && name !== 'model.embed_tokens.weight',
  );
  const expected = matrices.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  assert.equal(weightBytesPerStep(stepGraph, weights.tensors), expected);
});
