import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { dynamicMap, roundNested } from './nested-scales.ts';

describe('double quantization of scales', () => {
  it('has the values of create_dynamic_map', () => {
    const map = dynamicMap();
    assert.equal(map.length, 256);
    assert.ok(map.every((value, i) => i === 0 || value > map[i - 1]!));
    // As bitsandbytes prints its ends and its middle.
    const near = (actual: number, expected: number) =>
      assert.ok(Math.abs(actual - expected) <= 1e-6 * Math.abs(expected), `${actual} ${expected}`);
    for (const [at, expected] of [
      [0, -0.99296875],
      [1, -0.97890625],
      [126, -5.5e-7],
      [127, 0],
      [128, 5.5e-7],
      [254, 0.99296875],
      [255, 1],
    ] as const) {
      near(map[at]!, expected);
    }
  });

  it('gives scales back within the widest gap of its map', () => {
    const scales = Float32Array.from({ length: 700 }, (_, i) => 0.02 + 0.015 * Math.sin(i * 1.3));
    const { codes, absmax, offset } = roundNested(scales);
    const map = dynamicMap();
    assert.equal(absmax.length, 3);
    for (const [i, scale] of scales.entries()) {
      const largest = absmax[Math.floor(i / 256)]!;
      const error = Math.abs(map[codes[i]!]! * largest + offset - scale);
      assert.ok(error <= (0.0141 / 2) * largest + 1e-9, `${i}: ${error}`);
    }
    assert.ok(Math.abs(offset - 0.02) < 0.001);
  });

  it('keeps equal scales exactly', () => {
    const { codes, absmax, offset } = roundNested(new Float32Array(5).fill(0.25));
    assert.equal(offset, 0.25);
    assert.deepEqual([...absmax], [0]);
    assert.ok(codes.every((code) => dynamicMap()[code] === 0));
  });
});
