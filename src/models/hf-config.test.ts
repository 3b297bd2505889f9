import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ModelError, UnsupportedModelError } from './errors.ts';
import { parseGenerationConfig, parseHfConfig } from './hf-config.ts';

const TINY = path.join(import.meta.dirname, '../../test/fixtures/tiny');

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 96,
  intermediate_size: 256,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  vocab_size: 320,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  eos_token_id: 2,
};

const QWEN2 = {
  ...LLAMA,
  architectures: ['Qwen2ForCausalLM'],
  sliding_window: 12,
  max_window_layers: 1,
};

function readJson(...parts: string[]): Record<string, unknown> {
  return JSON.parse(readFileSync(path.join(TINY, ...parts), 'utf8'));
}

describe('both spellings of config.json', () => {
  for (const folder of readdirSync(TINY)) {
    if (!existsSync(path.join(TINY, folder, 'config.legacy.json'))) continue;
    it(`reads ${folder} alike from transformers 5 and 4`, () => {
      assert.deepEqual(
        parseHfConfig(readJson(folder, 'config.legacy.json')),
        parseHfConfig(readJson(folder, 'config.json')),
      );
    });
  }
});

describe('parseHfConfig', () => {
  it('fills in what a class leaves out', () => {
    const config = parseHfConfig({ ...LLAMA, num_key_value_heads: undefined });
    assert.equal(config.numKvHeads, 6);
    assert.equal(config.headDim, 16);
    assert.equal(config.attentionScale, 0.25);
    assert.equal(config.tiedEmbeddings, false);
    assert.deepEqual(config.biases, { qkv: false, output: false, mlp: false });
  });

  it('takes the defaults of Gemma 3, whose larger files leave most keys out', () => {
    const config = parseHfConfig({
      architectures: ['Gemma3ForConditionalGeneration'],
      eos_token_id: [1, 106],
      text_config: {
        hidden_size: 2560,
        intermediate_size: 10240,
        num_hidden_layers: 34,
        sliding_window: 1024,
        rope_scaling: { factor: 8.0, rope_type: 'linear' },
      },
    });
    assert.deepEqual(
      [config.numHeads, config.numKvHeads, config.headDim, config.vocabSize, config.tiedEmbeddings],
      [8, 4, 256, 262208, true],
    );
    assert.deepEqual(
      config.layers.slice(3, 7).map((layer) => layer.window),
      [1024, 1024, null, 1024],
    );
    assert.equal(config.layers[5]!.rope.frequencies[0], 1 / 8);
    assert.equal(config.layers[0]!.rope.frequencies[0], 1);
    assert.deepEqual(config.eosTokenIds, [1, 106]);
  });

  it('slides Qwen layers from max_window_layers on, and only if told to', () => {
    const windows = (json: Record<string, unknown>) =>
      parseHfConfig(json).layers.map((layer) => layer.window);
    assert.deepEqual(windows({ ...QWEN2, use_sliding_window: true }), [null, 12]);
    assert.deepEqual(windows({ ...QWEN2, use_sliding_window: false }), [null, null]);
    assert.deepEqual(windows({ ...QWEN2, layer_types: ['sliding_attention', 'full_attention'] }), [
      12,
      null,
    ]);
  });

  it('unites the end-of-text ids of all places', () => {
    const config = parseHfConfig(
      { ...LLAMA, eos_token_id: [7, 3] },
      { generationConfig: { eos_token_id: [3, 9] } },
    );
    assert.deepEqual(config.eosTokenIds, [3, 7, 9]);
  });

  it('chooses between the factors of LongRoPE by the length that will be run', () => {
    const json = {
      ...LLAMA,
      architectures: ['Phi3ForCausalLM'],
      max_position_embeddings: 4096,
      original_max_position_embeddings: 1024,
      rope_scaling: {
        type: 'longrope',
        short_factor: Array(8).fill(1),
        long_factor: Array(8).fill(4),
      },
    };
    const short = parseHfConfig(json);
    const long = parseHfConfig(json, { maxModelLen: 2048 });
    assert.deepEqual([short.maxPositionEmbeddings, long.maxPositionEmbeddings], [1024, 4096]);
    assert.deepEqual(
      [short, long].map((config) => config.layers[0]!.rope.frequencies[0]),
      [1, 0.25],
    );
    assert.equal(short.layers[0]!.rope.magnitude, Math.sqrt(1 + Math.log(4) / Math.log(1024)));
  });

  const refused: Record<string, [Record<string, unknown>, typeof ModelError, RegExp]> = {
    'an unknown architecture': [
      { ...LLAMA, architectures: ['MambaForCausalLM'] },
      UnsupportedModelError,
      /"MambaForCausalLM" is not supported; supported: LlamaForCausalLM, MistralForCausalLM/,
    ],
    'no architecture': [{ ...LLAMA, architectures: [] }, ModelError, /names no class/],
    'a name from the prototype': [
      { ...LLAMA, architectures: ['constructor'] },
      UnsupportedModelError,
      /"constructor" is not supported/,
    ],
    'a missing size': [
      { ...LLAMA, hidden_size: undefined },
      ModelError,
      /"hidden_size" is missing; expected a positive whole number/,
    ],
    'a size that is no number': [
      { ...LLAMA, vocab_size: '320' },
      ModelError,
      /"vocab_size" is "320"; expected a positive whole number/,
    ],
    'a negative size': [
      { ...LLAMA, num_hidden_layers: -1 },
      ModelError,
      /"num_hidden_layers" is -1/,
    ],
    'more layers than any model has': [
      { ...LLAMA, num_hidden_layers: 2_000_000_000 },
      ModelError,
      /2000000000 layers; at most 4096/,
    ],
    'a head larger than any model has': [
      { ...LLAMA, head_dim: 2_000_000_000 },
      ModelError,
      /head dimension 2000000000; at most 16384/,
    ],
    'heads that do not divide': [
      { ...LLAMA, num_key_value_heads: 4 },
      ModelError,
      /6 attention heads are not a multiple of 4/,
    ],
    'an unknown activation': [
      { ...LLAMA, hidden_act: 'mish' },
      UnsupportedModelError,
      /activation "mish" is not supported; accepted: silu/,
    ],
    'an unknown rope type': [
      { ...LLAMA, rope_scaling: { type: 'dynamic', factor: 2 } },
      UnsupportedModelError,
      /rope type "dynamic" is not supported; accepted: default, linear/,
    ],
    'a rope factor that is missing': [
      { ...LLAMA, rope_scaling: { rope_type: 'linear' } },
      ModelError,
      /"factor" is missing/,
    ],
    'more rotated values than a head has': [
      { ...LLAMA, partial_rotary_factor: 2 },
      ModelError,
      /partial_rotary_factor 2 of 16 rotates 32 values/,
    ],
    'layer types of another number': [
      { ...QWEN2, layer_types: ['full_attention'] },
      ModelError,
      /"layer_types" has 1 entries; expected one for each of 2 layers/,
    ],
    'a layer type that is not known': [
      { ...QWEN2, layer_types: ['full_attention', 'chunked_attention'] },
      UnsupportedModelError,
      /"chunked_attention" is not supported/,
    ],
    'a softcap on attention': [
      { ...LLAMA, attn_logit_softcapping: 50 },
      UnsupportedModelError,
      /attn_logit_softcapping/,
    ],
  };
  for (const [what, [json, errorClass, message]] of Object.entries(refused)) {
    it(`refuses ${what}`, () => {
      assert.throws(
        () => parseHfConfig(json),
        (error) => error instanceof errorClass && message.test(error.message),
      );
    });
  }
});

it('reads or refuses, and nothing else, whatever a key holds', () => {
  const files = readdirSync(TINY).map((folder) => readJson(folder, 'config.json'));
  const keys = [...new Set(files.flatMap((json) => Object.keys(json)))];
  const odd = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom(-1, 0, 0.5, 2 ** 31, 2 ** 53, 1e300, '', '16', [], {}, null, true),
  );
  fc.assert(
    fc.property(fc.constantFrom(...files), fc.constantFrom(...keys), odd, (json, key, value) => {
      try {
        const { layers, headDim } = parseHfConfig({ ...json, [key]: value });
        assert.ok(layers.every((layer) => layer.rope.rotaryDim <= headDim));
      } catch (error) {
        assert.ok(error instanceof ModelError, String(error));
      }
    }),
    { numRuns: 2000 },
  );
});

describe('parseGenerationConfig', () => {
  it('gives only what the file says', () => {
    assert.deepEqual(parseGenerationConfig({ temperature: 0.6, top_p: 0.95, top_k: 20 }), {
      temperature: 0.6,
      topP: 0.95,
      topK: 20,
    });
    assert.deepEqual(parseGenerationConfig({}), {});
  });

  it('is greedy where the file says not to sample', () => {
    assert.equal(parseGenerationConfig({ do_sample: false, temperature: 0.6 }).temperature, 0);
  });
});
