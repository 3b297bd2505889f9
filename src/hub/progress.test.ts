import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ProgressEvent, ProgressMeter } from './progress.ts';

test('rate and time left come from the last seconds, not from what was there before', () => {
  const events: ProgressEvent[] = [];
  let nowMs = 0;
  const meter = new ProgressMeter(
    'x.gguf',
    (event) => events.push(event),
    () => nowMs,
  );
  meter.start('downloading', 5_000_000, 10_000_000);
  for (let second = 1; second <= 3; second++) {
    nowMs = second * 1000;
    meter.advance('downloading', 5_000_000 + second * 1_000_000, 10_000_000);
  }
  const last = events.at(-1)!;
  assert.equal(last.bytesPerSecond, 1_000_000);
  assert.equal(last.etaSeconds, 2);
  assert.equal(events[0]!.bytesPerSecond, undefined);
});

test('reports at most ten times a second, and the end always', () => {
  const events: ProgressEvent[] = [];
  let nowMs = 0;
  const meter = new ProgressMeter(
    'x.gguf',
    (event) => events.push(event),
    () => nowMs,
  );
  meter.start('downloading', 0, undefined);
  for (nowMs = 0; nowMs < 1000; nowMs++) meter.advance('downloading', nowMs, undefined);
  meter.finish(1000);
  assert(events.length <= 12, `${events.length} events`);
  assert.deepEqual([events.at(-1)!.phase, events.at(-1)!.totalBytes], ['done', 1000]);
  assert.equal(events[3]!.etaSeconds, undefined);
});
