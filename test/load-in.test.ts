/**
 * A model stored in bf16, quantized while it is loaded: machine code and the reference target agree on what it has become, int8 activations and the 8-bit code
 * book stay near it, and it is near the model that it was made of.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, it } from 'node:test';
import { LOAD_FORMATS } from '../src/models/load-format.ts';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import { ReferenceRunner } from '../src/targets/reference/reference-runner.ts';
import { nativeIsas, nativeRunner, sameLimits, skipNative } from './native-models.ts';
import { maxAbsDifference, StepDriver } from './step-driver.ts';

const MODEL = path.join(import.meta.dirname, 'fixtures', 'tiny', 'llama-bf16');
const LIMITS = { maxTokens: 32, maxSeqs: 2, maxLogitRows: 32, maxModelLen: 64, numBlocks: 8 };
const TOKENS = Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % 320);

/** Of the logits, between targets in f32 (measured up to 6e-6). */
const SAME = 1e-4;
/** Of int8 activations and rounded weights, relative (measured 0.02 to 0.035). */
const FAST = 0.06;
/** Between the quantized and the stored model, relative (measured 0.32, 0.39 and 0.03: a small random model). */
const QUANTIZED = { nf4: 0.5, int4: 0.6, int8: 0.06 } as const;

function answers(driver: StepDriver): Float32Array {
  const [logits] = driver.step([
    { sequence: driver.newSequence(), tokenIds: TOKENS, logitsOf: [TOKENS.length - 1] },
  ]);
  return logits!;
}

function referenceAnswers({ config, weights }: ModelDescription): Float32Array {
  const { graph } = lowerModel({ source: weights, config, precision: 'f32' });
  using runner = new ReferenceRunner({ graph, weights, limits: sameLimits(LIMITS) });
  return answers(new StepDriver(runner)).slice();
}

function relativeDifference(a: Float32Array, b: Float32Array): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

describe('a bf16 model quantized while loading', () => {
  using stored = loadModelDescription(MODEL);
  const original = referenceAnswers(stored);
  for (const loadIn of LOAD_FORMATS) {
    it(`${loadIn} is near the model as it is stored`, () => {
      using model = loadModelDescription(MODEL, { loadIn });
      const relative = relativeDifference(referenceAnswers(model), original);
      assert.ok(relative > 1e-4 && relative < QUANTIZED[loadIn], `${relative}`);
    });

    it(`${loadIn} runs the same on machine code`, { skip: skipNative }, async () => {
      using model = loadModelDescription(MODEL, { loadIn });
      const expected = referenceAnswers(model);
      for (const isa of nativeIsas) {
        using exact = await nativeRunner(model, { isa, precision: 'f32', threads: 1 }, LIMITS);
        const difference = maxAbsDifference(answers(new StepDriver(exact)), expected);
        assert.ok(difference < SAME, `${isa} f32: ${difference}`);
        using fast = await nativeRunner(model, { isa, precision: 'fast', threads: 1 }, LIMITS);
        const relative = relativeDifference(answers(new StepDriver(fast)), expected);
        assert.ok(relative > 1e-5 && relative < FAST, `${isa} fast: ${relative}`);
      }
    });
  }
});
