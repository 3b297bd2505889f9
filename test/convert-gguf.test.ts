/** Hugging Face folders written as GGUF: the file computes what the folder does, and what GGUF cannot say is refused by name. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { mixModel } from '../src/compress/mix-model.ts';
import { quantizeModel } from '../src/compress/quantize-model.ts';
import { UnsupportedModelError } from '../src/models/errors.ts';
import { GgufView } from '../src/models/gguf-view.ts';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import { chooseTarget } from '../src/runtime/target-choice.ts';
import { ReferenceRunner } from '../src/targets/reference/reference-runner.ts';
import { sameLimits } from './native-models.ts';
import { maxAbsDifference, StepDriver } from './step-driver.ts';

const FIXTURES = path.join(import.meta.dirname, 'fixtures', 'tiny');
const LIMITS = { maxTokens: 48, maxSeqs: 1, maxLogitRows: 1, maxModelLen: 48, numBlocks: 8 };
const TOKENS = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 300);
/** Of the logits, which spread by about 1; f32 rounding of the stored rotation factors (measured 6e-7 without, 4e-6 with them). */
const SAME = 5e-5;

const skip = chooseTarget().target === 'x64' ? false : 'native code cannot run here';
const folder = mkdtempSync(path.join(tmpdir(), 'hasten-convert-'));
after(() => rmSync(folder, { recursive: true }));

function logits({ config, weights }: ModelDescription): Float32Array {
  const { graph } = lowerModel({ source: weights, config, precision: 'f32' });
  using runner = new ReferenceRunner({ graph, weights, limits: sameLimits(LIMITS) });
  const driver = new StepDriver(runner);
  const sequence = driver.newSequence();
  const last = TOKENS.length - 1;
  return driver.step([{ sequence, tokenIds: TOKENS, logitsOf: [last] }])[0]!.slice();
}

/** A copy of a fixture with other fields in its config.json. */
function changed(name: string, fields: object): string {
  const copy = path.join(folder, `${name}-changed`);
  cpSync(path.join(FIXTURES, name), copy, { recursive: true });
  const file = path.join(copy, 'config.json');
  const config = JSON.parse(readFileSync(file, 'utf8'));
  writeFileSync(file, JSON.stringify({ ...config, ...fields }));
  return copy;
}

const LLAMA3 = {
  rope_parameters: {
    ...{ rope_theta: 10000, rope_type: 'llama3', factor: 8, low_freq_factor: 1 },
    ...{ high_freq_factor: 4, original_max_position_embeddings: 64 },
  },
};

describe('Hugging Face folders as GGUF', () => {
  const models = {
    'llama-bf16': () => path.join(FIXTURES, 'llama-bf16'),
    'llama with scaled rotations': () => changed('llama-bf16', LLAMA3),
    qwen2: () => path.join(FIXTURES, 'qwen2'),
    qwen3: () => path.join(FIXTURES, 'qwen3'),
    glm: () => path.join(FIXTURES, 'glm'),
    'glm4, text part': () => path.join(FIXTURES, 'glm4v'),
    // Sliding layers, linear scaling, norms of 1 + w, and a pattern that is not every sixth layer.
    gemma3: () => changed('gemma3', { query_pre_attn_scalar: 32 }),
  };
  for (const [name, folderOf] of Object.entries(models)) {
    it(`${name} computes the same`, async () => {
      using model = loadModelDescription(folderOf());
      const source = new GgufView(model);
      const file = path.join(folder, `${name}.gguf`);
      const converted = { source, metadata: source.entries };
      await quantizeModel(model.path, model.config, file, { types: 'f32', converted });
      using made = loadModelDescription(file);
      assert.equal(made.weights.tensors.has('lm_head.weight'), !model.config.tiedEmbeddings);
      const { maxPositionEmbeddings, numKvHeads, normEps } = model.config;
      assert.deepEqual(
        [made.config.maxPositionEmbeddings, made.config.numKvHeads],
        [maxPositionEmbeddings, numKvHeads],
      );
      assert.ok(Math.abs(made.config.normEps - normEps) < 1e-12);
      const difference = maxAbsDifference(logits(made), logits(model));
      assert.ok(difference < SAME, `${difference}`);
    });
  }

  it('makes small types from a folder', async () => {
    using model = loadModelDescription(path.join(FIXTURES, 'llama-bf16'));
    const source = new GgufView(model);
    const file = path.join(folder, 'small.gguf');
    const converted = { source, metadata: source.entries };
    await quantizeModel(model.path, model.config, file, { types: 'q8_0', converted });
    using made = loadModelDescription(file);
    const name = 'model.layers.0.self_attn.q_proj.weight';
    assert.equal(made.weights.tensors.get(name)!.dtype, 'q8_0');
    const [a, b] = [logits(made), logits(model)];
    const size = Math.sqrt(b.reduce((sum, value) => sum + value * value, 0));
    const off = Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0));
    assert.ok(off < 0.06 * size, `${off / size}`);
  });

  it('mixes formats of a folder as of the file made of it', { skip }, async () => {
    const of = path.join(FIXTURES, 'llama-bf16');
    using model = loadModelDescription(of);
    const source = new GgufView(model);
    const converted = {
      ...{ source, inStoredOrder: new GgufView(model, 'stored'), metadata: source.entries },
    };
    const file = path.join(folder, 'as-bf16.gguf');
    await quantizeModel(model.path, model.config, file, { types: 'bf16', converted });
    using made = loadModelDescription(file);
    const windows = [TOKENS.slice(0, 20), TOKENS.slice(20)];
    const target = { kind: 'bpw', bitsPerWeight: 7 } as const;
    const options = { target, formats: ['q4_0', 'q8_0'], windows, threads: 1 } as const;
    const stateFile = (name: string): string => path.join(folder, `${name}.search.json`);
    const plan = await mixModel(of, model, { ...options, converted, stateFile: stateFile('a') });
    const same = await mixModel(file, made, { ...options, stateFile: stateFile('b') });
    assert.ok(new Set(plan.tensors.map(({ dtype }) => dtype)).size > 1);
    const lossOf = new Map(same.tensors.map(({ name, probed }) => [name, probed.divergence]));
    for (const { name, probed } of plan.tensors) {
      const other = lossOf.get(name)!;
      assert.ok(Math.abs(probed.divergence - other) <= 1e-3 * other + 1e-7, `${name} ${other}`);
    }
    const bytes = 300_000;
    const sized = await mixModel(of, model, {
      ...{ ...options, converted, stateFile: stateFile('c'), target: { kind: 'size', bytes } },
    });
    const types = new Map(sized.tensors.map(({ name, dtype }) => [name, dtype]));
    const small = path.join(folder, 'mixed.gguf');
    const { sizeBytes } = await quantizeModel(of, model.config, small, { types, converted });
    assert.ok(sizeBytes <= bytes && sizeBytes > 0.8 * bytes, `${sizeBytes}`);
  });

  it('refuses by name what it cannot say', () => {
    const refused = [
      [path.join(FIXTURES, 'phi3-partial'), /architecture phi3 \(llama, qwen2, .* can\)/],
      [path.join(FIXTURES, 'gemma3'), /an attention scale of 0\.204\d* at head dimension 32/],
      [path.join(FIXTURES, 'llama-bias'), /llama model with these biases/],
      [path.join(FIXTURES, 'mistral'), /sliding windows/],
    ] as const;
    for (const [of, message] of refused) {
      using model = loadModelDescription(of);
      assert.throws(
        () => new GgufView(model),
        (error: unknown) => error instanceof UnsupportedModelError && message.test(error.message),
      );
    }
  });
});
