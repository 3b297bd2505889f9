/**
 * GGUF files that lie, each in one way. Every one must end in a WeightFileError that names the file, the tensor and the numbers, or
 * in a correct load; in little time and memory.
 */
import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { execFileSync } from 'node:child_process';
import { mkdirSync, symlinkSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { WeightFault } from './errors.ts';
import { probe } from './testing/probe.ts';
import { type RawBytes, type RawGguf, rawGguf, TestFolder } from './testing/raw-files.ts';
import { openWeights } from './weight-source.ts';

const MAX_ELAPSED_MS = 2000;
/** Above the reader's window and its largest budgets for the sizes of these files. */
const MAX_GROWTH_BYTES = 96 * 1024 * 1024;

interface BadFile {
  readonly is: string;
  readonly bytes: Buffer | (() => Buffer);
  /** Length that the file is extended to, with a hole. */
  readonly sizeBytes?: number;
  readonly fault: WeightFault;
  readonly says: RegExp;
  readonly tensor?: string;
}

const sound = rawGguf();
const huge = 2n ** 64n - 1n;
const key = (name: string | Buffer) => (b: RawBytes) => b.string(name);
const withEntry = (entry: (b: RawBytes) => unknown, rest: RawGguf = {}) =>
  rawGguf({ ...rest, entries: [entry] });
const withArray = (array: (b: RawBytes) => unknown) =>
  withEntry((b) => array(key('list')(b).type('array')));
const withTensor = (tensor: NonNullable<RawGguf['tensors']>[number], rest: RawGguf = {}) =>
  rawGguf({ ...rest, tensors: [tensor] });
const alignmentOf = (value: number) => (b: RawBytes) =>
  b.string('general.alignment').type('u32').u32(value);

const BAD_FILES: readonly BadFile[] = [
  { is: 'empty', bytes: Buffer.alloc(0), fault: 'truncated', says: /magic number/ },
  { is: 'three bytes', bytes: sound.subarray(0, 3), fault: 'truncated', says: /4 bytes expected/ },
  {
    is: 'another magic',
    bytes: rawGguf({ magic: 'GGJT' }),
    fault: 'unrecognised',
    says: /begins with the bytes 47 47 4a 54; expected 47 47 55 46/,
  },
  { is: 'version 0', bytes: rawGguf({ version: 0 }), fault: 'unsupported', says: /version 0;/ },
  { is: 'version 1', bytes: rawGguf({ version: 1 }), fault: 'unsupported', says: /version 1;/ },
  { is: 'version 4', bytes: rawGguf({ version: 4 }), fault: 'unsupported', says: /2 and 3/ },
  {
    is: 'version 2^32 - 1',
    bytes: rawGguf({ version: 2 ** 32 - 1 }),
    fault: 'unsupported',
    says: /version 4294967295/,
  },
  {
    is: 'big-endian',
    bytes: rawGguf({ version: 0x03000000 }),
    fault: 'unsupported',
    says: /big-endian/,
  },
  { is: 'no counts', bytes: sound.subarray(0, 8), fault: 'truncated', says: /tensor count/ },
  {
    is: 'tensor count 2^64 - 1',
    bytes: rawGguf({ numTensors: huge }),
    fault: 'truncated',
    says: /tensor count is 18446744073709551615, but only \d+ bytes are left/,
  },
  {
    is: 'tensor count one too many',
    bytes: rawGguf({ numTensors: 2, data: new Uint8Array(0) }),
    fault: 'truncated',
    says: /ends within its offset: 8 bytes expected/,
    tensor: '',
  },
  {
    is: 'tensor count beyond the limit in a file that is large enough',
    bytes: rawGguf({ numTensors: 300_000 }),
    sizeBytes: 16 << 20,
    fault: 'limit',
    says: /tensor count is 300000; accepted: up to 262144/,
  },
  {
    is: 'metadata count 2^63',
    bytes: rawGguf({ numEntries: 2n ** 63n }),
    fault: 'truncated',
    says: /metadata count is 9223372036854775808/,
  },
  {
    is: 'metadata count beyond the limit in a file that is large enough',
    bytes: rawGguf({ numEntries: 100_000 }),
    sizeBytes: 16 << 20,
    fault: 'limit',
    says: /metadata count is 100000; accepted: up to 65536/,
  },
  {
    is: 'key length 2^64 - 1',
    bytes: withEntry((b) => b.u64(huge)),
    fault: 'truncated',
    says: /length of metadata key 0 is 18446744073709551615/,
  },
  {
    is: 'key length 2^53 + 1',
    bytes: withEntry((b) => b.u64(2n ** 53n + 1n)),
    fault: 'truncated',
    says: /9007199254740993/,
  },
  {
    is: 'key of 70000 bytes',
    bytes: withEntry((b) => b.string('k'.repeat(70_000)).type('u8').raw(1)),
    fault: 'limit',
    says: /70000; accepted: up to 65535/,
  },
  {
    is: 'key that is no UTF-8',
    bytes: withEntry((b) =>
      b
        .string(Buffer.from([0xff, 0xfe]))
        .type('u8')
        .raw(1),
    ),
    fault: 'corrupt',
    says: /key 0 is not valid UTF-8/,
  },
  {
    is: 'key twice',
    bytes: rawGguf({
      entries: [(b) => b.string('a\n').type('u8').raw(1), (b) => b.string('a\n').type('u8').raw(2)],
    }),
    fault: 'corrupt',
    says: /metadata key "a\\n" appears twice/,
  },
  {
    is: 'value type 13',
    bytes: withEntry((b) => b.string('k').u32(13).u64(0)),
    fault: 'corrupt',
    says: /metadata "k" has value type 13; accepted: 0 to 12/,
  },
  {
    is: 'value type 2^32 - 1',
    bytes: withEntry((b) => b.string('k').u32(2 ** 32 - 1)),
    fault: 'corrupt',
    says: /value type 4294967295/,
  },
  {
    is: 'bool 2',
    bytes: withEntry((b) => b.string('k').type('bool').raw(2)),
    fault: 'corrupt',
    says: /bool with value 2/,
  },
  {
    is: 'string longer than the file',
    bytes: withEntry((b) =>
      b
        .string('k')
        .type('string')
        .u64(1n << 40n),
    ),
    fault: 'truncated',
    says: /length of metadata "k" is 1099511627776/,
  },
  {
    is: 'string of 65 MiB in a file that has it',
    bytes: withEntry((b) =>
      b
        .string('k')
        .type('string')
        .u64(65 << 20),
    ),
    sizeBytes: 80 << 20,
    fault: 'limit',
    says: /68157440; accepted: up to 67108864/,
  },
  {
    is: 'array of 2^62 numbers',
    bytes: withArray((b) => b.type('f64').u64(1n << 62n)),
    fault: 'truncated',
    says: /length of metadata "list" is 4611686018427387904/,
  },
  {
    is: 'array of more strings than fit',
    bytes: withArray((b) => b.type('string').u64(1_000_000)),
    fault: 'truncated',
    says: /each takes at least 8/,
  },
  {
    is: 'array of strings of which one is longer than the file',
    bytes: withArray((b) => b.type('string').u64(2).string('x').u64(0xffffff)),
    fault: 'truncated',
    says: /entry 1 of metadata "list" is 16777215/,
  },
  {
    is: 'array of strings whose length has its highest bit set',
    bytes: withArray((b) =>
      b
        .type('string')
        .u64(1)
        .u64(1n << 63n),
    ),
    fault: 'truncated',
    says: /entry 0 of metadata "list" is 9223372036854775808/,
  },
  {
    is: 'array of 40 million bytes in a file that has them',
    bytes: withArray((b) => b.type('u8').u64(40_000_000)),
    sizeBytes: 64 << 20,
    fault: 'limit',
    says: /40000000; accepted: up to 33554432/,
  },
  {
    is: 'array of unknown type',
    bytes: withArray((b) => b.u32(99).u64(1)),
    fault: 'corrupt',
    says: /elements of metadata "list" has value type 99/,
  },
  {
    is: 'arrays nested a thousand deep',
    bytes: withArray((b) => {
      for (let i = 0; i < 1000; i++) b.type('array').u64(1);
      return b.type('u8').u64(0);
    }),
    fault: 'limit',
    says: /deeper than 4/,
  },
  {
    is: 'arrays of arrays that multiply',
    bytes: withArray((b) => b.type('array').u64(1 << 20)),
    sizeBytes: 4 << 20,
    fault: 'truncated',
    says: /is 1048576, but only \d+ bytes are left in the file and each takes at least 12/,
  },
  {
    is: 'alignment 0',
    bytes: withEntry(alignmentOf(0)),
    fault: 'corrupt',
    says: /"general.alignment" is 0; accepted: a power of two/,
  },
  { is: 'alignment 48', bytes: withEntry(alignmentOf(48)), fault: 'corrupt', says: /is 48;/ },
  {
    is: 'alignment 2^31',
    bytes: withEntry(alignmentOf(2 ** 31)),
    fault: 'corrupt',
    says: /2147483648; accepted: a power of two up to 1048576/,
  },
  {
    is: 'alignment as text',
    bytes: withEntry((b) => b.string('general.alignment').type('string').string('32')),
    fault: 'corrupt',
    says: /general.alignment" is 32; accepted/,
  },
  {
    is: 'alignment NaN',
    bytes: withEntry((b) => b.string('general.alignment').type('f32').f32(Number.NaN)),
    fault: 'corrupt',
    says: /is NaN/,
  },
  {
    is: 'alignment as an array',
    bytes: withEntry((b) => b.string('general.alignment').type('array').type('u8').u64(0)),
    fault: 'corrupt',
    says: /is an array/,
  },
  {
    is: 'tensor twice',
    bytes: rawGguf({ tensors: [{}, { offset: 32 }], data: Buffer.alloc(64) }),
    fault: 'corrupt',
    says: /appears twice/,
    tensor: 'w',
  },
  {
    is: 'tensor name length 2^64 - 1',
    bytes: rawGguf({
      tensors: [],
      numTensors: 1,
      alignment: 1,
      data: Buffer.concat([Buffer.alloc(8, 255), Buffer.alloc(32)]),
    }),
    fault: 'truncated',
    says: /length of name of tensor 0 is 18446744073709551615/,
  },
  {
    is: 'tensor name that is no UTF-8',
    bytes: withTensor({ name: Buffer.from([0x77, 0x80]) }),
    fault: 'corrupt',
    says: /name of tensor 0 is not valid UTF-8/,
  },
  {
    is: 'five dimensions',
    bytes: withTensor({ dims: [1, 1, 1, 1, 1] }),
    fault: 'limit',
    says: /5 dimensions; accepted: up to 4/,
    tensor: 'w',
  },
  {
    is: '2^32 - 1 dimensions',
    bytes: withTensor({ numDims: 2 ** 32 - 1 }),
    fault: 'limit',
    says: /4294967295 dimensions/,
    tensor: 'w',
  },
  {
    is: 'dimension 2^64 - 1',
    bytes: withTensor({ dims: [huge, 1] }),
    fault: 'corrupt',
    says: /18446744073709551615, 1\], more than 2\^53/,
    tensor: 'w',
  },
  {
    is: 'dimensions whose product wraps around 2^64 to 8',
    bytes: withTensor({ dims: [2n ** 61n + 1n, 8] }),
    fault: 'corrupt',
    says: /more than 2\^53 - 1 elements/,
    tensor: 'w',
  },
  {
    is: 'elements that can be counted, of bytes that cannot',
    bytes: withTensor({ dims: [2n ** 51n, 2], type: 28 }),
    fault: 'corrupt',
    says: /f64: row length .* more than 2\^53 - 1/,
    tensor: 'w',
  },
  {
    is: 'a dimension of zero beside an absurd one',
    bytes: withTensor({ dims: [0, huge] }),
    fault: 'corrupt',
    says: /more than 2\^53/,
    tensor: 'w',
  },
  {
    is: 'type 999',
    bytes: withTensor({ type: 999 }),
    fault: 'corrupt',
    says: /type 999, which is no ggml type known here/,
    tensor: 'w',
  },
  {
    is: 'a type that ggml removed',
    bytes: withTensor({ type: 31 }),
    fault: 'corrupt',
    says: /type 31 \(Q4_0_4_4\), which ggml removed/,
    tensor: 'w',
  },
  {
    is: 'offset 16 of alignment 32',
    bytes: withTensor({ offset: 16 }, { data: Buffer.alloc(64) }),
    fault: 'corrupt',
    says: /offset 16, which is not a multiple of the alignment 32/,
    tensor: 'w',
  },
  {
    is: 'offset past the end',
    bytes: withTensor({ offset: 4096 }),
    fault: 'truncated',
    says: /takes 32 bytes at offset 4096, but the file has 32 bytes of tensor data/,
    tensor: 'w',
  },
  {
    is: 'offset that overflows 2^64 when its size is added',
    bytes: withTensor({ offset: 2n ** 64n - 32n }),
    fault: 'truncated',
    says: /offset 18446744073709551584/,
    tensor: 'w',
  },
  {
    is: 'offset that a double cannot hold',
    bytes: withTensor({ offset: 2n ** 53n + 32n }),
    fault: 'truncated',
    says: /offset 9007199254741024/,
    tensor: 'w',
  },
  {
    is: 'data one byte short',
    bytes: rawGguf({ data: Buffer.alloc(31) }),
    fault: 'truncated',
    says: /takes 32 bytes at offset 0, but the file has 31 bytes/,
    tensor: 'w',
  },
  {
    is: 'cut within the tensor table',
    bytes: rawGguf({ alignment: 1, data: Buffer.alloc(0) }).subarray(0, -4),
    fault: 'truncated',
    says: /ends within its offset: 8 bytes expected/,
    tensor: 'w',
  },
  {
    is: 'q4_0 rows of 900',
    bytes: withTensor({ dims: [900, 32], type: 2 }, { data: Buffer.alloc(1 << 16) }),
    fault: 'corrupt',
    says: /q4_0: row length 900 is not a multiple of the block size 32/,
    tensor: 'w',
  },
  {
    is: 'two tensors at one place',
    bytes: rawGguf({ tensors: [{ name: 'a' }, { name: 'b' }] }),
    fault: 'corrupt',
    says: /inside tensor "a", which lies from byte \d+ to \d+/,
    tensor: 'b',
  },
  {
    is: 'two tensors that overlap in part, listed in reverse',
    bytes: rawGguf({
      tensors: [
        { name: 'late', offset: 32 },
        { name: 'long', dims: [16] },
      ],
      data: Buffer.alloc(128),
    }),
    fault: 'corrupt',
    says: /inside tensor "long"/,
    tensor: 'late',
  },
  {
    is: '65000 metadata entries announced, none there, the rest zeros',
    bytes: rawGguf({ entries: [], tensors: [], numEntries: 65_000 }),
    sizeBytes: 1 << 20,
    fault: 'corrupt',
    says: /metadata key "" appears twice/,
  },
];

test('GGUF files that lie are refused with the numbers', async (t) => {
  using folder = new TestFolder();
  for (const bad of BAD_FILES) {
    await t.test(bad.is, () => {
      const path = folder.file(
        'bad.gguf',
        typeof bad.bytes === 'function' ? bad.bytes() : bad.bytes,
      );
      if (bad.sizeBytes !== undefined) truncateSync(path, bad.sizeBytes);
      const { error, elapsedMs, peakGrowthBytes } = probe(path);
      assert.ok(error !== null, 'was opened');
      assert.match(error.message, bad.says);
      assert.ok(error.message.startsWith(`${path}: `), 'names the file');
      assert.equal(error.file, path);
      assert.equal(error.fault, bad.fault, error.message);
      assert.equal(error.tensor, bad.tensor ?? null);
      if (bad.tensor !== undefined) assert.ok(error.message.includes(`tensor "${bad.tensor}"`));
      assert.notDeepEqual(error.values, {}, 'has numbers');
      assert.ok(error.message.length < 1000, 'message of bounded length');
      assert.ok(elapsedMs < MAX_ELAPSED_MS, `took ${elapsedMs} ms`);
      assert.ok(peakGrowthBytes < MAX_GROWTH_BYTES, `memory rose by ${peakGrowthBytes} bytes`);
    });
  }
});

test('odd but sound GGUF files load', async (t) => {
  using folder = new TestFolder();
  const good: [string, Buffer, (path: string) => void][] = [
    ['version 2', rawGguf({ version: 2 }), () => {}],
    ['no tensors and no metadata', rawGguf({ tensors: [], entries: [] }), () => {}],
    [
      'no data after the header, and none needed',
      rawGguf({ tensors: [], alignment: 1, data: Buffer.alloc(0) }),
      () => {},
    ],
    [
      'a dimension of zero',
      withTensor({ dims: [4, 0] }),
      (path) => {
        using source = openWeights(path);
        assert.deepEqual(source.tensors.get('w')!.shape, [0, 4]);
        assert.equal(source.readF32('w').length, 0);
        assert.equal(source.readRows('w').length, 0);
      },
    ],
    [
      'a scalar',
      withTensor({ dims: [] }),
      (path) => {
        using source = openWeights(path);
        assert.deepEqual([...source.readF32('w')], [0]);
      },
    ],
    [
      'q4_0 with a NaN scale',
      withTensor({ dims: [32], type: 2 }, { data: Buffer.alloc(18, 0xff) }),
      (path) => {
        using source = openWeights(path);
        assert.ok(source.readF32('w').every(Number.isNaN));
      },
    ],
    [
      'tensor data in reverse order with holes',
      rawGguf({
        tensors: [
          { name: 'b', offset: 128 },
          { name: 'a', offset: 32 },
        ],
        data: Buffer.alloc(160),
      }),
      () => {},
    ],
    [
      'alignment 1',
      rawGguf({
        entries: [alignmentOf(1)],
        tensors: [
          { name: 'a', dims: [3], type: 24 },
          { name: 'b', dims: [3], type: 24, offset: 3 },
        ],
        alignment: 1,
        data: Buffer.of(1, 2, 3, 4, 5, 6),
      }),
      (path) => {
        using source = openWeights(path);
        assert.deepEqual([...source.readF32('b')], [4, 5, 6]);
      },
    ],
    [
      'metadata strings that are no UTF-8',
      withEntry((b) =>
        b
          .string('k')
          .type('string')
          .string(Buffer.from([0x61, 0xff])),
      ),
      (path) => {
        using source = openWeights(path);
        assert.equal(source.metadata.get('k'), 'a\ufffd');
      },
    ],
    [
      'a metadata key called __proto__',
      withEntry((b) => b.string('__proto__').type('u8').raw(7)),
      (path) => {
        using source = openWeights(path);
        assert.equal(source.metadata.get('__proto__'), 7);
      },
    ],
    [
      'a tensor of a type that can only be listed',
      withTensor({ dims: [256], type: 16 }, { data: Buffer.alloc(66) }),
      (path) => {
        using source = openWeights(path);
        assert.equal(source.tensors.get('w')!.dtype, 'iq2_xxs');
        assert.equal(source.readRows('w').length, 66);
        assert.throws(() => source.readF32('w'), {
          fault: 'unsupported',
          tensor: 'w',
          message: /tensor "w": iq2_xxs: cannot be decoded/,
        });
      },
    ],
  ];
  for (const [is, bytes, check] of good) {
    await t.test(is, () => {
      const path = folder.file('good.gguf', bytes);
      const { error } = probe(path);
      assert.equal(error, null);
      check(path);
    });
  }
});

const splitEntry = (name: string, value: number) => (b: RawBytes) =>
  b.string(name).type('u32').u32(value);

/** One file of a split with one tensor. */
function splitPart(no: number, count: number, tensor: string, numTensors?: number): Buffer {
  const entries = [splitEntry('split.no', no), splitEntry('split.count', count)];
  if (numTensors !== undefined) entries.push(splitEntry('split.tensors.count', numTensors));
  return rawGguf({ entries, tensors: [{ name: tensor }] });
}

test('splits that do not belong together are refused', async (t) => {
  const first = 'm-00001-of-00002.gguf';
  const second = 'm-00002-of-00002.gguf';
  const cases: {
    is: string;
    files: [string, Buffer][];
    fault: WeightFault;
    says: RegExp;
    about?: string;
    links?: [string, string][];
    opens?: string;
  }[] = [
    {
      is: 'second file missing',
      files: [[first, splitPart(0, 2, 'a')]],
      fault: 'incomplete',
      says: /cannot be opened, but m-00001-of-00002.gguf is one of 2 files.*no such file/,
      about: second,
    },
    {
      is: 'second file is a link to the first',
      files: [[first, splitPart(0, 2, 'a')]],
      links: [[first, second]],
      fault: 'incomplete',
      says: /says it is split 0 of 2 .*; expected 1 of 2/,
      about: second,
    },
    {
      is: 'second file is a link to itself',
      files: [[first, splitPart(0, 2, 'a')]],
      links: [[second, second]],
      fault: 'incomplete',
      says: /cannot be opened/,
      about: second,
    },
    {
      is: 'second file is not of a split',
      files: [
        [first, splitPart(0, 2, 'a')],
        [second, rawGguf()],
      ],
      fault: 'incomplete',
      says: /says it is split unstated of unstated/,
      about: second,
    },
    {
      is: 'second file of a split of three',
      files: [
        [first, splitPart(0, 2, 'a')],
        [second, splitPart(1, 3, 'b')],
      ],
      fault: 'incomplete',
      says: /says it is split 1 of 3/,
      about: second,
    },
    {
      is: 'one tensor in both',
      files: [
        [first, splitPart(0, 2, 'a')],
        [second, splitPart(1, 2, 'a')],
      ],
      fault: 'corrupt',
      says: /tensor "a": is also in .*m-00001-of-00002.gguf/,
      about: second,
    },
    {
      is: 'fewer tensors than announced',
      files: [
        [first, splitPart(0, 2, 'a', 3)],
        [second, splitPart(1, 2, 'b', 3)],
      ],
      fault: 'incomplete',
      says: /hold 2 tensors; metadata "split.tensors.count" says 3/,
    },
    {
      is: 'name without a number',
      files: [['plain.gguf', splitPart(0, 2, 'a')]],
      fault: 'incomplete',
      says: /is one of 2 files of a split model, but its name does not say which/,
    },
    {
      is: 'name and metadata disagree on the count',
      files: [['m-00001-of-00003.gguf', splitPart(0, 2, 'a')]],
      fault: 'incomplete',
      says: /its name says 3 files, its metadata "split.count" 2/,
    },
    {
      is: 'name says file 0',
      files: [['m-00000-of-00002.gguf', splitPart(0, 2, 'a')]],
      fault: 'incomplete',
      says: /file 0 of 2; files count from 1/,
    },
    {
      is: 'name says file 7 of 2',
      files: [['m-00007-of-00002.gguf', splitPart(0, 2, 'a')]],
      fault: 'incomplete',
      says: /file 7 of 2/,
    },
    {
      is: '60000 files',
      files: [['m-00001-of-60000.gguf', splitPart(0, 60_000, 'a')]],
      fault: 'limit',
      says: /60000 files; accepted: up to 512/,
    },
    {
      is: 'count as text',
      files: [[first, withEntry((b) => b.string('split.count').type('string').string('2'))]],
      fault: 'corrupt',
      says: /metadata "split.count" is "2"; expected an integer/,
    },
  ];
  for (const { is, files, fault, says, about, links, opens } of cases) {
    await t.test(is, () => {
      using folder = new TestFolder();
      for (const [name, bytes] of files) folder.file(name, bytes);
      for (const [target, name] of links ?? []) symlinkSync(target, join(folder.path, name));
      const { error, elapsedMs } = probe(join(folder.path, opens ?? files[0]![0]));
      assert.ok(error !== null, 'was opened');
      assert.match(error.message, says);
      assert.equal(error.fault, fault);
      assert.equal(error.file, join(folder.path, about ?? files[0]![0]));
      assert.ok(elapsedMs < MAX_ELAPSED_MS);
    });
  }
});

test('paths that are no model files are refused, and none hangs', async (t) => {
  using folder = new TestFolder();
  const cases: [string, string, RegExp][] = [
    ['a file that is not there', 'none.gguf', /no such file/],
    ['an empty folder', 'empty', /folder has no model.safetensors, no .* and no GGUF file/],
    ['a folder of PyTorch files', 'torch', /no GGUF file; PyTorch .bin files are not read/],
    ['a FIFO', 'fifo', /not a regular file/],
    ['a link to itself', 'loop', /cannot be read/],
    ['a name with a NUL', 'a\0b', /cannot be read/],
    ['a text file', 'text', /is neither GGUF nor safetensors: its first bytes are 23212f62/],
  ];
  mkdirSync(join(folder.path, 'empty'));
  mkdirSync(join(folder.path, 'torch'));
  folder.file('torch/pytorch_model.bin', Buffer.from('x'));
  execFileSync('mkfifo', [join(folder.path, 'fifo')]);
  symlinkSync('loop', join(folder.path, 'loop'));
  folder.file('text', '#!/bin/sh\necho no model\n');
  for (const [is, name, says] of cases) {
    await t.test(is, () => {
      const { error } = probe(`${folder.path}/${name}`);
      assert.match(error?.message ?? 'was opened', says);
    });
  }
});

test('a file cut short after it was opened fails the read, not the process', () => {
  using folder = new TestFolder();
  const path = folder.file('cut.gguf', sound);
  using source = openWeights(path);
  truncateSync(path, sound.length - 8);
  assert.throws(() => source.readRows('w'), {
    name: 'WeightFileError',
    fault: 'truncated',
    tensor: 'w',
    message: /tensor "w": ends at byte \d+, but 32 bytes from byte \d+ were expected/,
  });
  assert.throws(() => source.readF32('w'), { fault: 'truncated' });
});
