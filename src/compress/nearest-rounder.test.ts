import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { resolveTarget } from '../runtime/create-runner.ts';
import type { GroupScheme } from './group-quantizer.ts';
import { type Matrix, MatrixMath } from './matrix-math.ts';
import { NearestRounder } from './nearest-rounder.ts';

const ROWS = 37;
const COLUMNS = 192;

let state = 3;
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}

const values = Float32Array.from({ length: ROWS * COLUMNS }, (_, i) =>
  // A group of zeros, one of tiny ones, and some that stick out.
  i < 64 ? 0 : i < 128 ? 1e-9 * random() : random() * (i % 29 === 0 ? 3 : 1),
);
const importance = Float32Array.from({ length: COLUMNS }, () => 0.1 + random() ** 2);
const factors = Float32Array.from({ length: COLUMNS }, () => 0.5 + random() ** 2);

function matrixOf(math: MatrixMath): Matrix {
  const matrix = math.matrix(ROWS, COLUMNS);
  for (let row = 0; row < ROWS; row++) {
    matrix.values.set(values.subarray(row * COLUMNS, (row + 1) * COLUMNS), row * matrix.stride);
  }
  return matrix;
}

/** Everything that a rounder does to the same weights. */
function resultsOf(math: MatrixMath, scheme: GroupScheme, groupSize: number) {
  using weights = matrixOf(math);
  using rounded = math.matrix(ROWS, COLUMNS);
  using changed = math.matrix(ROWS, COLUMNS);
  using rounder = new NearestRounder(math, scheme, groupSize);
  const shrunk = rounder.grid(ROWS, COLUMNS);
  rounder.fit(weights, COLUMNS, 0.85, shrunk);
  const searched = rounder.grid(ROWS, COLUMNS);
  rounder.search(weights, COLUMNS, importance, searched);
  const alike = rounder.grid(ROWS, COLUMNS);
  rounder.search(weights, COLUMNS, null, alike);
  rounder.round(weights, COLUMNS, searched, rounded);
  rounder.change(weights, COLUMNS, factors, changed);
  return {
    scales: [...shrunk.scales, ...searched.scales, ...alike.scales],
    zeros: [...shrunk.zeros, ...searched.zeros, ...alike.zeros],
    rounded: [...rounded.values],
    changed: [...changed.values],
  };
}

const isNative = resolveTarget('auto').kind === 'x64';

describe('NearestRounder', () => {
  for (const target of ['auto', ...(isNative ? (['avx2'] as const) : [])] as const) {
    for (const symmetry of ['asymmetric', 'symmetric', 'fullRange'] as const) {
      it(`${symmetry} groups, target ${target}: the same as in plain code`, () => {
        using native = new MatrixMath(2, target);
        using plain = new MatrixMath(1, 'reference');
        for (const [bits, groupSize] of [
          [2, 16],
          [4, 64],
          [4, 192],
          [8, 24],
          [3, 12],
        ] as const) {
          const scheme = { bits, groupSize, symmetry, searchesRange: true };
          const seen = resultsOf(native, scheme, groupSize);
          const expected = resultsOf(plain, scheme, groupSize);
          for (const name of ['scales', 'zeros', 'rounded', 'changed'] as const) {
            // Where a value lies in the middle of two, the last bit of f32 or f64 decides.
            const others = seen[name].filter(
              (value, i) => Math.abs(value - expected[name][i]!) > 1e-6 * (1 + Math.abs(value)),
            );
            assert.ok(
              others.length <= seen[name].length / 1000,
              `${name}, ${bits} bits, groups of ${groupSize}: ${others.length}`,
            );
          }
        }
      });
    }
  }
});
