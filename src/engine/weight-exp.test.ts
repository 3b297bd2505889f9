import assert from 'node:assert/strict';
import test from 'node:test';
import { weightExp } from './weight-exp.ts';

test('agrees with Math.exp to 1e-15 of the value, from 0 to the end of its range', () => {
  let worst = 0;
  for (let i = 0; i <= 200_000; i++) {
    const x = -((i / 200_000) ** 3) * 699.99;
    worst = Math.max(worst, Math.abs(weightExp(x) / Math.exp(x) - 1));
  }
  assert.ok(worst < 1e-15, `off by ${worst}`);
});

test('never grows as its argument falls, across the steps of its table', () => {
  const step = Math.LN2 / 256;
  for (let n = 0; n < 2000; n++) {
    const x = -(n + 0.5) * step;
    assert.ok(weightExp(x + 1e-13) >= weightExp(x - 1e-13));
  }
});

test('special arguments', () => {
  assert.equal(weightExp(0), 1);
  assert.equal(weightExp(-0), 1);
  assert.equal(weightExp(-701), 0);
  assert.equal(weightExp(Number.NEGATIVE_INFINITY), 0);
  assert.ok(Number.isNaN(weightExp(Number.NaN)));
});
