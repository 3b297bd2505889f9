import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DTYPES, type DType, isDType, rowBytes } from './dtype.ts';
import { DTypeError } from './errors.ts';

test('a row takes whole blocks', () => {
  const cases: [DType, number, number][] = [
    ['f32', 7, 28],
    ['bf16', 3, 6],
    ['q4_0', 32, 18],
    ['q4_1', 1536, 960],
    ['q8_0', 576, 612],
    ['q4_k', 1024, 576],
    ['q6_k', 2048, 1680],
    ['iq4_xs', 256, 136],
    ['f4', 6, 3],
    ['q5_0', 0, 0],
  ];
  for (const [dtype, elements, bytes] of cases) assert.equal(rowBytes(dtype, elements), bytes);
});

test('a row length that is no whole number of blocks is refused with the numbers', () => {
  assert.throws(() => rowBytes('q4_0', 900), {
    name: 'DTypeError',
    dtype: 'q4_0',
    message: 'q4_0: row length 900 is not a multiple of the block size 32',
  });
  assert.throws(() => rowBytes('q6_k', 640), /q6_k: row length 640 .* block size 256/);
});

test('a length that is no count, or whose bytes cannot be counted, is refused', () => {
  for (const elements of [-32, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
    assert.throws(() => rowBytes('f32', elements), DTypeError, String(elements));
  }
  assert.throws(() => rowBytes('f64', 2 ** 51), /takes .* bytes, more than 2\^53 - 1/);
});

test('names are recognised exactly', () => {
  for (const name of Object.keys(DTYPES)) assert.ok(isDType(name));
  for (const name of ['Q4_0', 'F32', '', 'toString', '__proto__'])
    assert.equal(isDType(name), false);
});
