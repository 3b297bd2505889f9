import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { StringList } from '../platform/string-list.ts';
import { type DType, rowBytes } from '../tensor/dtype.ts';
import { encodeRow } from '../tensor/rows.ts';
import type { GgufValue } from './contract.ts';
import { type GgufEntry, readGgufHeader } from './gguf-header.ts';
import { writeGguf } from './gguf-writer.ts';
import { PositionedFile } from './positioned-file.ts';
import type { TensorToWrite } from './tensor-data.ts';
import { peakBytes } from './testing/probe.ts';
import { TestFolder } from './testing/raw-files.ts';
import { detectFormat, openWeights } from './weight-source.ts';

/** A tensor of `shape` whose element i is (i % 13) - 6. */
function rampTensor(name: string, dtype: DType, shape: readonly number[]): TensorToWrite {
  const elements = shape.reduce((a, b) => a * b, 1);
  const values = Float32Array.from({ length: elements }, (_, i) => (i % 13) - 6);
  const data = new Uint8Array(rowBytes(dtype, elements));
  encodeRow(dtype, values, elements, data);
  return { name, dtype, shape, data };
}

const ENTRIES: readonly (readonly [string, GgufEntry])[] = [
  ['general.architecture', { type: 'string', value: 'test' }],
  ['u8', { type: 'u8', value: 255 }],
  ['i8', { type: 'i8', value: -128 }],
  ['u16', { type: 'u16', value: 65535 }],
  ['i16', { type: 'i16', value: -32768 }],
  ['u32', { type: 'u32', value: 2 ** 32 - 1 }],
  ['i32', { type: 'i32', value: -(2 ** 31) }],
  ['u64 safe', { type: 'u64', value: Number.MAX_SAFE_INTEGER }],
  ['u64 large', { type: 'u64', value: 2n ** 64n - 1n }],
  ['i64', { type: 'i64', value: -(2n ** 63n) }],
  ['f32', { type: 'f32', value: 0.5 }],
  ['f64', { type: 'f64', value: 0.1 }],
  ['bool', { type: 'bool', value: true }],
  ['empty text', { type: 'string', value: '' }],
  ['text', { type: 'string', value: 'Ünïcode 漢字 🦊 \0 end' }],
  ['strings', { type: 'array', of: 'string', value: ['', 'Ġthe', '🦊', 'x'.repeat(70_000), 'y'] }],
  ['no strings', { type: 'array', of: 'string', value: [] }],
  ['bools', { type: 'array', of: 'bool', value: [true, false, true] }],
  ['u8s', { type: 'array', of: 'u8', value: Uint8Array.of(0, 255) }],
  ['i8s', { type: 'array', of: 'i8', value: Int8Array.of(-1) }],
  ['u16s', { type: 'array', of: 'u16', value: Uint16Array.of(1, 65535) }],
  ['i16s', { type: 'array', of: 'i16', value: Int16Array.of(-2, 3) }],
  ['u32s', { type: 'array', of: 'u32', value: Uint32Array.of(2 ** 32 - 1) }],
  ['i32s', { type: 'array', of: 'i32', value: Int32Array.of(-5, 6) }],
  ['f32s', { type: 'array', of: 'f32', value: Float32Array.of(0.25, -1e30) }],
  ['f64s', { type: 'array', of: 'f64', value: Float64Array.of(0.1) }],
  ['u64s', { type: 'array', of: 'u64', value: BigUint64Array.of(2n ** 64n - 1n) }],
  ['i64s', { type: 'array', of: 'i64', value: BigInt64Array.of(-1n) }],
  [
    'nested',
    {
      type: 'array',
      of: ['i32', [], 'string', ['u8']],
      value: [Int32Array.of(1), [], ['a', 'b'], [Uint8Array.of(9)]],
    },
  ],
];

const TENSORS: readonly TensorToWrite[] = [
  rampTensor('matrix', 'q8_0', [3, 64]),
  rampTensor('norm.weight', 'f32', [5]),
  rampTensor('experts', 'q4_0', [2, 3, 32]),
  rampTensor('scalar', 'f16', []),
  rampTensor('empty', 'bf16', [0, 4]),
  rampTensor('embedding 漢', 'bf16', [4, 3]),
];

/** With arrays in the place of lists of strings. */
function plain(value: unknown): unknown {
  if (value instanceof StringList) return [...value];
  return Array.isArray(value) ? value.map(plain) : value;
}

test('a written GGUF file reads back: metadata with its types, tensors, bytes', async () => {
  using folder = new TestFolder();
  const path = join(folder.path, 'm.gguf');
  const size = await writeGguf(path, { metadata: ENTRIES, tensors: TENSORS });
  assert.equal(size, statSync(path).size);
  {
    using file = new PositionedFile(path);
    const header = readGgufHeader(file);
    assert.equal(header.version, 3);
    assert.deepEqual(
      [...header.entries].map(([key, entry]) => [key, { ...entry, value: plain(entry.value) }]),
      ENTRIES,
    );
  }
  assert.equal(detectFormat(path), 'gguf');
  using source = openWeights(path);
  assert.deepEqual([source.format, source.path, source.files], ['gguf', path, [path]]);
  assert.equal(source.sizeBytes, size);
  assert.deepEqual(
    [...source.metadata].map(([key, value]) => [key, plain(value)]),
    ENTRIES.map(([key, { value }]) => [key, value]),
  );
  assert.deepEqual(
    [...source.tensors.values()],
    TENSORS.map(({ name, dtype, shape, data }) => ({
      name,
      dtype,
      shape,
      sizeBytes: (data as Uint8Array).length,
    })),
  );
  for (const { name, data } of TENSORS) assert.deepEqual(source.readRows(name), data);
  assert.deepEqual([...source.readF32('norm.weight')], [-6, -5, -4, -3, -2]);
  assert.deepEqual([...source.readF32('embedding 漢')], [-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5]);
});

test('written again from what was read, it is the same file', async () => {
  using folder = new TestFolder();
  const first = join(folder.path, 'first.gguf');
  const second = join(folder.path, 'second.gguf');
  await writeGguf(first, { metadata: ENTRIES, tensors: TENSORS, alignment: 64 });
  using file = new PositionedFile(first);
  const header = readGgufHeader(file);
  using source = openWeights(first);
  await writeGguf(second, {
    metadata: header.entries,
    alignment: header.alignment,
    tensors: header.tensors.map(({ name, dtype, shape }) => ({
      name,
      dtype,
      shape,
      data: () => [source.readRows(name)],
    })),
  });
  assert.ok(readFileSync(first).equals(readFileSync(second)));
});

test('rows are read as [shape[0], rest], a 1-D tensor as one row', async () => {
  using folder = new TestFolder();
  const path = join(folder.path, 'm.gguf');
  await writeGguf(path, { metadata: [], tensors: TENSORS });
  using source = openWeights(path);
  const all = TENSORS[2]!.data as Uint8Array;
  const bytesPerRow = all.length / 2;
  assert.deepEqual(source.readRows('experts', 1), all.subarray(bytesPerRow));
  assert.deepEqual(source.readRows('experts', 0, 1), all.subarray(0, bytesPerRow));
  assert.equal(source.readRows('experts', 1, 1).length, 0);
  const into = new Uint8Array(bytesPerRow + 5).fill(7);
  const rows = source.readRows('experts', 1, 2, into);
  assert.equal(rows.buffer, into.buffer);
  assert.equal(rows.length, bytesPerRow);
  assert.deepEqual([...into.subarray(bytesPerRow)], [7, 7, 7, 7, 7]);
  const shared = new Uint8Array(new SharedArrayBuffer(bytesPerRow));
  assert.deepEqual(Buffer.from(source.readRows('experts', 1, 2, shared)), Buffer.from(rows));
  assert.equal(source.readRows('norm.weight', 0, 1).length, 20);
  for (const [start, end] of [
    [0, 3],
    [-1, 1],
    [2, 1],
    [0.5, 1],
  ] as const) {
    assert.throws(() => source.readRows('experts', start, end), {
      name: 'WeightFileError',
      fault: 'usage',
      tensor: 'experts',
      message: new RegExp(`rows ${start} to ${end} asked; it has 2`),
    });
  }
  assert.throws(
    () => source.readRows('experts', 0, 2, into),
    /108 bytes asked into an array of 59/,
  );
  assert.throws(() => source.readRows('nothing'), /has no tensor "nothing"; it has 6 \("matrix", /);
});

test('a closed source says so, and may be closed twice', async () => {
  using folder = new TestFolder();
  const path = join(folder.path, 'm.gguf');
  await writeGguf(path, { metadata: [], tensors: TENSORS });
  const source = openWeights(path);
  source.close();
  source.close();
  assert.throws(() => source.readRows('matrix'), { fault: 'usage', message: /is closed/ });
});

test('plain metadata values take the obvious type', async () => {
  using folder = new TestFolder();
  const path = join(folder.path, 'm.gguf');
  const plain: [string, GgufValue | readonly number[]][] = [
    ['text', 'a'],
    ['flag', false],
    ['count', 7],
    ['negative', -7],
    ['long', 2 ** 40],
    ['big', 2n ** 60n],
    ['ratio', 0.5],
    ['scores', Float32Array.of(1)],
    ['ints', [1, -2]],
    ['floats', [1, 2.5]],
    ['texts', ['a']],
    ['nested', [['a'], Uint8Array.of(1)]],
  ];
  await writeGguf(path, { metadata: plain, tensors: [] });
  using file = new PositionedFile(path);
  const types = [...readGgufHeader(file).entries].map(([key, { type, of }]) => [key, of ?? type]);
  assert.deepEqual(Object.fromEntries(types), {
    text: 'string',
    flag: 'bool',
    count: 'u32',
    negative: 'i32',
    long: 'u64',
    big: 'u64',
    ratio: 'f32',
    scores: 'f32',
    ints: 'i32',
    floats: 'f32',
    texts: 'string',
    nested: ['string', 'u8'],
  });
});

test('tensor data is streamed, from sync and async producers of reused chunks', async () => {
  using folder = new TestFolder();
  const path = join(folder.path, 'm.gguf');
  const chunk = new Uint8Array(1 << 20);
  const numChunks = 128;
  const before = peakBytes();
  await writeGguf(path, {
    metadata: [],
    tensors: [
      {
        name: 'async',
        dtype: 'i8',
        shape: [numChunks, chunk.length],
        data: async function* () {
          for (let i = 0; i < numChunks; i++) yield chunk.fill(i);
        },
      },
      { name: 'sync', dtype: 'i8', shape: [], data: () => [Uint8Array.of(3)] },
    ],
  });
  assert.ok(peakBytes() - before < 64 << 20, 'the file does not pass through memory whole');
  using source = openWeights(path);
  for (const row of [0, 1, 127]) {
    assert.ok(source.readRows('async', row, row + 1).every((byte) => byte === row));
  }
  assert.deepEqual([...source.readRows('sync')], [3]);
});

test('a model that cannot be written leaves what was there, and no other file', async (t) => {
  using folder = new TestFolder();
  const path = folder.file('m.gguf', 'before');
  const tensor = rampTensor('t', 'f32', [4]);
  const cases: [string, Parameters<typeof writeGguf>[1], RegExp][] = [
    [
      'too few bytes',
      { metadata: [], tensors: [{ ...tensor, data: new Uint8Array(15) }] },
      /tensor "t": its data has 15 bytes, but f32 of shape \[4\] takes 16/,
    ],
    [
      'too many bytes',
      {
        metadata: [],
        tensors: [{ ...tensor, data: () => [new Uint8Array(9), new Uint8Array(9)] }],
      },
      /its data has at least 18 bytes/,
    ],
    ['a name twice', { metadata: [], tensors: [tensor, tensor] }, /tensor "t": is given twice/],
    [
      'five dimensions',
      { metadata: [], tensors: [{ ...tensor, shape: [4, 1, 1, 1, 1] }] },
      /up to 4/,
    ],
    ['half a dimension', { metadata: [], tensors: [{ ...tensor, shape: [0.5] }] }, /shape \[0.5\]/],
    [
      'half a block',
      { metadata: [], tensors: [{ ...tensor, dtype: 'q4_0' }] },
      /q4_0: row length 4 is not a multiple/,
    ],
    [
      'a dtype of safetensors',
      { metadata: [], tensors: [{ ...tensor, dtype: 'u8', data: new Uint8Array(4) }] },
      /GGUF has no type for u8/,
    ],
    [
      'a key twice',
      {
        metadata: [
          ['k', 1],
          ['k', 2],
        ],
        tensors: [],
      },
      /metadata key "k" is given twice/,
    ],
    [
      '300 as u8',
      { metadata: [['k', { type: 'u8', value: 300 }]], tensors: [] },
      /"k": 300 is no u8/,
    ],
    [
      'text as i32',
      { metadata: [['k', { type: 'i32', value: 'x' }]], tensors: [] },
      /"x" is no i32/,
    ],
    ['alignment 24', { metadata: [], tensors: [], alignment: 24 }, /alignment is 24/],
    [
      'two alignments',
      { metadata: [['general.alignment', 64]], tensors: [] },
      /"general.alignment" is 64, but alignment is 32/,
    ],
    [
      'a producer that fails',
      {
        metadata: [],
        tensors: [
          {
            ...tensor,
            data: () => {
              throw new Error('out of weights');
            },
          },
        ],
      },
      /out of weights/,
    ],
  ];
  for (const [is, model, says] of cases) {
    await t.test(is, async () => {
      await assert.rejects(writeGguf(path, model), says);
      assert.equal(readFileSync(path, 'utf8'), 'before');
      assert.deepEqual(readdirSync(folder.path), ['m.gguf']);
    });
  }
});

test('a split opens whole from any of its files', async () => {
  using folder = new TestFolder();
  const names = [1, 2, 3].map((i) => join(folder.path, `m-0000${i}-of-00003.gguf`));
  for (const [no, path] of names.entries()) {
    await writeGguf(path, {
      metadata: [
        ...(no === 0 ? [['general.architecture', 'test'] as const] : []),
        ['split.no', { type: 'u16', value: no }],
        ['split.count', { type: 'u16', value: 3 }],
        ['split.tensors.count', { type: 'i32', value: TENSORS.length }],
      ],
      tensors: TENSORS.slice(no * 2, no * 2 + 2),
    });
  }
  // The folder counts as one model too.
  for (const path of [...names, folder.path]) {
    using source = openWeights(path);
    assert.equal(source.path, path);
    assert.deepEqual(source.files, names);
    assert.equal(source.metadata.get('general.architecture'), 'test');
    assert.equal(source.tensors.size, TENSORS.length);
    for (const { name, data } of TENSORS) assert.deepEqual(source.readRows(name), data);
  }
});

test('a folder with two GGUF models asks which', async () => {
  using folder = new TestFolder();
  folder.file('a.gguf', '');
  folder.file('b.gguf', '');
  assert.throws(
    () => openWeights(folder.path),
    /folder has 2 GGUF models \(a.gguf, b.gguf\); name/,
  );
});

test('a tokenizer of 262144 tokens opens in bounded time and memory', async () => {
  using folder = new TestFolder();
  const path = join(folder.path, 'm.gguf');
  const numTokens = 262_144;
  const tokens = Array.from({ length: numTokens }, (_, i) => (i % 3 ? `▁token${i}` : `t${i}`));
  await writeGguf(path, {
    metadata: [
      ['tokenizer.ggml.tokens', tokens],
      ['tokenizer.ggml.scores', new Float32Array(numTokens).fill(-1)],
      ['tokenizer.ggml.token_type', new Int32Array(numTokens).fill(1)],
      ['tokenizer.ggml.merges', Array.from({ length: 500_000 }, (_, i) => `Ġ${i} ${i >> 3}`)],
    ],
    tensors: [rampTensor('norm', 'f32', [4])],
  });
  assert.ok(existsSync(path));
  const before = peakBytes();
  const start = performance.now();
  using source = openWeights(path);
  const elapsedMs = performance.now() - start;
  const read = source.metadata.get('tokenizer.ggml.tokens') as StringList;
  assert.ok(read.toArray().every((token, i) => token === tokens[i]) && read.length === numTokens);
  const merges = source.metadata.get('tokenizer.ggml.merges') as StringList;
  assert.equal(merges.at(499_999), 'Ġ499999 62499');
  // Some 120 ms on an idle core; the bound leaves room for a busy one.
  assert.ok(elapsedMs < 1500, `took ${elapsedMs} ms`);
  assert.ok(peakBytes() - before < 160 << 20, `memory rose by ${peakBytes() - before} bytes`);
  assert.deepEqual([...source.readF32('norm')], [-6, -5, -4, -3]);
});
