import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { SlicedLogits } from './sliced-logits.ts';
import { referenceIntervals } from './testing/reference-sampler.ts';
import { sliceStats } from './testing/slice-stats.ts';
import { WideNucleus } from './wide-nucleus.ts';

test('draws what the full sort draws, whatever the shape of the distribution', () => {
  const logit = fc.double({ min: -1, max: 1, noNaN: true });
  fc.assert(
    fc.property(
      fc.array(logit, { minLength: 1, maxLength: 200, size: 'max' }),
      fc.constantFrom(0, 0.3, 5, 100),
      fc.constantFrom(0.4, 1, 2),
      fc.constantFrom(0.999999, 0.9, 0.5, 0.001),
      fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })),
      (values, spread, temperature, topP, units) => {
        const logits = Float32Array.from(values, (value) => value * spread);
        const row = new SlicedLogits(logits.length, 16);
        const { sliceMax, sliceExpSum } = sliceStats(logits, 16);
        row.load(logits, sliceMax, sliceExpSum);
        const nucleus = new WideNucleus(row);
        for (const unit of [0, 1 - 2 ** -53, ...units]) {
          const id = nucleus.draw(row.largest(), 1 / temperature, topP, unit);
          // At the edge of the nucleus and between two tokens rounding decides.
          const isDrawn = [1, 1 - 1e-12, 1 + 1e-12].some((nearly) => {
            const params = { temperature, topK: 0, topP: topP * nearly, minP: 0 };
            const interval = referenceIntervals(logits, 16, params).find((one) => one.id === id);
            return interval && interval.from <= unit + 1e-12 && unit <= interval.to + 1e-12;
          });
          assert.ok(isDrawn, `token ${id}`);
        }
      },
    ),
    { numRuns: 300 },
  );
});
