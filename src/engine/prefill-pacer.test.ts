import assert from 'node:assert/strict';
import test from 'node:test';
import { PrefillPacer } from './prefill-pacer.ts';

const OPTIONS = { targetStepMs: 50, maxStepMs: 200, fullQueue: 5, minTokens: 8 };

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
    const numTokens = isStreamsOnly ? 0 : pacer.promptTokens(numStreams, numWaiting);
    stepMs = numStreams * machine.streamMs + numTokens * machine.promptTokenMs;
    pacer.observe(numStreams, numTokens, stepMs);
  }
  return stepMs;
}

test('without streams a step takes what it can', () => {
  assert.equal(new PrefillPacer(OPTIONS).promptTokens(0, 3), Number.POSITIVE_INFINITY);
});

test('steps with streams settle at the target when one request waits, at the bound when many do', () => {
  for (const machine of [
    { streamMs: 5, promptTokenMs: 0.6 },
    { streamMs: 1, promptTokenMs: 0.05 },
  ]) {
    const [few, some, many] = [1, 3, 20].map((n) => settledStepMs(2, n, machine));
    assert.ok(Math.abs(few! - 50) < 2, `${few} ms, wished 50`);
    assert.ok(Math.abs(some! - 125) < 4, `${some} ms, wished 125`);
    assert.ok(Math.abs(many! - 200) < 5 && many! <= 200.001, `${many} ms, wished 200`);
  }
});

test('on a machine too slow for the target prompts still get on', () => {
  const pacer = new PrefillPacer(OPTIONS);
  pacer.observe(4, 0, 300);
  pacer.observe(4, 8, 800);
  assert.equal(pacer.promptTokens(4, 1), 8);
});

test('it follows a machine that becomes slower', () => {
  const pacer = new PrefillPacer(OPTIONS);
  pacer.observe(1, 0, 5);
  pacer.observe(1, 64, 5 + 64 * 0.5);
  const before = pacer.promptTokens(1, 1);
  for (let i = 0; i < 20; i++) pacer.observe(1, 30, 5 + 30 * 2);
  const after = pacer.promptTokens(1, 1);
  assert.ok(before >= 85 && before <= 95, `${before}`);
  assert.ok(after >= 20 && after <= 24, `${after}`);
});
