import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { DType } from '../tensor/dtype.ts';
import { type AllocationUnit, allocateBits, worthwhileChoices } from './bit-allocation.ts';
import { CompressError } from './errors.ts';

const choice = (dtype: DType, bytes: number, loss: number) => ({ dtype, bytes, loss });

it('leaves out formats that are larger and worse, or above the line between two others', () => {
  const hull = worthwhileChoices([
    choice('q8_0', 34, 0.1),
    choice('q4_0', 18, 9),
    choice('iq4_nl', 18, 8),
    choice('q4_1', 20, 8.5),
    choice('q5_0', 22, 5),
    choice('q5_1', 24, 4.9),
  ]);
  assert.deepEqual(
    hull.map(({ dtype }) => dtype),
    ['iq4_nl', 'q5_0', 'q8_0'],
  );
});

it('is within one step of the best of all combinations, and never over the budget', () => {
  let state = 7;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let round = 0; round < 30; round++) {
    const units: AllocationUnit[] = Array.from({ length: 5 }, (_, i) => {
      const size = 1 + Math.floor(random() * 4);
      const scale = random();
      const sizes: [DType, number][] = [
        ['q4_0', 18],
        ['q5_0', 22],
        ['q8_0', 34],
      ];
      return {
        name: `t${i}`,
        choices: sizes.map(([dtype, bytes]) =>
          choice(dtype, bytes * size, (scale * size * (0.7 + 0.6 * random())) / bytes ** 3),
        ),
      };
    });
    const least = units.reduce((sum, { choices }) => sum + choices[0]!.bytes, 0);
    const budget = Math.floor(least * (1.05 + 0.6 * random()));
    const made = [...allocateBits(units, budget).values()];
    assert.ok(made.reduce((sum, { bytes }) => sum + bytes, 0) <= budget);
    const loss = made.reduce((sum, each) => sum + each.loss, 0);
    let best = Number.POSITIVE_INFINITY;
    for (let code = 0; code < 3 ** 5; code++) {
      const picks = units.map(({ choices }, i) => choices[Math.floor(code / 3 ** i) % 3]!);
      if (picks.reduce((sum, { bytes }) => sum + bytes, 0) > budget) continue;
      best = Math.min(
        best,
        picks.reduce((sum, each) => sum + each.loss, 0),
      );
    }
    const largestStep = Math.max(...units.map(({ choices }) => choices[0]!.loss));
    assert.ok(loss >= best - 1e-15 && loss <= best + largestStep, `${loss} ${best}`);
  }
});

it('says what the smallest formats take where that is too much', () => {
  const units = [{ name: 'a', choices: [choice('q4_0', 18, 1), choice('q8_0', 34, 0)] }];
  assert.throws(
    () => allocateBits(units, 17),
    (error: unknown) => error instanceof CompressError && /take 18 bytes/.test(error.message),
  );
  assert.equal(allocateBits(units, 33).get('a')!.dtype, 'q4_0');
  assert.equal(allocateBits(units, 34).get('a')!.dtype, 'q8_0');
});
