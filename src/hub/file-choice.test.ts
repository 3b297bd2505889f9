import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseFiles, fileStem, quantOf, shardsOf, splitParts } from './file-choice.ts';

const repo = [
  'README.md',
  'imatrix.gguf',
  'mmproj-model-f16.gguf',
  'model-BF16.gguf',
  'model-IQ3_M.gguf',
  'model-Q3_K_M.gguf',
  'model-Q4_K_M.gguf',
  'model-Q8_0.gguf',
];
const chosen = (names: readonly string[], spec: { quant?: string; file?: string } = {}) => {
  const choice = chooseFiles(names, spec);
  return choice.kind === 'none' ? choice.reason : choice.files;
};

test('without a quantization: Q4_K_M, then Q8_0, then the first model', () => {
  assert.deepEqual(chosen(repo), ['model-Q4_K_M.gguf']);
  assert.deepEqual(chosen(repo.filter((name) => !name.includes('Q4_K_M'))), ['model-Q8_0.gguf']);
  assert.deepEqual(chosen(repo.slice(0, 5)), ['model-BF16.gguf']);
});

test('a quantization is matched whole and without regard to case', () => {
  assert.deepEqual(chosen(repo, { quant: 'q3_k_m' }), ['model-Q3_K_M.gguf']);
  assert.match(String(chosen(repo, { quant: 'F16' })), /no GGUF file with quantization F16/);
  assert.match(String(chosen(repo, { quant: 'Q4_0' })), /Q4_0/);
  assert.deepEqual(chosen(['SmolLM2.Q4_1.gguf'], { quant: 'Q4_1' }), ['SmolLM2.Q4_1.gguf']);
  assert.deepEqual(chosen(['Q8_0/m-00001-of-00001.gguf'], { quant: 'Q8_0' }), [
    'Q8_0/m-00001-of-00001.gguf',
  ]);
});

test('all parts of a split model are chosen, the first one first, or none', () => {
  const parts = [1, 2, 3].map((n) => `big-Q4_K_M-0000${n}-of-00003.gguf`);
  assert.deepEqual(chosen(parts), parts);
  assert.deepEqual(chosen(parts, { file: parts[1]! }), parts);
  assert.match(String(chosen(parts.slice(0, 2))), /lacks "big-Q4_K_M-00003-of-00003.gguf"/);
  assert.deepEqual(splitParts('a-00001-of-00002.gguf'), [
    'a-00001-of-00002.gguf',
    'a-00002-of-00002.gguf',
  ]);
});

test('a safetensors repository: configuration and tokenizer first, weights last', () => {
  const names = ['README.md', 'config.json', 'model.safetensors', 'tokenizer.json', 'tf_model.h5'];
  assert.deepEqual(chosen(names), ['config.json', 'tokenizer.json', 'model.safetensors']);
  const sharded = [
    'config.json',
    'model.safetensors.index.json',
    'model-00001-of-00002.safetensors',
  ];
  assert.deepEqual(chooseFiles(sharded, {}), {
    kind: 'sharded',
    files: ['config.json', 'model.safetensors.index.json'],
  });
  assert.match(String(chosen(['config.json', 'pytorch_model.bin'])), /neither model.safetensors/);
  assert.match(String(chosen(names, { file: 'model.safetensors' })), /is no GGUF file/);
});

test('the index names the shards; what is no index is refused', () => {
  const index = {
    weight_map: { a: 'x-2.safetensors', b: 'x-1.safetensors', c: 'x-2.safetensors' },
  };
  assert.deepEqual(shardsOf(index), ['x-1.safetensors', 'x-2.safetensors']);
  for (const bad of [null, 1, {}, { weight_map: [] }, { weight_map: { a: 1 } }]) {
    assert.throws(() => shardsOf(bad), TypeError);
  }
});

test('names and quantizations are read out of file names', () => {
  assert.equal(quantOf('dir/SmolLM2-135M-Instruct.Q4_1.gguf'), 'Q4_1');
  assert.equal(quantOf('m-UD-IQ2_XXS-00001-of-00002.gguf'), 'UD-IQ2_XXS');
  assert.equal(quantOf('model.gguf'), undefined);
  assert.equal(fileStem('dir/m-Q4_0-00001-of-00002.gguf'), 'm-Q4_0');
});
