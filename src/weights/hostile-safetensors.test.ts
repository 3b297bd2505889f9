/**
 * Safetensors files and indexes that lie, each in one way. Every one must end in a WeightFileError that names the file, the tensor and
 * the numbers, or in a correct load; in little time and memory.
 */
import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { symlinkSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { WeightFault } from './errors.ts';
import { probe } from './testing/probe.ts';
import { RawBytes, rawSafetensors, TestFolder } from './testing/raw-files.ts';
import { openWeights } from './weight-source.ts';

const MAX_ELAPSED_MS = 2000;
/** A million values of a header take 105 to 120 MB before they are too many, depending on when garbage is collected. */
const MAX_GROWTH_BYTES = 256 * 1024 * 1024;

interface BadFile {
  readonly is: string;
  readonly bytes: Buffer;
  /** Length that the file is extended to, with a hole. */
  readonly sizeBytes?: number;
  readonly fault: WeightFault;
  readonly says: RegExp;
  readonly tensor?: string;
}

/** A header of one tensor `w`, of the given fields in place of sound ones. */
function entry(fields: Record<string, string | undefined>, dataBytes = 32): Buffer {
  const all = { dtype: '"F32"', shape: '[2,4]', data_offsets: '[0,32]', ...fields };
  const text = Object.entries(all)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `"${key}":${value}`);
  return rawSafetensors(`{"w":{${text.join(',')}}}`, dataBytes);
}

const badEntry = (
  is: string,
  fields: Record<string, string | undefined>,
  says: RegExp,
  fault: WeightFault = 'corrupt',
): BadFile => ({ is, bytes: entry(fields), fault, says, tensor: 'w' });

const badHeader = (
  is: string,
  header: string | Buffer,
  says: RegExp,
  fault: WeightFault = 'corrupt',
): BadFile => ({ is, bytes: rawSafetensors(header), fault, says });

const BAD_FILES: readonly BadFile[] = [
  { is: 'empty', bytes: Buffer.alloc(0), fault: 'truncated', says: /has 0 bytes; .* at least 8/ },
  { is: 'seven bytes', bytes: Buffer.alloc(7), fault: 'truncated', says: /has 7 bytes/ },
  {
    is: 'header one byte longer than the file',
    bytes: new RawBytes().u64(3).raw(0x7b, 0x7d).build(),
    fault: 'truncated',
    says: /announces a header of 3 bytes, but the file has 10 bytes/,
  },
  {
    is: 'header of 2^64 - 1 bytes',
    bytes: new RawBytes()
      .u64(2n ** 64n - 1n)
      .raw(0x7b)
      .build(),
    fault: 'truncated',
    says: /header of 18446744073709551615 bytes/,
  },
  {
    is: 'header of 2^63 bytes',
    bytes: new RawBytes()
      .u64(2n ** 63n)
      .raw(0x7b)
      .build(),
    fault: 'truncated',
    says: /9223372036854775808/,
  },
  {
    is: 'header of 150 MB in a file that has them',
    bytes: new RawBytes().u64(150_000_000).raw(0x7b).build(),
    sizeBytes: 200_000_000,
    fault: 'limit',
    says: /150000000 bytes; accepted: up to 100000000/,
  },
  badHeader('header of no bytes', '', /expected a value, found the end at byte 0 of the JSON/),
  badHeader('header that is no JSON', 'not json', /header: expected null at byte 0/),
  badHeader('header that is a list', '[]', /header is \[\]; expected a JSON object/),
  badHeader('header with more after it', '{} x', /more after the end of the value at byte 3/),
  badHeader('header that is no UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), /invalid UTF-8/),
  badHeader('header that is cut', '{"w":{"dtype":"F3', /a string without end at byte 17/),
  badHeader('header nested 100000 deep', '['.repeat(100_000), /nested deeper than 16 at byte 16/),
  badHeader(
    'nested deeply within a tensor',
    `{"w":${'{"a":'.repeat(5000)}`,
    /nested deeper than 16/,
  ),
  badHeader('two million values', `{"w":[${'0,'.repeat(2_000_000)}0]}`, /more than 1048576 values/),
  badHeader('a string with a raw newline', '{"a\nb":1}', /control character in a string at byte 3/),
  badHeader('a string with a bad escape', '{"a\\x":1}', /invalid escape/),
  badHeader('a comma too many', '{"a":{},}', /expected "\\"", found "}"/),
  badHeader('a number of 5000 digits', `{"w":${'1'.repeat(5000)}}`, /number of absurd length/),
  badHeader('a number with a leading zero', '{"w":01}', /expected ",", found "1"/),
  badHeader(
    'one tensor twice',
    '{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    /duplicate key "w"/,
  ),
  badHeader('one field twice', '{"w":{"dtype":"F32","dtype":"F16"}}', /duplicate key "dtype"/),
  badHeader('metadata that is text', '{"__metadata__":"x"}', /"__metadata__" is "x"/),
  {
    is: 'tensor that is null',
    bytes: rawSafetensors('{"w":null}'),
    fault: 'corrupt',
    says: /is null; expected \{ dtype, shape, data_offsets \}/,
    tensor: 'w',
  },
  badEntry('no dtype', { dtype: undefined }, /has dtype missing; accepted: F64, F32/),
  badEntry('dtype 7', { dtype: '7' }, /has dtype 7;/),
  badEntry('dtype I128', { dtype: '"I128"' }, /has dtype "I128"; accepted: .*BF16/),
  badEntry('dtype f32 in lower case', { dtype: '"f32"' }, /has dtype "f32"/),
  badEntry('dtype __proto__', { dtype: '"__proto__"' }, /has dtype "__proto__"/),
  badEntry('no shape', { shape: undefined }, /has shape missing/),
  badEntry('shape that is a number', { shape: '8' }, /has shape 8; expected a list/),
  badEntry('negative dimension', { shape: '[-2,4]' }, /has shape \[-2, 4\]/),
  badEntry('dimension 2.0', { shape: '[2.0,4]' }, /has shape \[2.0, 4\]/),
  badEntry('dimension 2e0', { shape: '[2e0,4]' }, /has shape \[2e0, 4\]/),
  badEntry('dimension as text', { shape: '["2",4]' }, /has shape \["2", 4\]/),
  badEntry('dimension 2^53', { shape: '[9007199254740992]' }, /has shape \[9007199254740992\]/),
  badEntry(
    'dimensions whose product wraps around 2^64 to 8',
    { shape: '[4503599627370497,4096]' },
    /has shape \[4503599627370497, 4096\], more than 2\^53 - 1 elements/,
  ),
  badEntry(
    'elements that can be counted, of bytes that cannot',
    { shape: '[4503599627370497]' },
    /f32: row length 4503599627370497 takes .* more than 2\^53 - 1/,
  ),
  badEntry(
    '33 dimensions',
    { shape: `[${Array(33).fill(1)}]` },
    /33 dimensions; accepted: up to 32/,
    'limit',
  ),
  badEntry('half a byte of f4', { dtype: '"F4"', shape: '[3]' }, /f4: row length 3/),
  badEntry('no offsets', { data_offsets: undefined }, /has data_offsets missing/),
  badEntry(
    'one offset',
    { data_offsets: '[32]' },
    /has data_offsets \[32\]; expected \[begin, end/,
  ),
  badEntry('three offsets', { data_offsets: '[0,16,32]' }, /has data_offsets \[0, 16, 32\]/),
  badEntry('offsets backwards', { data_offsets: '[32,0]' }, /has data_offsets \[32, 0\]/),
  badEntry('negative offset', { data_offsets: '[-32,0]' }, /has data_offsets \[-32, 0\]/),
  badEntry('offset 0.5', { data_offsets: '[0.5,32.5]' }, /has data_offsets \[0.5, 32.5\]/),
  badEntry(
    'offset 2^64',
    { data_offsets: '[0,18446744073709551616]' },
    /\[0, 18446744073709551616\]; expected/,
  ),
  badEntry(
    'offsets past the end',
    { data_offsets: '[32,64]' },
    /has data_offsets \[32, 64\], but the file has 32 bytes of data/,
    'truncated',
  ),
  badEntry(
    'fewer bytes than the shape says',
    { data_offsets: '[0,28]' },
    /has 28 bytes, but F32 of shape \[2, 4\] takes 32/,
  ),
  badEntry('bytes for an empty shape', { shape: '[0]' }, /has 32 bytes, but F32 of shape \[0\]/),
  {
    is: 'two tensors that overlap by a byte',
    bytes: rawSafetensors(
      '{"b":{"dtype":"U8","shape":[9],"data_offsets":[7,16]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
    ),
    fault: 'corrupt',
    says: /begins at byte \d+, inside tensor "a"/,
    tensor: 'b',
  },
  {
    is: 'data cut by one byte',
    bytes: entry({}, 31),
    fault: 'truncated',
    says: /\[0, 32\], but the file has 31 bytes of data/,
    tensor: 'w',
  },
];

test('safetensors files that lie are refused with the numbers', async (t) => {
  using folder = new TestFolder();
  for (const bad of BAD_FILES) {
    await t.test(bad.is, () => {
      const path = folder.file('bad.safetensors', bad.bytes);
      if (bad.sizeBytes !== undefined) truncateSync(path, bad.sizeBytes);
      const { error, elapsedMs, peakGrowthBytes } = probe(path);
      assert.ok(error !== null, 'was opened');
      assert.match(error.message, bad.says);
      assert.ok(error.message.startsWith(`${path}: `), 'names the file');
      assert.equal(error.fault, bad.fault, error.message);
      assert.equal(error.tensor, bad.tensor ?? null);
      assert.ok(error.message.length < 1000, 'message of bounded length');
      assert.ok(elapsedMs < MAX_ELAPSED_MS, `took ${elapsedMs} ms`);
      assert.ok(peakGrowthBytes < MAX_GROWTH_BYTES, `memory rose by ${peakGrowthBytes} bytes`);
    });
  }
});

test('odd but sound safetensors files load', async (t) => {
  using folder = new TestFolder();
  const nan = Buffer.from(new Uint32Array([0x7fc00001, 0x7f800000]).buffer);
  const good: [string, Buffer, Record<string, number[]>][] = [
    ['no tensors', rawSafetensors('{}', 0), {}],
    ['padded header', rawSafetensors(' {"__metadata__":{"format":"pt"}} \n  ', 0), {}],
    ['bytes that no tensor claims', entry({}, 64), { w: Array(8).fill(0) }],
    [
      'a scalar and an empty tensor',
      rawSafetensors(
        '{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"I64","shape":[3,0],"data_offsets":[4,4]}}',
      ),
      { s: [0], e: [] },
    ],
    [
      'NaN and infinity',
      Buffer.concat([
        rawSafetensors('{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 0),
        nan,
      ]),
      { w: [Number.NaN, Number.POSITIVE_INFINITY] },
    ],
    [
      'names that are special to JavaScript, escapes, unknown fields',
      rawSafetensors(
        '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u00e9\\n":{"dtype":"BOOL","shape":[1],"data_offsets":[1,2],"extra":[{"a":null}]}}',
      ),
      { ['__proto__']: [0], 'é\n': [0] },
    ],
    [
      'data at an odd address',
      rawSafetensors('{"w":{"dtype":"F16","shape":[2],"data_offsets":[1,5]}}', 5),
      { w: [0, 0] },
    ],
  ];
  for (const [is, bytes, expected] of good) {
    await t.test(is, () => {
      const path = folder.file('good.safetensors', bytes);
      assert.equal(probe(path).error, null);
      using source = openWeights(path);
      assert.deepEqual([...source.tensors.keys()].sort(), Object.keys(expected).sort());
      for (const name of source.tensors.keys()) {
        assert.deepEqual([...source.readF32(name)], expected[name]);
      }
    });
  }
});

/** A shard with the named tensors, of one byte each. */
function shard(...names: string[]): Buffer {
  const entries = names.map(
    (name, i) =>
      `${JSON.stringify(name)}:{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`,
  );
  return rawSafetensors(`{${entries.join(',')}}`, names.length);
}

test('indexes that lie are refused', async (t) => {
  const index = (map: Record<string, unknown>) => JSON.stringify({ weight_map: map });
  const two = index({ a: 'one.safetensors', b: 'two.safetensors' });
  const shards = { 'one.safetensors': shard('a'), 'two.safetensors': shard('b') };
  const outside = (name: string) => ({
    is: `shard ${JSON.stringify(name)}`,
    index: index({ a: name }),
    says: /tensor "a": is said to be in .*expected the name of a .safetensors file in the folder/,
  });
  const cases: {
    is: string;
    index: string;
    files?: Record<string, Buffer>;
    links?: [string, string][];
    fault?: WeightFault;
    says: RegExp;
  }[] = [
    { is: 'no JSON', index: '{"weight_map":', says: /expected a value, found the end at byte 14/ },
    { is: 'empty', index: '', says: /found the end at byte 0/ },
    { is: 'a list', index: '[]', says: /"weight_map" is missing; expected an object/ },
    { is: 'no weight map', index: '{"metadata":{}}', says: /"weight_map" is missing/ },
    {
      is: 'a weight map that is a list',
      index: '{"weight_map":[1]}',
      says: /"weight_map" is \[1\]/,
    },
    {
      is: 'one tensor twice',
      index: '{"weight_map":{"a":"x","a":"y"}}',
      says: /duplicate key "a"/,
    },
    { is: 'a file name that is a number', index: index({ a: 7 }), says: /is said to be in 7;/ },
    outside('../one.safetensors'),
    outside('/etc/one.safetensors'),
    outside('sub/../../one.safetensors'),
    outside('..\\one.safetensors'),
    outside('C:one.safetensors'),
    outside('one.safetensors\0.safetensors'),
    outside('./one.safetensors'),
    outside('one.bin'),
    outside('model.safetensors.index.json'),
    outside(''),
    {
      is: 'shard missing',
      index: two,
      files: { 'one.safetensors': shard('a') },
      fault: 'incomplete',
      says: /two.safetensors: cannot be opened, but ".*index.json" names it: .*no such file/,
    },
    {
      is: 'shard that is a link to itself',
      index: two,
      files: { 'one.safetensors': shard('a') },
      links: [['two.safetensors', 'two.safetensors']],
      fault: 'incomplete',
      says: /two.safetensors: cannot be opened/,
    },
    {
      is: 'shard that is a link to the other shard',
      index: two,
      files: { 'one.safetensors': shard('a', 'b') },
      links: [['one.safetensors', 'two.safetensors']],
      says: /two.safetensors: tensor "a": is also in "one.safetensors"/,
    },
    {
      is: 'shard that is a link to the index',
      index: index({ a: 'one.safetensors' }),
      links: [['model.safetensors.index.json', 'one.safetensors']],
      fault: 'truncated',
      says: /one.safetensors: announces a header of/,
    },
    {
      is: 'tensor in no shard',
      index: index({ a: 'one.safetensors', c: 'one.safetensors' }),
      files: shards,
      fault: 'incomplete',
      says: /tensor "c": should be in "one.safetensors", but is in no shard/,
    },
    {
      is: 'tensor in another shard',
      index: index({ a: 'two.safetensors', b: 'one.safetensors' }),
      files: shards,
      fault: 'incomplete',
      says: /tensor "a": should be in "two.safetensors", but is in "one.safetensors"/,
    },
    {
      is: 'one tensor in two shards',
      index: two,
      files: { 'one.safetensors': shard('a'), 'two.safetensors': shard('b', 'a') },
      says: /two.safetensors: tensor "a": is also in "one.safetensors"/,
    },
    {
      is: 'shard that is unsound',
      index: two,
      files: { 'one.safetensors': shard('a'), 'two.safetensors': shard('b').subarray(0, -1) },
      fault: 'truncated',
      says: /two.safetensors: tensor "b": has data_offsets \[0, 1\], but/,
    },
    {
      is: '600 shards',
      index: index(
        Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`t${i}`, `${i}.safetensors`])),
      ),
      fault: 'limit',
      says: /names 600 shards; accepted: up to 512/,
    },
  ];
  for (const { is, index: text, files, links, fault, says } of cases) {
    await t.test(is, () => {
      using folder = new TestFolder();
      folder.file('model.safetensors.index.json', text);
      for (const [name, bytes] of Object.entries(files ?? {})) folder.file(name, bytes);
      for (const [target, name] of links ?? []) symlinkSync(target, join(folder.path, name));
      const { error, elapsedMs, peakGrowthBytes } = probe(folder.path);
      assert.ok(error !== null, 'was opened');
      assert.match(error.message, says);
      assert.equal(error.fault, fault ?? 'corrupt');
      assert.ok(error.file.startsWith(folder.path), 'names the file');
      assert.ok(elapsedMs < MAX_ELAPSED_MS && peakGrowthBytes < MAX_GROWTH_BYTES);
    });
  }
});
