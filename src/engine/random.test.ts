import assert from 'node:assert/strict';
import test from 'node:test';
import { philox4x32, RandomStream, randomUnit } from './random.ts';

const hex = (words: Uint32Array): string =>
  [...words].map((word) => word.toString(16).padStart(8, '0')).join(' ');

test('Philox 4x32-10 gives the published known answers', () => {
  const zeros = new Uint32Array(4);
  philox4x32(zeros, 0, 0);
  assert.equal(hex(zeros), '6627e8d5 e169c58d bc57ac4c 9b00dbd8');
  const ones = new Uint32Array(4).fill(0xffffffff);
  philox4x32(ones, 0xffffffff, 0xffffffff);
  assert.equal(hex(ones), '408f276d 41c83b0e a20bc7c6 6d5451fd');
  const pi = Uint32Array.of(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344);
  philox4x32(pi, 0xa4093822, 0x299f31d0);
  assert.equal(hex(pi), 'd16cfe09 94fdcceb 5001e420 24126ea1');
});

test('numbers of neighbouring seeds and indices are even and unrelated', () => {
  const numBins = 20;
  const bins = new Float64Array(numBins);
  let sumOfProducts = 0;
  const n = 20_000;
  for (let index = 0; index < n; index++) {
    const a = randomUnit(7, index, RandomStream.sample);
    const b = randomUnit(8, index, RandomStream.sample);
    assert.ok(a >= 0 && a < 1);
    bins[Math.floor(a * numBins)]!++;
    sumOfProducts += (a - 0.5) * (b - 0.5);
  }
  const expected = n / numBins;
  const chiSquare = bins.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
  assert.ok(chiSquare < 43.8, `chi square ${chiSquare}: 19 degrees of freedom, p = 0.001`);
  const correlation = sumOfProducts / n / (1 / 12);
  assert.ok(Math.abs(correlation) < 0.03, `correlation ${correlation}`);
});

test('a seed is used whole: its upper half and its sign matter', () => {
  const drawn = [5, 5 + 2 ** 32, 5 + 2 ** 40, -5, 2 ** 32 - 5].map((seed) =>
    randomUnit(seed, 3, RandomStream.sample),
  );
  assert.equal(new Set(drawn).size, drawn.length);
});
