import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import { compressLinears } from './calibrated.ts';
import { CompressError } from './errors.ts';
import { F32Weights } from './f32-weights.ts';
import type { GroupScheme } from './group-quantizer.ts';
import { HF_LAYOUTS, writeHfModel } from './write-hf.ts';

const MODEL = fileURLToPath(new URL('../../test/fixtures/tiny/llama-bf16', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hasten-write-hf-'));
after(() => rmSync(folder, { recursive: true }));
const windows = [Array.from({ length: 48 }, (_, i) => (i * 29 + 3) % 120)];

describe('writing models in the layouts of other toolkits', () => {
  for (const layout of HF_LAYOUTS) {
    for (const symmetry of ['symmetric', 'asymmetric'] as const) {
      it(`${layout}, ${symmetry}: read back, it has the values that were compressed`, async () => {
        using description = loadModelDescription(MODEL);
        const weights = new F32Weights(description.weights);
        const scheme: GroupScheme = { bits: 4, groupSize: 32, symmetry, searchesRange: true };
        const compressed = await compressLinears({
          ...{ weights, config: description.config, windows, method: 'gptq', threads: 1 },
          schemeOf: () => scheme,
        });
        const out = join(folder, `${layout}-${symmetry}`);
        await writeHfModel(MODEL, compressed, layout, out);
        using made = loadModelDescription(out);
        assert.ok(compressed.matrices.size > 0);
        for (const name of compressed.matrices.keys()) {
          assert.notEqual(made.weights.tensors.get(name)!.dtype, 'f32', name);
          assert.deepEqual(made.weights.readF32(name), weights.readF32(name), name);
        }
        await assert.rejects(writeHfModel(MODEL, compressed, layout, out), /is there already/);
      });
    }
  }

  it('leaves nothing behind when a layout has no place for a matrix', async () => {
    using description = loadModelDescription(MODEL);
    const weights = new F32Weights(description.weights);
    const scheme: GroupScheme = {
      bits: 3,
      groupSize: 'row',
      symmetry: 'symmetric',
      searchesRange: false,
    };
    const compressed = await compressLinears({
      ...{ weights, config: description.config, windows, method: 'rtn', threads: 1 },
      schemeOf: () => scheme,
    });
    const out = join(folder, 'never');
    await assert.rejects(writeHfModel(MODEL, compressed, 'awq', out), Error);
    assert.ok(!existsSync(out));
    await assert.rejects(writeHfModel(folder, compressed, 'gptq', out), CompressError);
  });
});
