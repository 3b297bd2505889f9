/**
 * Every block format against gguf-py's bytes and values (test/fixtures/quant/ggml.safetensors), read with our own reader.
 * Lies here and not in tensor/, which knows no files.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DTYPES, type DType, isDType, rowBytes } from '../tensor/dtype.ts';
import {
  canDecode,
  canEncode,
  canUnpack,
  createUnpackedRow,
  decodeRow,
  encodeRow,
  type UnpackedRow,
  unpackBlocks,
} from '../tensor/rows.ts';
import { openWeights, type WeightSource } from './weight-source.ts';

const GOLDEN = fileURLToPath(
  new URL('../../test/fixtures/quant/ggml.safetensors', import.meta.url),
);

/** Formats with golden bytes, of ours. */
const DECODABLE: readonly DType[] = [
  'f16',
  'bf16',
  'q4_0',
  'q4_1',
  'q5_0',
  'q5_1',
  'q8_0',
  'q2_k',
  'q3_k',
  'q4_k',
  'q5_k',
  'q6_k',
  'iq4_nl',
  'iq4_xs',
];
const ENCODABLE: readonly DType[] = ['f16', 'bf16', 'q4_0', 'q4_1', 'q5_0', 'q5_1', 'q8_0'];
const REAL: readonly DType[] = ['q4_1', 'q8_0', 'q5_0', 'q4_k', 'q6_k'];

/** Stored bytes and their f32 values, both [rows, …]. */
function goldenRows(source: WeightSource, prefix: string) {
  const bytes = source.readRows(`${prefix}.bytes`);
  const values = source.readF32(`${prefix}.f32`);
  const [rows, columns] = source.tensors.get(`${prefix}.f32`)!.shape as [number, number];
  return { bytes, values, rows, columns };
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

function assertSameBits(actual: Float32Array, expected: Float32Array, what: string): void {
  const a = bitsOf(actual);
  const e = bitsOf(expected);
  assert.equal(a.length, e.length);
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== e[i])
      assert.fail(`${what}: element ${i} is ${actual[i]}, expected ${expected[i]}`);
  }
}

function checkDecode(source: WeightSource, prefix: string, dtype: DType): void {
  const { bytes, values, rows, columns } = goldenRows(source, prefix);
  const stride = bytes.length / rows;
  assert.equal(stride, rowBytes(dtype, columns), 'stored row size');
  const out = new Float32Array(columns);
  for (let row = 0; row < rows; row++) {
    decodeRow(dtype, bytes, row * stride, out, columns);
    const expected = values.subarray(row * columns, (row + 1) * columns);
    assertSameBits(out, expected, `${prefix} row ${row}`);
  }
  // All rows at once, from an odd address and into the middle of an array.
  const shifted = new Uint8Array(bytes.length + 1);
  shifted.set(bytes, 1);
  const all = new Float32Array(rows * columns + 2).fill(7);
  decodeRow(dtype, shifted, 1, all, rows * columns, 1);
  assertSameBits(all.slice(1, -1), values, `${prefix} unaligned`);
  assert.deepEqual([all[0], all.at(-1)], [7, 7], 'neighbours untouched');
}

function reconstruct(row: UnpackedRow, elements: number, rounded: boolean): Float32Array {
  const out = new Float32Array(elements);
  for (let i = 0; i < elements; i++) {
    const g = Math.floor(i / row.groupSize);
    const product = row.scales[g]! * (row.codes[i]! - row.zero);
    out[i] = (rounded ? Math.fround(product) : product) + (row.mins?.[g] ?? -0);
  }
  return out;
}

function checkUnpack(source: WeightSource, prefix: string, dtype: DType): void {
  const { bytes, values, rows, columns } = goldenRows(source, prefix);
  const stride = bytes.length / rows;
  const unpacked = createUnpackedRow(dtype, columns);
  for (let row = 0; row < rows; row++) {
    unpackBlocks(dtype, bytes, row * stride, columns, unpacked);
    const expected = values.subarray(row * columns, (row + 1) * columns);
    assertSameBits(reconstruct(unpacked, columns, true), expected, `${prefix} row ${row} in f32`);
    assertSameBits(reconstruct(unpacked, columns, false), expected, `${prefix} row ${row} in f64`);
  }
}

test('golden rows', async (t) => {
  using source = openWeights(GOLDEN);
  for (const dtype of DECODABLE) {
    await t.test(`${dtype} decodes bit-exactly`, () => {
      checkDecode(source, dtype.toUpperCase(), dtype);
    });
  }
  for (const dtype of REAL) {
    await t.test(`${dtype} rows of a real model decode bit-exactly`, () => {
      checkDecode(source, `real.${dtype.toUpperCase()}`, dtype);
    });
  }
  for (const dtype of DECODABLE.filter(canUnpack)) {
    await t.test(`${dtype} codes give back the decoded bits`, () => {
      checkUnpack(source, dtype.toUpperCase(), dtype);
      if (REAL.includes(dtype)) checkUnpack(source, `real.${dtype.toUpperCase()}`, dtype);
    });
  }
  for (const dtype of ENCODABLE) {
    await t.test(`${dtype} encodes to ggml's bytes`, () => {
      const prefix = `quantize.${dtype.toUpperCase()}`;
      checkDecode(source, prefix, dtype);
      const { bytes, rows, columns } = goldenRows(source, prefix);
      const input = source.readF32(`${prefix}.input`);
      const encoded = new Uint8Array(rowBytes(dtype, columns));
      for (let row = 0; row < rows; row++) {
        encodeRow(dtype, input.subarray(row * columns, (row + 1) * columns), columns, encoded);
        const expected = bytes.subarray(row * encoded.length, (row + 1) * encoded.length);
        assert.deepEqual(Buffer.from(encoded), Buffer.from(expected), `row ${row}`);
      }
    });
  }
});

test('block sizes agree with the golden file for every ggml type in it', () => {
  using source = openWeights(GOLDEN);
  let checked = 0;
  for (const [name, { shape }] of source.tensors) {
    const [, typeName] = /^([A-Z0-9_]+)\.bytes$/.exec(name) ?? [];
    if (typeName === undefined) continue;
    const dtype = typeName.toLowerCase();
    assert.ok(isDType(dtype), `${dtype} is a known name`);
    const columns = source.tensors.get(`${typeName}.f32`)!.shape[1]!;
    assert.equal(rowBytes(dtype, columns), shape[1], dtype);
    checked++;
  }
  assert.equal(checked, 25);
});

test('what can be decoded, unpacked and encoded is what the table promises', () => {
  const notOfFiles: readonly DType[] = ['nf4', 'fp4', 'q8_f32'];
  const names = (Object.keys(DTYPES) as DType[]).filter((d) => !notOfFiles.includes(d));
  assert.deepEqual(
    names.filter((d) => DTYPES[d].kind === 'quantized' && canDecode(d)),
    DECODABLE.filter((d) => d !== 'f16' && d !== 'bf16'),
  );
  assert.deepEqual(
    names.filter(canUnpack),
    DECODABLE.filter((d) => d !== 'f16' && d !== 'bf16'),
  );
  assert.deepEqual(names.filter(canEncode).sort(), ['f32', ...DECODABLE].sort());
});
