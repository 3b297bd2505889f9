/** Norms, rotation and elementwise ops against values worked out by other means. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ACTIVATIONS, erf, gatedActivationRows } from './elementwise.ts';
import { layerNormRow, rmsNormRow } from './norms.ts';
import { RopeTable, ropeRow } from './rope.ts';
import { Random } from './testing/random.ts';
import { createF32Rows } from './value-rows.ts';

const near = (a: number, b: number, tolerance = 1e-6) =>
  assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);

describe('norms', () => {
  it('rmsNormRow scales to a root mean square of 1, then by the weight, then adds', () => {
    const out = new Float32Array(4);
    const places = { x: Float32Array.of(9, 3, -3, 3, -3), xOffset: 1, out, outOffset: 0 };
    rmsNormRow(places, Float32Array.of(1, 2, 3, 4), 0, Float32Array.of(0, 10, 20, 30, 40), 1);
    assert.deepEqual([...out], [11, 18, 33, 36]);
  });

  it('layerNormRow has mean 0 and variance 1 before weight and bias', () => {
    const out = new Float32Array(64);
    const x = new Random(1).fill(new Float32Array(64)).map((value) => value * 3 + 5);
    const [weight, bias] = [new Float32Array(64).fill(2), new Float32Array(64).fill(7)];
    layerNormRow({ x, xOffset: 0, out, outOffset: 0 }, weight, bias, 0);
    const mean = out.reduce((sum, value) => sum + value, 0) / 64;
    near(mean, 7, 1e-5);
    near(out.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 64, 4, 1e-5);
  });
});

describe('ropeRow', () => {
  const frequencies = [1, 0.5, 0.1];
  const table = (style: 'half' | 'interleaved', magnitude = 1) =>
    new RopeTable({ style, rotaryDim: 6, frequencies, magnitude }, 64);
  const heads = { numHeads: 2, headDim: 8 };
  const x = new Random(2).fill(new Float32Array(16));
  const rotated = (from: Float32Array, t: RopeTable, position: number) => {
    const out = new Float32Array(16);
    ropeRow({ data: from, offset: 0 }, { data: out, offset: 0 }, heads, t, position);
    return out;
  };

  it('turns each pair by its frequency times the position, and leaves the rest', () => {
    const out = rotated(x, table('half'), 10);
    for (const head of [0, 8]) {
      for (let j = 0; j < 3; j++) {
        const [a, b] = [x[head + j]!, x[head + j + 3]!];
        const angle = Math.atan2(b, a) + 10 * frequencies[j]!;
        near(out[head + j]!, Math.hypot(a, b) * Math.cos(angle));
        near(out[head + j + 3]!, Math.hypot(a, b) * Math.sin(angle));
      }
      assert.deepEqual(out.slice(head + 6, head + 8), x.slice(head + 6, head + 8));
    }
  });

  it('is the same in both styles, but for the order of values', () => {
    const order = [0, 3, 1, 4, 2, 5, 6, 7]; // interleaved value i is half-split value order[i]
    const at = (i: number) => (i & 8) + order[i & 7]!;
    const interleaved = rotated(
      x.map((_, i) => x[at(i)]!),
      table('interleaved'),
      17,
    );
    const half = rotated(x, table('half'), 17);
    assert.deepEqual(
      interleaved,
      half.map((_, i) => half[at(i)]!),
    );
  });

  it('multiplies by the magnitude', () => {
    const [once, twice] = [rotated(x, table('half'), 5), rotated(x, table('half', 2), 5)];
    near(twice[2]!, 2 * once[2]!);
    assert.equal(twice[6], once[6]);
  });

  it('works in place', () => {
    const copy = x.slice();
    ropeRow({ data: copy, offset: 0 }, { data: copy, offset: 0 }, heads, table('interleaved'), 9);
    assert.deepEqual(copy, rotated(x, table('interleaved'), 9));
  });
});

describe('activations', () => {
  it('erf has its published values', () => {
    for (const [x, expected] of [
      [0, 0],
      [0.5, 0.5204998778130465],
      [1, 0.8427007929497149],
      [2, 0.9953222650189527],
      [2.6, 0.9997639655834707],
      [4, 0.9999999845827421],
      [-1, -0.8427007929497149],
      [9, 1],
    ] as const) {
      near(erf(x), expected, 1e-13);
    }
  });

  it('have their known values', () => {
    near(ACTIVATIONS.silu(1), 0.7310585786300049, 1e-15);
    near(ACTIVATIONS.gelu(1), 0.8413447460685429, 1e-13);
    near(ACTIVATIONS.geluTanh(1), 0.841191990608, 1e-9);
    assert.deepEqual([ACTIVATIONS.relu(-2), ACTIVATIONS.relu(2)], [0, 2]);
    for (const f of Object.values(ACTIVATIONS)) assert.equal(f(0), 0);
  });

  it('do not overflow far out', () => {
    for (const kind of ['silu', 'gelu', 'geluTanh'] as const) {
      assert.equal(ACTIVATIONS[kind](1e4), 1e4);
      assert.equal(Math.abs(ACTIVATIONS[kind](-1e4)), 0);
    }
  });

  it('gate the other input', () => {
    const rows = (...values: number[]) => ({
      ...createF32Rows(1, 2),
      data: Float32Array.from(values),
    });
    const out = createF32Rows(1, 2);
    gatedActivationRows(rows(-1, 3), rows(5, 7), 1, 'relu', out);
    assert.deepEqual([...out.data], [0, 21]);
  });
});
