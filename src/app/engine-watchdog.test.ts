import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { EngineWatchdog } from './engine-watchdog.ts';

test('asks while answers come, and tells of a hang once, when one is overdue', async (t) => {
  mock.timers.enable({ apis: ['setInterval'] });
  let nowMs = 0;
  t.mock.method(performance, 'now', () => nowMs);
  t.after(() => mock.timers.reset());
  let numAsked = 0;
  let numHangs = 0;
  let isAlive = true;
  using _ = new EngineWatchdog({
    timeoutMs: 1000,
    ask: () => {
      numAsked++;
      return isAlive ? Promise.reject(new Error('an error is an answer')) : new Promise(() => {});
    },
    onHang: () => numHangs++,
  });
  const pass = async (ms: number): Promise<void> => {
    for (let i = 0; i < ms / 250; i++) {
      nowMs += 250;
      mock.timers.tick(250);
      await Promise.resolve();
      await Promise.resolve();
    }
  };
  await pass(10_000);
  assert.deepEqual([numAsked, numHangs], [40, 0]);
  isAlive = false;
  await pass(1000);
  assert.equal(numHangs, 0);
  // Held up itself for a long time: the answer may lie unread.
  nowMs += 60_000;
  mock.timers.tick(250);
  await pass(750);
  assert.equal(numHangs, 0);
  await pass(250);
  assert.equal(numHangs, 1);
  await pass(10_000);
  assert.equal(numHangs, 1);
});
