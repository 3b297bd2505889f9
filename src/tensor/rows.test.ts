import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { DTYPES, type DType, rowBytes } from './dtype.ts';
import { DTypeError, RowBufferError, UnsupportedDTypeError } from './errors.ts';
import { F16_TO_F32, f16Bits } from './half.ts';
import {
  canDecode,
  canEncode,
  canUnpack,
  createUnpackedRow,
  decodeRow,
  encodeRow,
  hasExactCodes,
  unpackBlocks,
} from './rows.ts';

const NAMES = Object.keys(DTYPES) as DType[];

/** Largest error of a block, as a part of its range (largest minus smallest element; for the symmetric formats, twice the largest magnitude). */
const ENCODE_ERROR_BOUNDS: Partial<Record<DType, number>> = {
  f32: 0,
  f16: 2 ** -11,
  bf16: 2 ** -8,
  // Symmetric: the end opposite to the largest magnitude is one step short, so its error is a whole step.
  q4_0: 1 / 16 + 0.002,
  q5_0: 1 / 32 + 0.002,
  q4_1: 0.5 / 15 + 0.002,
  q5_1: 0.5 / 31 + 0.002,
  q8_0: 0.5 / 254 + 0.001,
  q8_f32: 0.5 / 254 + 1e-6,
  // Half of the widest gap between values: -1 to -0.7, and for fp4 2/3 to 1.
  nf4: 0.1519 / 2 + 1e-6,
  fp4: 1 / 12 + 1e-6,
};

/** Formats that search for their scales have no simple bound; weights/ggml-encoded.test.ts holds their bytes to llama.cpp's. */
const SEARCHED: readonly DType[] = ['q2_k', 'q3_k', 'q4_k', 'q5_k', 'q6_k', 'iq4_nl', 'iq4_xs'];

test('encoding and decoding again stays within the error bound of each format', () => {
  for (const dtype of NAMES.filter((d) => canEncode(d) && !SEARCHED.includes(d))) {
    const bound = ENCODE_ERROR_BOUNDS[dtype];
    assert.ok(bound !== undefined, `${dtype} has a bound`);
    const isSymmetric = ['q4_0', 'q5_0', 'q8_0', 'q8_f32', 'nf4', 'fp4'].includes(dtype);
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: 32, maxLength: 32 }),
        (list) => {
          const values = Float32Array.from(list);
          const bytes = new Uint8Array(rowBytes(dtype, 32));
          encodeRow(dtype, values, 32, bytes);
          const decoded = new Float32Array(32);
          decodeRow(dtype, bytes, 0, decoded, 32);
          const largest = Math.max(...values.map(Math.abs));
          const range = isSymmetric ? 2 * largest : Math.max(...values) - Math.min(...values);
          // f16 scales and mins have 2^-11 relative and 2^-25 absolute rounding, times up to 31 codes.
          const slack = largest * 2 ** -10 + 32 * 2 ** -25;
          for (let i = 0; i < 32; i++) {
            const error = Math.abs(decoded[i]! - values[i]!);
            const limit: number =
              DTYPES[dtype].kind === 'float'
                ? bound * Math.abs(values[i]!) + (bound && 2 ** -25)
                : bound * range + slack;
            assert.ok(error <= limit, `${dtype}[${i}] ${values[i]} -> ${decoded[i]}`);
          }
        },
      ),
      { seed: 3, numRuns: 200 },
    );
  }
});

test('codes of random blocks give the decoded values in every format', () => {
  for (const dtype of NAMES.filter(hasExactCodes)) {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 3 }), fc.nat(5), (seed, blocks, offset) => {
        const elements = blocks * DTYPES[dtype].blockElements;
        const bytes = new Uint8Array(offset + rowBytes(dtype, elements));
        let state = seed >>> 0;
        for (let i = 0; i < bytes.length; i++) {
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          bytes[i] = state >>> 24;
        }
        const decoded = new Float32Array(elements);
        decodeRow(dtype, bytes, offset, decoded, elements);
        const row = createUnpackedRow(dtype, elements);
        unpackBlocks(dtype, bytes, offset, elements, row);
        for (let i = 0; i < elements; i++) {
          const g = Math.floor(i / row.groupSize);
          const value = Math.fround(
            row.scales[g]! * (row.codes[i]! - row.zero) + (row.mins?.[g] ?? -0),
          );
          assert.ok(Object.is(value, decoded[i]), `${dtype}[${i}] ${value} ${decoded[i]}`);
        }
        if (!row.factors) return;
        const { d, negatedDmin, scales, mins } = row.factors;
        row.scales.forEach((scale, g) => {
          const s = Math.floor((g * row.groupSize) / 256);
          const product = F16_TO_F32[d[s]!]! * scales[g]!;
          assert.ok(Object.is(product, scale), `${dtype} scale ${g}: ${product} ${scale}`);
          if (!mins) return;
          const min = F16_TO_F32[negatedDmin![s]!]! * mins[g]!;
          assert.ok(Object.is(min, row.mins![g]), `${dtype} min ${g}: ${min} ${row.mins![g]}`);
        });
      }),
      { seed: 4, numRuns: 60 },
    );
  }
});

test('rounded codes are within their bound of the decoded values', () => {
  const bounds: Partial<Record<DType, number>> = { nf4: 0.0039, fp4: 0.0032 };
  const rounded = NAMES.filter((dtype) => canUnpack(dtype) && !hasExactCodes(dtype));
  assert.deepEqual(rounded.toSorted(), Object.keys(bounds).toSorted());
  for (const dtype of rounded) {
    const bytes = new Uint8Array(rowBytes(dtype, 32));
    for (let j = 0; j < 16; j++) bytes[4 + j] = ((2 * j) << 4) | ((2 * j + 1) & 15);
    new DataView(bytes.buffer).setFloat32(0, 0.3, true);
    const decoded = new Float32Array(32);
    decodeRow(dtype, bytes, 0, decoded, 32);
    const row = createUnpackedRow(dtype, 32);
    unpackBlocks(dtype, bytes, 0, 32, row);
    for (let i = 0; i < 32; i++) {
      const error = Math.abs(row.scales[0]! * row.codes[i]! - decoded[i]!);
      assert.ok(error <= 0.3 * bounds[dtype]!, `${dtype}[${i}] is ${error} off`);
    }
  }
});

test('the parameters of the codes are those the format declares', () => {
  const zeros = Object.fromEntries(
    NAMES.filter(canUnpack).map((dtype) => {
      const { zero, groupSize, mins, codes } = createUnpackedRow(dtype, 256);
      return [dtype, `${groupSize} ${zero}${mins ? ' mins' : ''} ${codes.constructor.name}`];
    }),
  );
  assert.deepEqual(zeros, {
    q4_0: '32 8 Uint8Array',
    q4_1: '32 0 mins Uint8Array',
    q5_0: '32 16 Uint8Array',
    q5_1: '32 0 mins Uint8Array',
    q8_0: '32 0 Int8Array',
    q2_k: '16 0 mins Uint8Array',
    q3_k: '16 4 Uint8Array',
    q4_k: '32 0 mins Uint8Array',
    q5_k: '32 0 mins Uint8Array',
    q6_k: '16 32 Uint8Array',
    iq4_nl: '32 0 Int8Array',
    iq4_xs: '32 0 Int8Array',
    nf4: '32 0 Int8Array',
    fp4: '32 0 Int8Array',
    q8_f32: '32 0 Int8Array',
  });
});

test('plain numbers decode to f32 at any alignment', () => {
  const check = (dtype: DType, array: ArrayBufferView, expected: number[]) => {
    const stored = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (const offset of [0, 1, 3]) {
      const bytes = new Uint8Array(offset + stored.length);
      bytes.set(stored, offset);
      const out = new Float32Array(expected.length);
      decodeRow(dtype, bytes, offset, out, expected.length);
      assert.deepEqual([...out], expected, `${dtype} at ${offset}`);
    }
  };
  check('f64', Float64Array.of(0.1, -1e300), [Math.fround(0.1), Number.NEGATIVE_INFINITY]);
  check('i8', Int8Array.of(-128, 127), [-128, 127]);
  check('i16', Int16Array.of(-32768, 5), [-32768, 5]);
  check('i32', Int32Array.of(-(2 ** 31), 16777217), [-(2 ** 31), 16777216]);
  check('i64', BigInt64Array.of(-(2n ** 63n), 9n), [-(2 ** 63), 9]);
  check('u8', Uint8Array.of(0, 255), [0, 255]);
  check('u16', Uint16Array.of(65535, 1), [65535, 1]);
  check('u32', Uint32Array.of(2 ** 32 - 1, 1), [2 ** 32, 1]);
  check('u64', BigUint64Array.of(2n ** 64n - 1n, 1n), [2 ** 64, 1]);
  check('bool', Uint8Array.of(1, 0), [1, 0]);
  check('f32', Float32Array.of(1.5, -0), [1.5, -0]);
});

test('NaN and infinite scales decode without complaint', () => {
  const bytes = new Uint8Array(rowBytes('q4_1', 64)).fill(0x99);
  for (const [at, value] of [
    [0, Number.NaN],
    [20, Number.POSITIVE_INFINITY],
  ] as const) {
    bytes[at] = f16Bits(value) & 255;
    bytes[at + 1] = f16Bits(value) >> 8;
  }
  const out = new Float32Array(64);
  decodeRow('q4_1', bytes, 0, out, 64);
  assert.ok(out.subarray(0, 32).every(Number.isNaN));
  assert.ok(out.subarray(32).every((value) => value === Number.POSITIVE_INFINITY));
});

test('infinite and NaN inputs spoil their own block only', () => {
  for (const dtype of NAMES.filter(canEncode)) {
    const block = Math.max(32, DTYPES[dtype].blockElements);
    const values = new Float32Array(2 * block).fill(1);
    values[3] = Number.NaN;
    values[9] = Number.POSITIVE_INFINITY;
    const bytes = new Uint8Array(rowBytes(dtype, values.length));
    encodeRow(dtype, values, values.length, bytes);
    const decoded = new Float32Array(values.length);
    decodeRow(dtype, bytes, 0, decoded, values.length);
    assert.ok(
      decoded.subarray(block).every((value) => Math.abs(value - 1) < 0.02),
      dtype,
    );
  }
});

test('formats without a decoder, encoder or codes say so', () => {
  const bytes = new Uint8Array(1024);
  const floats = new Float32Array(256);
  const undecodable = NAMES.filter((dtype) => !canDecode(dtype));
  assert.ok(undecodable.includes('iq2_xxs') && undecodable.includes('mxfp4'));
  for (const dtype of undecodable) {
    assert.throws(() => decodeRow(dtype, bytes, 0, floats, 256), UnsupportedDTypeError);
  }
  assert.throws(() => decodeRow('iq3_s', bytes, 0, floats, 256), {
    code: 'invalid_dtype',
    dtype: 'iq3_s',
    message: /^iq3_s: cannot be decoded; supported: f32, f16, .*q4_0/,
  });
  assert.throws(() => encodeRow('f64', floats, 256, bytes), {
    name: 'UnsupportedDTypeError',
    message: /^f64: cannot be encoded; supported: f32, f16, bf16, q4_0/,
  });
  assert.throws(() => createUnpackedRow('f16', 32), {
    name: 'UnsupportedDTypeError',
    message: /^f16: has no integer codes; formats that have: q4_0/,
  });
});

test('rows that do not fit their buffers are refused with the numbers', () => {
  const bytes = new Uint8Array(36);
  const out = new Float32Array(64);
  assert.throws(() => decodeRow('q4_0', bytes, 1, out, 64), {
    name: 'RowBufferError',
    message: 'q4_0: a row of 64 elements takes 36 bytes from byte 1, but the buffer has 36',
  });
  assert.throws(() => decodeRow('q4_0', bytes, -18, out, 32), RowBufferError);
  assert.throws(() => decodeRow('q4_0', bytes, 0.5, out, 32), RowBufferError);
  assert.throws(() => decodeRow('q4_0', bytes, 0, out, 64, 1), RowBufferError);
  assert.throws(() => decodeRow('q4_0', bytes, 0, out, 33), DTypeError);
  assert.throws(() => encodeRow('q4_0', out.subarray(1), 64, bytes), RowBufferError);
  assert.throws(() => encodeRow('q8_0', out, 64, bytes), RowBufferError);
  const row = createUnpackedRow('q4_0', 32);
  assert.throws(() => unpackBlocks('q4_0', bytes, 0, 64, row), RowBufferError);
  assert.throws(() => unpackBlocks('q5_0', bytes, 0, 32, row), /q5_0: .* made for q4_0/);
});
