import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { dequantizeRow, quantizeRow } from './quantize.ts';
import { createQ8Rows } from './value-rows.ts';

const block = fc.array(fc.float({ noNaN: true, min: -1000, max: 1000 }), {
  minLength: 64,
  maxLength: 64,
});

it('keeps every value within half a step of its block', () => {
  fc.assert(
    fc.property(block, (values) => {
      const x = Float32Array.from(values);
      const rows = createQ8Rows(2, 64);
      quantizeRow(x, 0, rows, 1);
      const back = dequantizeRow(rows, 1);
      for (let i = 0; i < 64; i++) {
        const step = rows.scales[2 + (i >> 5)]!;
        // beyond the rounding to a code: that of scale and inverse to f32, 2^-23 of 127 steps each
        assert.ok(Math.abs(back[i]! - x[i]!) <= step * (0.5 + 127 * 2 ** -22));
      }
    }),
  );
});

it('keeps the sum of the codes of each block', () => {
  const rows = createQ8Rows(1, 64);
  quantizeRow(
    Float32Array.from({ length: 64 }, (_, i) => Math.sin(i * i)),
    0,
    rows,
    0,
  );
  for (const b of [0, 1]) {
    const codes = rows.codes.subarray(b * 32, b * 32 + 32);
    assert.equal(
      rows.sums[b],
      codes.reduce((sum, code) => sum + code, 0),
    );
  }
});

it('rounds ties to the even code', () => {
  const rows = createQ8Rows(1, 32);
  const x = new Float32Array(32);
  x.set([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]); // scale 1
  quantizeRow(x, 0, rows, 0);
  assert.deepEqual([...rows.codes.subarray(0, 7)], [127, 0, 2, 2, 0, -2, -2]);
});

it('gives a block of zeros scale 0', () => {
  const rows = createQ8Rows(1, 32);
  rows.codes.fill(9);
  quantizeRow(new Float32Array(32), 0, rows, 0);
  assert.equal(rows.scales[0], 0);
  assert.ok(rows.codes.every((code) => code === 0));
});

it('uses the whole range of codes, and never -128', () => {
  const rows = createQ8Rows(1, 32);
  const x = new Float32Array(32).fill(-3);
  x[7] = 3;
  quantizeRow(x, 0, rows, 0);
  assert.deepEqual([rows.codes[0], rows.codes[7]], [-127, 127]);
});
