import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { SamplingError } from './errors.ts';
import { logprobOf, topLogprobs } from './logprobs.ts';
import { Penalties } from './penalties.ts';
import { isGreedy, Sampler } from './sampler.ts';
import { DEFAULT_SAMPLING_PARAMS, type SamplingParams } from './sampling-params.ts';
import { SlicedLogits } from './sliced-logits.ts';
import {
  referenceDraw,
  referenceIntervals,
  referencePenalties,
} from './testing/reference-sampler.ts';
import { sliceStats } from './testing/slice-stats.ts';

function rowOf(logits: Float32Array, sliceSize: number, inverseTemperature = 1): SlicedLogits {
  const row = new SlicedLogits(logits.length, sliceSize);
  const { sliceMax, sliceExpSum } = sliceStats(logits, sliceSize, inverseTemperature);
  row.load(logits, sliceMax, sliceExpSum, inverseTemperature);
  return row;
}

const paramsOf = (some: Partial<SamplingParams>): SamplingParams => ({
  ...DEFAULT_SAMPLING_PARAMS,
  ...some,
});

/**
 * Asserts that the reference draws the same token, or would if `unit` or `topP` were a rounding error larger or smaller: where a mark falls
 * between two tokens, the order of summation decides.
 */
function assertSameDraw(
  token: number,
  logits: Float32Array,
  sliceSize: number,
  draw: Pick<SamplingParams, 'temperature' | 'topK' | 'topP' | 'minP'>,
  unit: number,
): void {
  const isDrawn = [1, 1 - 1e-12, 1 + 1e-12].some((nearly) => {
    const topP = draw.topP === 1 ? 1 : draw.topP * nearly;
    const intervals = referenceIntervals(logits, sliceSize, { ...draw, topP });
    const interval = intervals.find(({ id }) => id === token);
    return interval && interval.from <= unit + 1e-12 && unit <= interval.to + 1e-12;
  });
  assert.ok(isDrawn, `${token}; expected ${referenceDraw(logits, sliceSize, draw, unit)}`);
}

/** Without negative zeros: they are equal to zero everywhere but in `deepEqual`. */
const plain = (values: Float32Array): number[] => Array.from(values, (value) => value + 0);

/** Rows of all kinds: few distinct values (ties), peaked, flat, with masked tokens, ragged last slices. */
const logitsArbitrary = fc
  .record({
    values: fc.array(fc.double({ min: -1, max: 1, noNaN: true }), {
      minLength: 1,
      maxLength: 300,
      size: 'max',
    }),
    spread: fc.constantFrom(0, 0.5, 4, 12, 60),
    isCoarse: fc.boolean(),
    isMasked: fc.boolean(),
  })
  .map(({ values, spread, isCoarse, isMasked }) =>
    Float32Array.from(values, (value, i) => {
      const logit = value ** 3 * spread;
      if (isMasked && i > 0 && i % 3 !== 0) return Number.NEGATIVE_INFINITY;
      return isCoarse ? Math.round(logit) : logit;
    }),
  );

/** The temperature that the slices of a row are summed at: the draw's own, as a runner has it, or another. */
const summedAt = (temperature: number, isOwn: boolean): number =>
  isOwn && temperature > 0 ? Math.fround(1 / temperature) : 1;

const drawArbitrary = fc.record({
  temperature: fc.constantFrom(0, 0.05, 0.3, 0.7, 1, 1.5, 8),
  topK: fc.constantFrom(0, 0, 1, 2, 7, 40, 1000),
  topP: fc.constantFrom(1, 1, 0.95, 0.5, 0.01),
  minP: fc.constantFrom(0, 0, 0.05, 0.6, 1),
});

test('any row and parameters: the same number draws the same token as the full sort', () => {
  fc.assert(
    fc.property(
      logitsArbitrary,
      drawArbitrary,
      fc.constantFrom(1, 3, 16, 64, 512),
      fc.boolean(),
      fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 4 }),
      (logits, draw, sliceSize, isOwn, units) => {
        const row = rowOf(logits, sliceSize, summedAt(draw.temperature, isOwn));
        const sampler = new Sampler(row);
        for (const unit of [0, 1 - 2 ** -53, ...units]) {
          assertSameDraw(sampler.draw(draw, unit), logits, sliceSize, draw, unit);
        }
      },
    ),
    { numRuns: 400 },
  );
});

test('edited rows draw as the reference does, and come back as they were', () => {
  const ids = fc.array(fc.nat(), { maxLength: 60 });
  fc.assert(
    fc.property(
      logitsArbitrary,
      drawArbitrary,
      fc.record({
        repetitionPenalty: fc.constantFrom(1, 1.3, 0.5, 50),
        frequencyPenalty: fc.constantFrom(0, 0.7, -2),
        presencePenalty: fc.constantFrom(0, 1.5, -1),
        bias: fc.dictionary(fc.nat({ max: 299 }).map(String), fc.constantFrom(-100, -3, 5, 100)),
      }),
      ids,
      ids,
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      fc.boolean(),
      (logits, draw, { bias, ...penalties }, promptSeeds, outputSeeds, unit, isOwn) => {
        const sliceSize = 16;
        const prompt = promptSeeds.map((seed) => seed % logits.length);
        const output = outputSeeds.map((seed) => seed % logits.length);
        const logitBias = Object.fromEntries(
          Object.entries(bias).filter(([id]) => Number(id) < logits.length),
        );
        const params = paramsOf({ ...draw, ...penalties, logitBias });
        const raw = logits.slice();
        const inverseTemperature = summedAt(draw.temperature, isOwn);
        const row = rowOf(logits, sliceSize, inverseTemperature);
        const before = { max: row.max.slice(), expSum: row.expSum.slice() };

        const applied = Penalties.of(params, Int32Array.from(prompt));
        for (const id of output) applied?.addOutput(id);
        applied?.apply(row);
        const expected = referencePenalties(raw, params, prompt, output);
        assert.deepEqual(plain(row.logits), plain(expected));
        const exact = sliceStats(expected, sliceSize, inverseTemperature);
        for (let s = 0; s < row.numSlices; s++) {
          assert.equal(row.max[s]! + 0, exact.sliceMax[s]! + 0);
          if (row.max[s]! > -Infinity) {
            assert.ok(Math.abs(row.expSum[s]! / exact.sliceExpSum[s]! - 1) < 1e-5);
          }
        }
        assertSameDraw(new Sampler(row).draw(params, unit), expected, sliceSize, params, unit);
        row.restore();
        assert.deepEqual(row.logits, raw);
        assert.deepEqual({ max: row.max, expSum: row.expSum }, before);
      },
    ),
    { numRuns: 300 },
  );
});

test('a vocabulary of 151,936: every way of drawing agrees with the full sort', () => {
  const vocabSize = 151_936;
  const logits = new Float32Array(vocabSize);
  let state = 1;
  for (let i = 0; i < vocabSize; i++) {
    // Sum of four uniforms: bell-shaped, so that maxima are few and the tail is long, as in a real row.
    let sum = 0;
    for (let j = 0; j < 4; j++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      sum += state / 2 ** 32;
    }
    logits[i] = (sum - 2) * 6;
  }
  const sampler = new Sampler(rowOf(logits, 256));
  for (const [draw, units] of [
    [{ temperature: 0, topK: 0, topP: 1, minP: 0 }, [0.5]],
    [{ temperature: 1, topK: 0, topP: 1, minP: 0 }, [0.001, 0.5, 0.999]],
    [{ temperature: 0.6, topK: 0, topP: 0.9, minP: 0 }, [0.1, 0.95]],
    [{ temperature: 1.4, topK: 50, topP: 0.9, minP: 0 }, [0.3, 0.99]],
    [{ temperature: 1, topK: 0, topP: 1, minP: 0.1 }, [0.7]],
  ] as const) {
    for (const unit of units) {
      assert.equal(sampler.draw(draw, unit), referenceDraw(logits, 256, draw, unit));
    }
  }
});

test('the bounds of what is not summed are never believed too far', () => {
  const sliceSize = 64;
  const logits = Float32Array.from({ length: 1500 }, (_, i) => Math.sin(i * 12.9898) ** 3 * 6);
  for (const [temperature, isOwn] of [0.4, 0.7, 0.95, 1, 1.2, 2].flatMap((t) => [
    [t, false] as const,
    [t, true] as const,
  ])) {
    const sampler = new Sampler(rowOf(logits, sliceSize, summedAt(temperature, isOwn)));
    for (const topP of [1, 0.97, 0.8, 0.5, 0.2]) {
      const draw = { temperature, topK: 0, topP, minP: 0 };
      const intervals = referenceIntervals(logits, sliceSize, draw);
      for (let i = 0; i < 100; i++) {
        const unit = (i + 0.5) / 100;
        const expected = intervals.find(({ to }) => to > unit)!;
        assert.equal(sampler.draw(draw, unit), expected.id, `${JSON.stringify(draw)} at ${unit}`);
      }
    }
  }
});

test('draws follow the distribution', () => {
  const logits = Float32Array.from({ length: 40 }, (_, i) => Math.sin(i * 1.7) * 3);
  const sampler = new Sampler(rowOf(logits, 8));
  const temperature = 1.3;
  const counts = new Float64Array(40);
  const n = 20_000;
  for (let i = 0; i < n; i++) {
    counts[sampler.draw({ temperature, topK: 0, topP: 1, minP: 0 }, (i + 0.5) / n)]!++;
  }
  const weights = Float64Array.from(logits, (logit) => Math.exp(logit / temperature));
  const total = weights.reduce((a, b) => a + b);
  for (let id = 0; id < 40; id++) {
    assert.ok(Math.abs(counts[id]! - (n * weights[id]!) / total) <= 1.001, `token ${id}`);
  }
});

test('rows without a usable logit are refused', () => {
  const params = { temperature: 1, topK: 0, topP: 1, minP: 0 };
  const masked = new Float32Array(20).fill(Number.NEGATIVE_INFINITY);
  assert.throws(() => new Sampler(rowOf(masked, 8)).draw(params, 0.5), SamplingError);
  const infinite = new Float32Array(20).fill(1);
  infinite[3] = Number.POSITIVE_INFINITY;
  assert.throws(() => new Sampler(rowOf(infinite, 8)).draw({ ...params, temperature: 0 }, 0.5));
  const nan = new Float32Array(20).fill(1);
  nan[9] = Number.NaN;
  assert.throws(() => rowOf(nan, 8), /NaN among logits 8\.\.15/);
});

test('a slice sum is taken anew where edits leave little of it', () => {
  const logits = new Float32Array(512).fill(0.9999);
  logits[0] = 1;
  const { sliceMax, sliceExpSum } = sliceStats(logits, 512);
  sliceExpSum[0] = sliceExpSum[0]! * (1 + 5e-5); // as far off as a runner may be
  const row = new SlicedLogits(512, 512);
  row.load(logits, sliceMax, sliceExpSum);
  for (let id = 0; id < 500; id++) {
    row.set(id + 6, -50);
  }
  row.settle();
  const expected = 1 + 11 * Math.exp(logits[1]! - 1);
  assert.ok(Math.abs(row.expSum[0]! / expected - 1) < 1e-6, `${row.expSum[0]}, not ${expected}`);
});

test('logprobs are the log-softmax of the row', () => {
  fc.assert(
    fc.property(
      logitsArbitrary,
      fc.integer({ min: 0, max: 20 }),
      fc.constantFrom(1, 1.4),
      (logits, count, inverseTemperature) => {
        const row = rowOf(logits, 16, inverseTemperature);
        const largest = logits.reduce((a, b) => Math.max(a, b));
        const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
        const expected = Array.from(logits, (logit) => logit - largest - Math.log(total));
        const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
        const top = topLogprobs(row, count);
        assert.deepEqual(
          top.map(({ tokenId }) => tokenId),
          order.slice(0, count),
        );
        for (const { tokenId, logprob } of top) {
          const error = Math.abs(logprob - expected[tokenId]!);
          assert.ok(error < 1e-5 || logprob === expected[tokenId]);
        }
        assert.ok(Math.abs(logprobOf(row, 0) - expected[0]!) < 1e-5);
      },
    ),
  );
});

test('under a mask, draws as if the other tokens had no probability, and gives the row back as it was', () => {
  fc.assert(
    fc.property(
      logitsArbitrary,
      fc.constantFrom(8, 16, 64, 256),
      fc.infiniteStream(fc.nat({ max: 99 })),
      fc.constantFrom(2, 20, 50, 90, 100),
      fc.constantFrom<Partial<SamplingParams>>(
        { temperature: 0 },
        { temperature: 1 },
        { temperature: 0.6, topP: 0.9 },
        { temperature: 1.4, topK: 5 },
        { temperature: 1, minP: 0.1 },
        { temperature: 1, repetitionPenalty: 1.3, logitBias: { 0: 3 } },
      ),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (logits, sliceSize, chances, percent, some, unit) => {
        const words = new Int32Array(Math.ceil(logits.length / 32));
        const left = Float32Array.from(logits, (logit, id) => {
          if (chances.next().value! >= percent) return Number.NEGATIVE_INFINITY;
          words[id >> 5]! |= 1 << (id & 31);
          return logit;
        });
        const params = paramsOf(some);
        const before = plain(logits);
        const row = rowOf(logits, sliceSize);
        const isAnyLeft = row.mask(words, isGreedy(params));
        assert.equal(
          isAnyLeft,
          words.some((word) => word !== 0),
        );
        if (left.some((logit) => logit > Number.NEGATIVE_INFINITY)) {
          Penalties.of(params, Int32Array.of(0))?.apply(row);
          const token = new Sampler(row).draw(params, unit);
          const penalised = referencePenalties(left, params, [0], []);
          assertSameDraw(token, penalised, sliceSize, params, unit);
        }
        row.restore();
        assert.deepEqual(plain(row.logits), before);
        assert.equal(row.logits, logits);
        assert.deepEqual(row.max, rowOf(logits, sliceSize).max);
      },
    ),
    { numRuns: 500 },
  );
});
