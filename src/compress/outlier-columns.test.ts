import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import { chooseTarget } from '../runtime/target-choice.ts';
import { CompressError } from './errors.ts';
import { F32Weights } from './f32-weights.ts';
import { findOutlierColumns } from './outlier-columns.ts';

const MODEL = fileURLToPath(new URL('../../test/fixtures/tiny/llama-bf16', import.meta.url));
const skip = chooseTarget().target === 'x64' ? false : 'native code cannot run here';
const windows = [Array.from({ length: 40 }, (_, i) => (i * 29 + 3) % 61)];
const NORM = 'model.layers.1.input_layernorm.weight';
const Q = 'model.layers.1.self_attn.q_proj.weight';

describe('outlier columns', { skip }, () => {
  const model = loadModelDescription(MODEL);
  after(() => model[Symbol.dispose]());
  const { config, weights } = model;
  const f32 = new F32Weights(weights);
  // Inputs of q, k and v of the second layer: nearly nothing, but for five channels of rising size.
  const norm = new Float32Array(96).fill(0.001);
  [80, 9, 40, 2, 64].forEach((channel, i) => {
    norm[channel] = 10 * (i + 1);
  });
  f32.replace(NORM, norm);
  const find = (threshold: number, maxShare: number) =>
    findOutlierColumns({ weights: f32, config, windows, threads: 1, threshold, maxShare });

  it('are those that reach the threshold, ascending, for all linears of one input', async () => {
    const found = await find(6, 1);
    assert.deepEqual(found.get(Q), [2, 9, 40, 64, 80]);
    assert.equal(found.get('model.layers.1.self_attn.v_proj.weight'), found.get(Q));
    assert.equal((await find(1e5, 1)).size, 0);
  });

  it('are the largest where they are too many', async () => {
    assert.deepEqual((await find(6, 0.0209)).get(Q), [2, 64]);
    assert.equal((await find(6, 0.01)).has(Q), false);
  });

  it('refuses a threshold or a share that is none', async () => {
    for (const [threshold, share] of [
      [0, 0.03],
      [Number.NaN, 0.03],
      [6, 0],
      [6, 1.5],
    ] as const) {
      await assert.rejects(find(threshold, share), CompressError);
    }
  });
});
