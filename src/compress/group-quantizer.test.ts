import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { checkFinite } from './check-finite.ts';
import { GroupSizeError, NonFiniteWeightError } from './errors.ts';
import { bitsPerWeight, dequantize, type GroupScheme, SYMMETRIES } from './group-quantizer.ts';
import { roundPlainly } from './testing/round-plainly.ts';

const scheme = (change: Partial<GroupScheme>): GroupScheme => ({
  bits: 4,
  groupSize: 32,
  symmetry: 'asymmetric',
  searchesRange: false,
  ...change,
});

describe('rounding to nearest', () => {
  it('pins the three conventions of scale and zero point', () => {
    const values = Float32Array.from({ length: 32 }, (_, i) => (i === 0 ? -1 : i === 1 ? 2 : 0));
    const one = (symmetry: GroupScheme['symmetry']) =>
      roundPlainly(values, 1, 32, scheme({ symmetry }));
    const asymmetric = one('asymmetric');
    assert.equal(asymmetric.scales[0], 0.199951171875); // 3 / 15 as f16
    assert.equal(asymmetric.zeros[0], 5);
    assert.deepEqual([...asymmetric.codes.subarray(0, 3)], [0, 15, 5]);
    const symmetric = one('symmetric');
    assert.equal(symmetric.scales[0], 0.2666015625); // 2 / 7.5 as f16
    assert.equal(symmetric.zeros[0], 8);
    assert.deepEqual([...symmetric.codes.subarray(0, 3)], [4, 15, 8]);
    const full = one('fullRange');
    assert.equal(full.scales[0], -0.25);
    assert.deepEqual([...full.codes.subarray(0, 3)], [12, 0, 8]);
  });

  for (const symmetry of SYMMETRIES) {
    it(`${symmetry}: no error beyond a step, and codes within their bits`, () => {
      const bitsOf = fc.integer({ min: 2, max: 8 });
      const value = fc.float({ min: -4, max: 4, noNaN: true });
      fc.assert(
        fc.property(bitsOf, fc.array(value, { minLength: 64, maxLength: 64 }), (bits, list) => {
          const values = Float32Array.from(list);
          const matrix = roundPlainly(values, 2, 32, scheme({ bits, symmetry }));
          const back = dequantize(matrix);
          for (let i = 0; i < 64; i++) {
            const step = Math.abs(matrix.scales[i >> 5]!);
            assert.ok(matrix.codes[i]! < 2 ** bits);
            // Full range: the end opposite to the largest magnitude is a whole step short.
            const bound = symmetry === 'fullRange' ? 1 : 0.51;
            assert.ok(
              Math.abs(back[i]! - values[i]!) <= step * (bound + 2 ** -9 * 2 ** bits) + 1e-6,
            );
          }
        }),
        { seed: 5, numRuns: 100 },
      );
    });
  }

  it('the range search never has a larger error where it is measured', () => {
    const values = Float32Array.from({ length: 512 }, (_, i) => Math.sin(i * 1.7) ** 5);
    const errorOf = (searchesRange: boolean): number => {
      const s = scheme({ bits: 3, groupSize: 64, searchesRange });
      const back = dequantize(roundPlainly(values, 8, 64, s));
      return back.reduce((sum, v, i) => sum + Math.abs(v - values[i]!) ** 3, 0);
    };
    assert.ok(errorOf(true) < errorOf(false));
  });

  it('one group per row', () => {
    const matrix = roundPlainly(
      new Float32Array(60).fill(0.5),
      3,
      20,
      scheme({ groupSize: 'row' }),
    );
    assert.equal(matrix.groupSize, 20);
    assert.equal(matrix.scales.length, 3);
    assert.equal(bitsPerWeight(matrix), 5);
  });

  it('refuses groups that do not divide the rows, naming those that do', () => {
    const quantize = () => roundPlainly(new Float32Array(96), 1, 96, scheme({ groupSize: 64 }));
    assert.throws(quantize, (error: unknown) => {
      assert.ok(error instanceof GroupSizeError);
      assert.match(error.message, /"w": groups of 64 do not divide its rows of 96; .* 32, 16, row/);
      return true;
    });
  });

  it('names the weight that is no number', () => {
    const values = new Float32Array(12);
    values[7] = Number.NaN;
    assert.throws(
      () => checkFinite('model.x', values, 4, 10),
      (error: unknown) =>
        error instanceof NonFiniteWeightError && error.row === 11 && error.column === 3,
    );
  });
});
