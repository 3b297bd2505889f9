import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { StringList } from '../platform/string-list.ts';
import { ModelError, UnsupportedModelError } from './errors.ts';
import { parseGgufConfig, parseGgufSampling } from './gguf-config.ts';
import { ggufArchitecture } from './registry.ts';

type Metadata = Record<string, unknown>;

const NUMBERS = {
  context_length: 256,
  embedding_length: 96,
  block_count: 7,
  feed_forward_length: 256,
  'attention.head_count': 6,
  'attention.head_count_kv': 2,
  'attention.layer_norm_rms_epsilon': 1e-5,
  'attention.sliding_window': 16,
};

/** Metadata of an architecture, with further keys under its prefix or (given with a dot at the start) by full name. */
function parse(
  name: string,
  own: Metadata = {},
  tensors: readonly string[] = [],
  factors: Record<string, Float32Array> = {},
) {
  const metadata = new Map<string, unknown>([['general.architecture', name]]);
  for (const [key, value] of Object.entries({ ...NUMBERS, ...own })) {
    metadata.set(key.startsWith('.') ? key.slice(1) : `${name}.${key}`, value);
  }
  const names = new Set(['model.embed_tokens.weight', ...tensors]);
  const directory = {
    get: (tensor: string) => (names.has(tensor) ? { dtype: 'f32', shape: [320, 96] } : undefined),
  };
  const file = { path: 'x.gguf', metadata, directory, readF32: (n: string) => factors[n] ?? null };
  return parseGgufConfig(file, ggufArchitecture('x.gguf', name));
}

describe('parseGgufConfig', () => {
  it('takes what the metadata does not hold from the tensors', () => {
    const config = parse('llama', {}, ['model.layers.0.self_attn.q_proj.bias']);
    assert.equal(config.vocabSize, 320);
    assert.equal(config.tiedEmbeddings, true);
    assert.deepEqual(config.biases, { qkv: true, output: false, mlp: false });
    assert.equal(parse('llama', {}, ['lm_head.weight']).tiedEmbeddings, false);
  });

  it('knows which rotation the rows were stored for', () => {
    const styleOf = (name: string, own: Metadata = {}) => parse(name, own).layers[0]!.rope.style;
    assert.equal(styleOf('llama'), 'interleaved');
    assert.equal(styleOf('qwen2'), 'half');
    assert.equal(styleOf('qwen3'), 'half');
    assert.equal(styleOf('phi3'), 'half');
    assert.equal(styleOf('gemma3'), 'half');
    assert.equal(styleOf('chatglm'), 'interleaved');
    assert.equal(styleOf('glm4'), 'interleaved');
    assert.equal(styleOf('glm4', { 'rope.dimension_sections': [8, 12, 12, 0] }), 'half');
  });

  it("gives Gemma's sliding layers their own theta and no scaling", () => {
    const { layers } = parse('gemma3', {
      'rope.freq_base': 1e6,
      'rope.scaling.type': 'linear',
      'rope.scaling.factor': 8,
    });
    assert.deepEqual(
      layers.map((layer) => layer.window),
      [16, 16, 16, 16, 16, null, 16],
    );
    const flags = [false, true, true, true, true, true, true];
    const stated = parse('gemma3', { 'attention.sliding_window_pattern': flags }).layers;
    assert.deepEqual([stated[0]!.window, stated[5]!.window], [null, 16]);
    const near = (a: number, b: number) => Math.abs(a / b - 1) < 1e-6;
    assert.ok(near(layers[0]!.rope.frequencies[1]!, 1e4 ** (-2 / 16)));
    assert.ok(near(layers[5]!.rope.frequencies[1]!, 1e6 ** (-2 / 16) / 8));
  });

  it('scales the attention of Gemma 27B, and of it alone, by hidden size over heads', () => {
    assert.equal(parse('gemma3', { 'attention.key_length': 32 }).attentionScale, 32 ** -0.5);
    const large = parse('gemma3', { block_count: 62, 'attention.key_length': 32 });
    assert.equal(large.attentionScale, 16 ** -0.5);
  });

  it('divides frequencies by rope_freqs.weight', () => {
    const factors = new Float32Array(8).fill(1);
    factors[7] = 4;
    const scaled = parse('llama', {}, [], { 'rope_freqs.weight': factors }).layers[0]!.rope;
    const plain = parse('llama').layers[0]!.rope;
    assert.equal(scaled.frequencies[0], plain.frequencies[0]);
    assert.equal(scaled.frequencies[7], plain.frequencies[7]! / 4);
  });

  it('finds every token that ends a text', () => {
    const tokens = {
      '.tokenizer.ggml.eos_token_id': 2,
      '.tokenizer.ggml.eot_token_id': 5,
      '.tokenizer.ggml.tokens': StringList.of([
        'a',
        '<|im_end|>',
        '</s>',
        '<|user|>',
        '</answer>',
        '<x>',
        '<|end|>',
      ]),
      '.tokenizer.ggml.token_type': Int32Array.of(1, 3, 3, 3, 4, 3, 1),
    };
    // <|end|> is an ordinary token here; what GLM adds counts for GLM only
    assert.deepEqual(parse('llama', tokens).eosTokenIds, [1, 2, 5]);
    assert.deepEqual(parse('glm4', tokens).eosTokenIds, [1, 2, 3, 4, 5]);
  });

  it('reads sizes that are written once per layer, if they agree', () => {
    const heads = Uint32Array.of(2, 2, 2, 2, 2, 2, 2);
    assert.equal(parse('llama', { 'attention.head_count_kv': heads }).numKvHeads, 2);
    heads[3] = 3;
    assert.throws(
      () => parse('llama', { 'attention.head_count_kv': heads }),
      (error) =>
        error instanceof UnsupportedModelError &&
        /differs from layer to layer \(2, 3\)/.test(error.message),
    );
  });

  const refused: Record<string, [() => unknown, RegExp]> = {
    'a missing size': [
      () => parse('llama', { embedding_length: undefined }),
      /llama: "embedding_length" is missing/,
    ],
    'an unknown architecture': [
      () => parse('mamba'),
      /"mamba" is not supported; supported: llama, qwen2/,
    ],
    'a mixture of experts': [() => parse('llama', { expert_count: 8 }), /mixture of 8 experts/],
    'values of another size than keys': [
      () => parse('llama', { 'attention.key_length': 16, 'attention.value_length': 32 }),
      /keys of 16 and values of 32 per head/,
    ],
    'a rotation beyond the head': [
      () => parse('llama', { 'rope.dimension_count': 18 }),
      /rope.dimension_count is 18; expected an even number up to the head dimension 16/,
    ],
    'rope factors of another number': [
      () => parse('llama', {}, [], { 'rope_freqs.weight': new Float32Array(7).fill(1) }),
      /tensor "rope_freqs.weight" has 7 values; expected 8 above 0/,
    ],
    'an unknown scaling': [
      () => parse('llama', { 'rope.scaling.type': 'su' }),
      /rope scaling "su" is not supported; accepted: none, linear, yarn/,
    ],
  };
  for (const [what, [run, message]] of Object.entries(refused)) {
    it(`refuses ${what}`, () => {
      assert.throws(run, (error) => error instanceof ModelError && message.test(error.message));
    });
  }
});

it('reads or refuses, and nothing else, whatever a key holds', () => {
  const keys = [
    ...Object.keys(NUMBERS),
    'rope.dimension_count',
    'rope.freq_base',
    'rope.scaling.type',
  ];
  const more = ['rope.scaling.factor', 'attention.key_length', 'attention.sliding_window_pattern'];
  const odd = fc.oneof(
    fc.double(),
    fc.string(),
    fc.boolean(),
    fc.bigInt(),
    fc.array(fc.integer()),
    fc.constantFrom(-1, 0, 0.5, 2 ** 31, 2 ** 53, Number.NaN, Uint32Array.of(2, 2), []),
  );
  const names = fc.constantFrom('llama', 'gemma3', 'glm4', 'phi3');
  fc.assert(
    fc.property(names, fc.constantFrom(...keys, ...more), odd, (name, key, value) => {
      try {
        const { layers, headDim } = parse(name, { [key]: value });
        assert.ok(layers.every((layer) => layer.rope.rotaryDim <= headDim));
      } catch (error) {
        assert.ok(error instanceof ModelError, String(error));
      }
    }),
    { numRuns: 2000 },
  );
});

it('reads sampling settings where a converter wrote them', () => {
  const metadata = new Map([
    ['general.sampling.temp', 0.6],
    ['general.sampling.top_k', 20],
  ]);
  assert.deepEqual(parseGgufSampling('x.gguf', metadata), { temperature: 0.6, topK: 20 });
});
