import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeSafetensors } from './safetensors-writer.ts';
import type { TensorToWrite } from './tensor-data.ts';
import { TestFolder } from './testing/raw-files.ts';
import { detectFormat, openWeights } from './weight-source.ts';

const bytesOf = (array: ArrayBufferView) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

const TENSORS: readonly TensorToWrite[] = [
  {
    name: 'model.embed_tokens.weight',
    dtype: 'f32',
    shape: [3, 2],
    data: bytesOf(Float32Array.of(1, 2, 3, 4, 5, 6)),
  },
  { name: '__proto__', dtype: 'u8', shape: [3], data: Uint8Array.of(1, 2, 3) },
  { name: '7', dtype: 'f16', shape: [], data: bytesOf(new Float16Array([0.5])) },
  {
    name: 'quo"te\n漢',
    dtype: 'i64',
    shape: [2],
    data: () => [bytesOf(BigInt64Array.of(-1n)), bytesOf(BigInt64Array.of(5n))],
  },
  { name: 'empty', dtype: 'bf16', shape: [0, 7], data: new Uint8Array(0) },
];

const VALUES: Readonly<Record<string, readonly number[]>> = {
  'model.embed_tokens.weight': [1, 2, 3, 4, 5, 6],
  ['__proto__']: [1, 2, 3],
  7: [0.5],
  'quo"te\n漢': [-1, 5],
  empty: [],
};

test('a written safetensors file reads back, in the order written', async () => {
  using folder = new TestFolder();
  const path = join(folder.path, 'x.safetensors');
  const size = await writeSafetensors(path, { tensors: TENSORS, metadata: { format: 'pt' } });
  assert.equal(size, statSync(path).size);
  const file = readFileSync(path);
  assert.equal(file.readUInt32LE(0) % 8, 0, 'header padded to 8');
  assert.match(file.subarray(8, 60).toString(), /^\{"__metadata__":\{"format":"pt"\},"model\.emb/);
  assert.equal(detectFormat(path), 'safetensors');
  using source = openWeights(path);
  assert.equal(source.format, 'safetensors');
  assert.equal(source.metadata.size, 0);
  assert.deepEqual(
    [...source.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    TENSORS.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
  );
  for (const { name } of TENSORS) assert.deepEqual([...source.readF32(name)], VALUES[name]);
});

test('a folder opens by model.safetensors, or by the index with its shards', async () => {
  using folder = new TestFolder();
  const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
  const parts = [TENSORS.slice(0, 2), TENSORS.slice(2)];
  for (const [i, tensors] of parts.entries()) {
    await writeSafetensors(join(folder.path, shards[i]!), { tensors });
  }
  const weightMap = parts.flatMap((part, i) => part.map(({ name }) => [name, shards[i]] as const));
  const text = weightMap.map((pair) => pair.map((s) => JSON.stringify(s)).join(':')).join(',');
  const indexPath = folder.file(
    'model.safetensors.index.json',
    `{"metadata":{"total_size":1.5e2},"weight_map":{${text}}}`,
  );
  for (const path of [folder.path, indexPath]) {
    assert.equal(detectFormat(path), 'safetensors');
    using source = openWeights(path);
    assert.equal(source.path, path);
    assert.deepEqual(
      source.files,
      shards.map((name) => join(folder.path, name)),
    );
    assert.equal(
      source.sizeBytes,
      source.files.reduce((sum, file) => sum + statSync(file).size, 0),
    );
    for (const { name } of TENSORS) assert.deepEqual([...source.readF32(name)], VALUES[name]);
  }
  // As in transformers, the whole file goes before the index.
  await writeSafetensors(join(folder.path, 'model.safetensors'), { tensors: parts[0]! });
  using source = openWeights(folder.path);
  assert.deepEqual(source.files, [join(folder.path, 'model.safetensors')]);
});

test('a model that cannot be written leaves no file', async (t) => {
  using folder = new TestFolder();
  const path = join(folder.path, 'x.safetensors');
  const tensor = TENSORS[1]!;
  const cases: [string, readonly TensorToWrite[], RegExp][] = [
    ['a name twice', [tensor, tensor], /tensor "__proto__": is given twice/],
    ['the name of metadata', [{ ...tensor, name: '__metadata__' }], /kept for metadata/],
    [
      'a block format',
      [{ ...tensor, dtype: 'q8_0', shape: [32], data: new Uint8Array(34) }],
      /safetensors has no type for q8_0/,
    ],
    ['too few bytes', [{ ...tensor, shape: [4] }], /has 3 bytes, but u8 of shape \[4\] takes 4/],
  ];
  for (const [is, tensors, says] of cases) {
    await t.test(is, async () => {
      await assert.rejects(writeSafetensors(path, { tensors }), says);
      assert.deepEqual(readdirSync(folder.path), []);
    });
  }
});
