import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import { chooseTarget } from '../runtime/target-choice.ts';
import { CompressError } from './errors.ts';
import { F32Weights } from './f32-weights.ts';
import { smoothInputs } from './smooth-quant.ts';
import { TensorProbe } from './tensor-probe.ts';
import { writeRoundedModel } from './write-rounded.ts';

const fixture = (name: string): string =>
  fileURLToPath(new URL(`../../test/fixtures/tiny/${name}`, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hasten-smooth-'));
after(() => rmSync(folder, { recursive: true }));
const skip = chooseTarget().target === 'x64' ? false : 'native code cannot run here';
const windows = [Array.from({ length: 40 }, (_, i) => (i * 29 + 3) % 61)];
const DOWN = 'model.layers.0.mlp.down_proj.weight';

describe('SmoothQuant', { skip }, () => {
  // gemma3 has norms of 1 + w, and four of them in a layer.
  for (const name of ['llama-bf16', 'gemma3', 'qwen2']) {
    it(`changes nothing that ${name} computes, and balances inputs and weights`, async () => {
      using model = loadModelDescription(fixture(name));
      const { config, weights } = model;
      const f32 = new F32Weights(weights);
      const replaced = await smoothInputs({
        ...{ weights: f32, config, windows, threads: 1, strength: 0.5 },
      });
      // q, k, v, gate, up and two norms of each layer.
      assert.equal(replaced.size, 7 * config.numLayers);
      assert.ok(!replaced.has(DOWN));
      // The stored model beside the smoothed one: with the weights of a linear as they were stored the result would be another.
      using probe = new TensorProbe({
        weights: new F32Weights(weights),
        config,
        windows,
        threads: 1,
      });
      using smooth = new TensorProbe({ weights: f32, config, windows, threads: 1 });
      const down = f32.readF32(DOWN).map((value, i) => value * (1 + 0.3 * Math.sin(i)));
      const [stored, smoothed] = [probe.divergence(DOWN, down), smooth.divergence(DOWN, down)];
      assert.ok(
        stored > 1e-6 && Math.abs(stored - smoothed) <= 0.01 * stored,
        `${stored} ${smoothed}`,
      );
      const q = 'model.layers.0.self_attn.q_proj.weight';
      const changed = smooth.divergence(q, weights.readF32(q));
      assert.ok(changed > 1e-6, `${changed}`);
    });
  }

  it('goes into a W8A8 folder', async () => {
    using model = loadModelDescription(fixture('llama-bf16'));
    const { config, weights } = model;
    const f32 = new F32Weights(weights);
    const replaced = await smoothInputs({
      weights: f32,
      config,
      windows,
      threads: 1,
      strength: 0.5,
    });
    const out = join(folder, 'w8a8');
    await writeRoundedModel(fixture('llama-bf16'), 'w8a8', out, { replaced });
    using made = loadModelDescription(out);
    for (const [name, values] of replaced) {
      const read = made.weights.readF32(name);
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      assert.ok(
        read.every((value, i) => Math.abs(value - values[i]!) <= largest / 250),
        name,
      );
    }
    const norm = 'model.norm.weight';
    const smoothed = [...replaced.keys()].find((name) => name.endsWith('norm.weight'))!;
    const int8 = join(folder, 'int8');
    await writeRoundedModel(fixture('llama-bf16'), 'int8', int8, { replaced });
    using other = loadModelDescription(int8);
    const typeOf = (name: string) => other.weights.tensors.get(name)!.dtype;
    assert.deepEqual([typeOf(smoothed), typeOf(norm)], ['bf16', 'bf16']);
    await assert.rejects(
      smoothInputs({ weights: f32, config, windows, threads: 1, strength: 2 }),
      CompressError,
    );
  });
});
