import assert from 'node:assert/strict';
import test from 'node:test';
import { DEFAULT_PREFILL_PACER_OPTIONS, PrefillPacer, pacingWithin } from './prefill-pacer.ts';

const OPTIONS = {
  ...{ targetStepMs: 50, maxStepMs: 200, yieldStepMs: 100, minTokens: 8 },
  ...{ fewWaiting: 2, manyWaiting: 6 },
};

/** Runs steps on a made-up machine until the pacer knows it; returns the length of a step with a chunk. */
function settledStepMs(
  numStreams: number,
  numWaiting: number,
  machine: { streamMs: number; promptTokenMs: number },
): number {
  const pacer = new PrefillPacer(OPTIONS);
  let stepMs = 0;
  for (let step = 0; step < 60; step++) {
    const isStreamsOnly = step % 3 === 0;
    const numTokens = isStreamsOnly ? 0 : pacer.promptTokens(numStreams, numWaiting, false);
    stepMs = numStreams * machine.streamMs + numTokens * machine.promptTokenMs;
    pacer.observe(numStreams, numTokens, stepMs);
  }
  return stepMs;
}

test('without streams a step takes what it can, and what the bound lets it where it gives way', () => {
  const pacer = new PrefillPacer(OPTIONS);
  assert.equal(pacer.promptTokens(0, 3, false), Number.POSITIVE_INFINITY);
  for (let i = 0; i < 9; i++) pacer.observe(0, 64, 64 * 0.5);
  assert.equal(pacer.promptTokens(0, 3, false), Number.POSITIVE_INFINITY);
  assert.equal(pacer.promptTokens(0, 3, true), 200);
  assert.equal(pacer.promptTokens(1, 20, false), 400);
  assert.equal(pacer.promptTokens(1, 20, true), 200);
});

test('steps with streams settle at the target when few requests wait, at the bound when many do', () => {
  for (const machine of [
    { streamMs: 5, promptTokenMs: 0.6 },
    { streamMs: 1, promptTokenMs: 0.05 },
  ]) {
    const [few, some, many] = [2, 4, 20].map((n) => settledStepMs(2, n, machine));
    assert.ok(Math.abs(few! - 50) < 2, `${few} ms, wished 50`);
    assert.ok(Math.abs(some! - 125) < 4, `${some} ms, wished 125`);
    assert.ok(Math.abs(many! - 200) < 5 && many! <= 200.001, `${many} ms, wished 200`);
  }
});

test('on a machine too slow for the target prompts still get on', () => {
  const pacer = new PrefillPacer(OPTIONS);
  pacer.observe(4, 0, 300);
  pacer.observe(4, 8, 800);
  assert.equal(pacer.promptTokens(4, 1, false), 8);
});

test('it follows a machine that becomes slower', () => {
  const pacer = new PrefillPacer(OPTIONS);
  pacer.observe(1, 0, 5);
  pacer.observe(1, 64, 5 + 64 * 0.5);
  const before = pacer.promptTokens(1, 1, false);
  for (let i = 0; i < 20; i++) {
    const numTokens = pacer.promptTokens(1, 1, false);
    pacer.observe(1, numTokens, 5 + numTokens * 2);
  }
  const after = pacer.promptTokens(1, 1, false);
  assert.ok(before >= 85 && before <= 95, `${before}`);
  assert.ok(after >= 20 && after <= 24, `${after}`);
});

test('what large chunks take a token says nothing of small ones', () => {
  // Half as much a token from 256 tokens on.
  const promptMs = (numTokens: number): number => (numTokens >= 256 ? 0.4 : 0.8) * numTokens;
  const pacer = new PrefillPacer(OPTIONS);
  pacer.observe(2, 0, 5);
  for (const numTokens of [32, 64, 128, 256, 512]) pacer.observe(0, numTokens, promptMs(numTokens));
  for (let i = 0; i < 20; i++) pacer.observe(0, 512, promptMs(512));
  const numTokens = pacer.promptTokens(2, 1, false);
  assert.ok(numTokens >= 55 && 5 + promptMs(numTokens) <= 50, `${numTokens} tokens`);
  assert.equal(pacer.promptTokens(0, 1, true), 125);
});

test('a bound below the wish for few waiting ones holds for those, too', () => {
  const { targetStepMs, maxStepMs, minTokens } = pacingWithin(10);
  assert.deepEqual([targetStepMs, maxStepMs], [10, 10]);
  assert.equal(minTokens, DEFAULT_PREFILL_PACER_OPTIONS.minTokens);
  assert.deepEqual(pacingWithin(), DEFAULT_PREFILL_PACER_OPTIONS);
});
