import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeKvHead, encodeKvHead, rotateHead, rotationSize } from './kv-row.ts';

/** Values with a few that stand out, as keys have them. */
function head(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * 1.7) * (i % 16 === 3 ? 20 : 1));
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

test('twice rotated is the head times the rotation size, and dots keep their value', () => {
  for (const length of [8, 24, 64, 80, 256]) {
    const size = rotationSize(length);
    const x = Float64Array.from(head(length));
    const y = Float64Array.from(x, (value, i) => value * ((i % 5) - 2));
    const [rotatedX, rotatedY] = [x.slice(), y.slice()];
    rotateHead(rotatedX);
    rotateHead(rotatedY);
    assert.notDeepEqual(rotatedX, x);
    assert.ok(Math.abs(dot(rotatedX, rotatedY) / size - dot(x, y)) < 1e-9);
    rotateHead(rotatedX);
    rotatedX.forEach((value, i) => {
      assert.ok(Math.abs(value / size - x[i]!) < 1e-12);
    });
  }
});

test('values come back within half a step of their scale', () => {
  for (const length of [8, 64, 80]) {
    const codes = new Int8Array(length);
    const scale = encodeKvHead('q8', head(length), codes);
    decodeKvHead(codes, scale).forEach((value, i) => {
      assert.ok(Math.abs(value - head(length)[i]!) <= 0.51 * scale);
    });
  }
});

test('4 bits of a rotated head lose far less than 4 bits of the head itself', () => {
  const x = head(64);
  const error = (values: ArrayLike<number>): number =>
    x.reduce((sum, value, i) => sum + (value - values[i]!) ** 2, 0);
  const codes = new Int8Array(64);
  const rotated = error(decodeKvHead(codes, encodeKvHead('q4', x, codes)));
  const step = Math.max(...x.map(Math.abs)) / 8;
  const plain = error(x.map((value) => step * Math.round(value / step)));
  assert.ok(rotated < plain / 2, `${rotated} and ${plain}`);
});

test('the largest magnitude takes the lowest of 16 codes, of either sign', () => {
  for (const sign of [1, -1]) {
    const x = new Float32Array(8);
    x[0] = sign * 3; // rotated: all 8 are 3 or -3
    const codes = new Int8Array(8);
    const scale = encodeKvHead('q4', x, codes);
    assert.equal(scale, (sign * 3) / -8);
    assert.ok(codes.every((code) => code === -8));
    decodeKvHead(codes, scale).forEach((value, i) => {
      assert.equal(value, x[i]);
    });
  }
});

test('what is not finite becomes finite, zero stays zero', () => {
  const bad = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e30];
  for (const type of ['q8', 'q4'] as const) {
    const codes = new Int8Array(8);
    const scale = encodeKvHead(type, Float32Array.from([...bad, 0, 1, 2, 3]), codes);
    assert.ok(decodeKvHead(codes, scale).every(Number.isFinite));
    assert.ok(Math.abs(encodeKvHead(type, new Float32Array(8), codes)) === 0);
    assert.ok(codes.every((code) => code === 0));
  }
});
