import assert from 'node:assert/strict';
import test from 'node:test';
import { StepCost } from './step-cost.ts';

const about = (value: number, expected: number, share = 0.05): void =>
  assert.ok(Math.abs(value - expected) <= share * expected, `${value} is not about ${expected}`);

test('between measured row counts lies a line, beyond them a gentle slope', () => {
  const cost = new StepCost(64);
  assert.equal(cost.ms(3), 0);
  cost.observe(2, 10);
  cost.observe(10, 18);
  assert.equal(cost.ms(1), 10);
  assert.equal(cost.ms(6), 14);
  assert.ok(cost.ms(11) > 18 && cost.ms(64) < 100);
  assert.equal(cost.ms(1000), cost.ms(64));
});

test('follows a machine that becomes slower, for row counts that are not measured again, too', () => {
  const cost = new StepCost(32);
  cost.observe(1, 4);
  cost.observe(8, 12);
  for (let i = 0; i < 100; i++) cost.observe(1, 8);
  about(cost.ms(1), 8);
  assert.ok(cost.ms(8) > 14, `${cost.ms(8)}`);
});

test('one step that was held up changes little', () => {
  const cost = new StepCost(4);
  cost.observe(1, 4);
  cost.observe(1, 4000);
  assert.ok(cost.ms(1) < 5.5);
  for (let i = 0; i < 20; i++) cost.observe(1, 4);
  about(cost.ms(1), 4);
});

test('measurements that say nothing are left out', () => {
  const cost = new StepCost(4);
  for (const [rows, ms] of [
    [0, 5],
    [5, 5],
    [2, 0],
    [2, Number.NaN],
  ] as const)
    cost.observe(rows, ms);
  assert.equal(cost.ms(2), 0);
});
