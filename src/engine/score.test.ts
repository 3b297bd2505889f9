import assert from 'node:assert/strict';
import test from 'node:test';
import { RequestError, RequestTooLongError } from './errors.ts';
import { scoreTokens, tokenLosses } from './score.ts';
import { MockRunner } from './testing/mock-runner.ts';

const tokenIds = Array.from({ length: 50 }, (_, i) => (i * 7) % 40);

/** Logits of every position by running each prefix on a runner of its own. */
async function lastLogits(end: number): Promise<Float32Array> {
  const runner = new MockRunner({ limits: { maxTokens: 64 } });
  let result = new Float32Array(0);
  await scoreTokens(
    runner,
    tokenIds.slice(0, end),
    (position, logits) => {
      assert.equal(position, end - 1);
      result = logits.slice();
    },
    { positions: 'last' },
  );
  return result;
}

test('all positions come once, in order, whatever the chunk', async () => {
  for (const [maxTokens, maxLogitRows, isAsync] of [
    [64, 64, false],
    [7, 64, true],
    [64, 3, false],
  ] as const) {
    const runner = new MockRunner({ limits: { maxTokens, maxLogitRows }, isAsync });
    const seen: number[] = [];
    await scoreTokens(runner, tokenIds, async (position, logits) => {
      seen.push(position);
      if (position % 9 === 0) assert.deepEqual(logits, await lastLogits(position + 1));
    });
    assert.deepEqual(seen, [...tokenIds.keys()]);
  }
});

test('only the last position is computed where only it is wanted', async () => {
  const runner = new MockRunner({ limits: { maxTokens: 16, maxLogitRows: 1 } });
  let numCalls = 0;
  await scoreTokens(runner, tokenIds, () => void numCalls++, { positions: 'last' });
  assert.equal(numCalls, 1);
  assert.equal(runner.numSteps, Math.ceil(50 / 16));
});

test('losses are the negative log-softmax of the next token', async () => {
  const losses = await tokenLosses(new MockRunner(), tokenIds);
  assert.equal(losses[0], 0);
  for (const position of [1, 20, 49]) {
    const logits = await lastLogits(position);
    const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
    const expected = Math.log(total) - logits[tokenIds[position]!]!;
    assert.ok(Math.abs(losses[position]! - expected) < 1e-5);
  }
});

test('texts that cannot be scored are refused with the numbers', async () => {
  const runner = new MockRunner({ limits: { maxModelLen: 40 } });
  await assert.rejects(tokenLosses(runner, []), RequestError);
  await assert.rejects(tokenLosses(runner, [1, -1]), /tokenIds\[1\]: .*got -1/);
  await assert.rejects(
    tokenLosses(runner, tokenIds),
    (error: unknown) => error instanceof RequestTooLongError && error.maxSequenceTokens === 40,
  );
});
