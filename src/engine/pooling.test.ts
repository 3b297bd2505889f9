import assert from 'node:assert/strict';
import test from 'node:test';
import { Engine } from './engine.ts';
import { RequestError, RequestTooLongError } from './errors.ts';
import { Pooler, type Pooling, unitVector } from './pooling.ts';
import type { EngineRequest } from './request.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner, type MockRunnerOptions } from './testing/mock-runner.ts';

const text = (length: number, start = 0): number[] =>
  Array.from({ length }, (_, i) => (start + 7 * i) % 40);

function engineOf(options: MockRunnerOptions = {}): Engine {
  return new Engine({
    runner: new MockRunner(options),
    tokenizer: byteTokenizer,
    eosTokenIds: [0, 1],
  });
}

async function embed(
  engine: Engine,
  promptTokenIds: number[],
  pooling: Pooling,
): Promise<number[]> {
  const { finish, tokenIds } = await engine.submit({ promptTokenIds, pooling }).collect();
  assert.equal(finish.reason, 'stop');
  assert.deepEqual(tokenIds, []);
  assert.deepEqual(finish.usage.promptTokens, promptTokenIds.length);
  return [...finish.embedding!];
}

/** The hidden state of every prefix's last token: what an engine that does one text at a time sees. */
async function hiddenStates(tokenIds: number[]): Promise<number[][]> {
  const rows: number[][] = [];
  for (let end = 1; end <= tokenIds.length; end++) {
    rows.push(await embed(engineOf(), tokenIds.slice(0, end), 'last'));
  }
  return rows;
}

test('a text in chunks, beside others that generate, has the mean and the last of its hidden states', async () => {
  const prompt = text(50);
  const rows = await hiddenStates(prompt);
  const mean = rows[0]!.map((_, i) => rows.reduce((sum, row) => sum + row[i]!, 0) / rows.length);
  const engine = engineOf({ limits: { maxTokens: 9 }, isAsync: true });
  const writers = [1, 2, 3].map((seed) =>
    engine.submit({
      promptTokenIds: text(5, seed),
      samplingParams: { maxTokens: 30, seed, ignoreEos: true },
    }),
  );
  const [gotMean, gotLast, second] = await Promise.all([
    embed(engine, prompt, 'mean'),
    embed(engine, prompt, 'last'),
    embed(engine, prompt, 'mean'),
  ]);
  assert.deepEqual(
    gotMean.map((value) => value.toFixed(4)),
    mean.map((value) => value.toFixed(4)),
  );
  assert.deepEqual(gotLast, rows.at(-1));
  assert.deepEqual(second, gotMean, 'the prefix cache takes no rows away');
  for (const [i, writer] of writers.entries()) {
    const alone = await engineOf()
      .submit({
        promptTokenIds: text(5, i + 1),
        samplingParams: { maxTokens: 30, seed: i + 1, ignoreEos: true },
      })
      .collect();
    assert.deepEqual((await writer.collect()).tokenIds, alone.tokenIds);
  }
  const stats = await engine.stats();
  assert.equal(stats.numFreeBlocks, stats.numBlocks);
});

test('preempted in the middle, it gives the same', async () => {
  const prompt = text(60);
  const expected = await embed(engineOf(), prompt, 'mean');
  const engine = engineOf({ limits: { maxTokens: 6, numBlocks: 20, maxModelLen: 80 } });
  const low = engine.submit({ promptTokenIds: prompt, pooling: 'mean', priority: 'low' });
  while ((await engine.stats()).numPromptTokens < 30) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  const high = engine.submit({
    promptTokenIds: text(30, 3),
    samplingParams: { maxTokens: 5, ignoreEos: true },
    priority: 'high',
  });
  await high.collect();
  const { finish } = await low.collect();
  assert.ok((await engine.stats()).numPreemptions > 0);
  assert.deepEqual([...finish.embedding!], expected);
});

test('a text that fills the context fits, one token more is refused', async () => {
  const engine = engineOf({ limits: { maxModelLen: 40 } });
  assert.equal((await embed(engine, text(40), 'last')).length, 8);
  assert.throws(
    () => engine.submit({ promptTokenIds: text(41), pooling: 'mean' }),
    (error: Error) => error instanceof RequestTooLongError && /41 tokens.* 40 /.test(error.message),
  );
  const wrong = { promptTokenIds: [1], pooling: 'max' } as unknown as EngineRequest;
  assert.throws(() => engine.submit(wrong), RequestError);
});

test('takes each position once, and a vector is cut before it gets length 1', () => {
  const pooler = new Pooler('mean');
  pooler.add(0, Float32Array.of(1, 2));
  pooler.add(1, Float32Array.of(3, 4));
  pooler.add(0, Float32Array.of(9, 9));
  pooler.add(2, Float32Array.of(5, 9));
  assert.deepEqual([...pooler.result()], [3, 5]);
  assert.deepEqual(
    [...unitVector(Float32Array.of(3, 4, 12), 2)].map((x) => x.toFixed(6)),
    ['0.600000', '0.800000'],
  );
  assert.deepEqual([...unitVector(new Float32Array(2))], [0, 0]);
});
