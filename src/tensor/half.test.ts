import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { bf16Bits, bf16Value, F16_TO_F32, f16Bits, f16Value } from './half.ts';

/** IEEE binary16 from its fields, the slow way. */
function f16Reference(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

test('every f16 pattern has its value, and comes back from it', () => {
  assert.equal(F16_TO_F32.length, 65536);
  for (let bits = 0; bits < 65536; bits++) {
    const value = f16Value(bits);
    assert.ok(Object.is(value, f16Reference(bits)), `0x${bits.toString(16)}: ${value}`);
    if (!Number.isNaN(value)) assert.equal(f16Bits(value), bits);
  }
});

test('every bf16 pattern comes back from its value', () => {
  for (let bits = 0; bits < 65536; bits++) {
    const value = bf16Value(bits);
    if (!Number.isNaN(value)) assert.equal(bf16Bits(value), bits);
    else assert.ok(Number.isNaN(bf16Value(bf16Bits(value))));
  }
});

test('rounding to 16 bits takes the nearest, ties to even', () => {
  assert.equal(bf16Bits(1 + 2 ** -8), 0x3f80, 'tie goes down to even');
  assert.equal(bf16Bits(1 + 3 * 2 ** -8), 0x3f82, 'tie goes up to even');
  assert.equal(f16Bits(1 + 2 ** -11), 0x3c00);
  assert.equal(f16Bits(1 + 3 * 2 ** -11), 0x3c02);
  assert.equal(f16Bits(65519.99), 0x7bff);
  assert.equal(f16Bits(65520), 0x7c00);
  assert.equal(bf16Bits(3.4e38), 0x7f80, 'above the largest bf16');
  fc.assert(
    fc.property(fc.float({ noNaN: true }), (value) => {
      const rounded = bf16Value(bf16Bits(value));
      const [below, above] = [bf16Value(bf16Bits(value) - 1), bf16Value(bf16Bits(value) + 1)];
      const error = Math.abs(rounded - value);
      return (
        Object.is(rounded, value) ||
        !Number.isFinite(rounded) ||
        !(error > Math.min(Math.abs(below - value), Math.abs(above - value)))
      );
    }),
    { seed: 1, numRuns: 500 },
  );
});
