import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import { type CalibratedOptions, compressLinears, METHODS } from './calibrated.ts';
import { CompressionState } from './compression-state.ts';
import { CompressError, GroupSizeError, NonFiniteWeightError } from './errors.ts';
import { F32Weights } from './f32-weights.ts';
import type { GroupScheme } from './group-quantizer.ts';
import { LayerWalker } from './layer-walker.ts';

const model = (name: string): string =>
  fileURLToPath(new URL(`../../test/fixtures/${name}`, import.meta.url));
const LLAMA = model('tiny-gguf/smollm-f32.gguf');
const folder = mkdtempSync(join(tmpdir(), 'hasten-compress-'));
after(() => rmSync(folder, { recursive: true }));

const windows = Array.from({ length: 3 }, (_, w) =>
  Array.from({ length: 40 }, (_, i) => (i * (7 + w) + 3 * w + ((i * i) % 11)) % 120),
);
const scheme: GroupScheme = {
  ...{ bits: 3, groupSize: 'row', symmetry: 'asymmetric', searchesRange: false },
};
const settings = { windows, threads: 1, schemeOf: () => scheme } as const;

async function compressed(path: string, change: Partial<CalibratedOptions>) {
  using description = loadModelDescription(path);
  const weights = new F32Weights(description.weights);
  const result = await compressLinears({
    ...settings,
    ...{ method: 'gptq', config: description.config, weights },
    ...change,
  });
  return { result, weights };
}

describe('compressing linears with a calibration text', () => {
  for (const method of METHODS) {
    it(`${method}: every matrix of every layer, and the same twice`, async () => {
      const first = await compressed(LLAMA, { method });
      const second = await compressed(LLAMA, { method });
      using description = loadModelDescription(LLAMA);
      const linears = [...description.weights.tensors.keys()].filter((name) =>
        /_proj\.weight$/.test(name),
      );
      assert.deepEqual([...first.result.matrices.keys()].sort(), linears.sort());
      assert.deepEqual(second.result.matrices, first.result.matrices);
      for (const name of linears) {
        // Values of layers that are done are not kept, only their codes.
        assert.ok(!first.weights.replaced.has(name), name);
        const whole = first.weights.readF32(name);
        const { rows, columns } = first.result.matrices.get(name)!;
        const some = first.weights.readRows(name, 1, rows - 1);
        assert.deepEqual(new Float32Array(some.buffer), whole.slice(columns, -columns));
      }
    });
  }

  for (const method of METHODS) {
    it(`${method}: counts linears, and stops between two of them`, async () => {
      const steps: [number, number][] = [];
      const stop = new AbortController();
      const run = compressed(LLAMA, {
        ...{ method, signal: stop.signal },
        onStep(done, total) {
          steps.push([done, total]);
          if (done === 2) stop.abort(new Error('enough'));
        },
      });
      await assert.rejects(run, /enough/);
      using description = loadModelDescription(LLAMA);
      const total = steps[0]![1];
      assert.ok(total > description.config.numLayers);
      assert.deepEqual(
        steps,
        [0, 1, 2].map((done) => [done, total]),
      );
    });
  }

  it('gptq, awq and autoround leave less error in the outputs than rounding', async () => {
    // What rounding leaves, measured in the same way: GPTQ whose moments are those of independent inputs would be RTN.
    const errorOf = async (change: Partial<CalibratedOptions>): Promise<number> => {
      const { result } = await compressed(LLAMA, change);
      const errors = result.layers.flatMap(({ sites }) => sites.map((s) => s.relativeError ?? 0));
      return errors.reduce((sum, e) => sum + e, 0) / errors.length;
    };
    const gptq = await errorOf({ method: 'gptq' });
    const awq = await errorOf({ method: 'awq' });
    const learned = await errorOf({ method: 'autoround' });
    // So much damping makes the moments a multiple of the identity.
    const rounded = await errorOf({ method: 'gptq', gptq: { damping: 1, order: 'stored' } });
    assert.ok(gptq > 0 && gptq < rounded, `${gptq} ${rounded}`);
    assert.ok(awq > 0 && awq < rounded * 1.2, `${awq} ${rounded}`);
    assert.ok(learned > 0 && learned < gptq, `${learned} ${gptq}`);
  });

  for (const path of ['tiny/gemma3', 'tiny/qwen2', 'tiny/phi3-partial', 'tiny/glm']) {
    it(`awq, gptq and autoround know ${path}`, async () => {
      for (const method of ['awq', 'gptq', 'autoround'] as const) {
        const { result } = await compressed(model(path), { method });
        const errors = result.layers.flatMap(({ sites }) => sites.map((s) => s.relativeError ?? 1));
        assert.ok(
          errors.every((e) => e >= 0 && e < 0.5),
          `${method} ${errors}`,
        );
      }
    });
  }

  it('goes on after the layers that are kept, with the same result', async () => {
    for (const method of ['gptq', 'awq', 'autoround'] as const) {
      const whole = await compressed(LLAMA, { method });
      const state = new CompressionState(join(folder, method), 'print');
      await compressed(LLAMA, { method, state });
      // As if the run had been killed in its last layer.
      const last = whole.result.layers.length - 1;
      unlinkSync(join(folder, method, `layer-${last}.json`));
      const resumed = await compressed(LLAMA, { method, state });
      assert.deepEqual(
        resumed.result.layers.map((l) => l.wasKept),
        whole.result.layers.map((_, i) => i < last),
      );
      assert.deepEqual(resumed.result.matrices, whole.result.matrices);
      assert.deepEqual(resumed.result.vectors, whole.result.vectors);
    }
    assert.throws(() => new CompressionState(join(folder, 'gptq'), 'other'), CompressError);
  });

  it('refuses groups that do not divide, and weights that are no numbers', async () => {
    const schemeOf = (): GroupScheme => ({ ...scheme, groupSize: 50 });
    await assert.rejects(compressed(LLAMA, { schemeOf }), GroupSizeError);
    using description = loadModelDescription(LLAMA);
    const weights = new F32Weights(description.weights);
    const name = 'model.layers.0.mlp.down_proj.weight';
    const values = weights.readF32(name);
    const columns = weights.tensors.get(name)!.shape[1]!;
    values[2 * columns + 7] = Number.POSITIVE_INFINITY;
    weights.replace(name, values);
    await assert.rejects(
      compressLinears({ ...settings, method: 'gptq', config: description.config, weights }),
      (error: unknown) =>
        error instanceof NonFiniteWeightError &&
        error.tensor === name &&
        error.row === 2 &&
        error.column === 7,
    );
  });
});

describe('LayerWalker', () => {
  it('sees the same inputs whether it stops on the way or not', () => {
    using description = loadModelDescription(LLAMA);
    const { config } = description;
    const seen = (stops: boolean): number[] => {
      const weights = new F32Weights(description.weights);
      using walker = LayerWalker.create({ weights, config, windows, threads: 2 });
      const site = walker.layers.at(-1)!.sites.at(-1)!;
      if (stops) {
        for (const layer of walker.layers) {
          for (const { command } of layer.sites) if (command < site.command) walker.moveTo(command);
        }
      }
      const sums: number[] = [];
      const visit = (inputs: Float32Array, stride: number, n: number): void => {
        for (let t = 0; t < n; t++) sums.push(inputs[t * stride + 5]!);
      };
      walker.moveTo(site.command, new Map([[site.command, visit]]));
      return sums;
    };
    const straight = seen(false);
    assert.equal(straight.length, 120);
    assert.ok(new Set(straight).size > 60);
    assert.deepEqual(seen(true), straight);
  });
});
