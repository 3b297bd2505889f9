import assert from 'node:assert/strict';
import { it } from 'node:test';
import { type GroupScheme, SYMMETRIES } from './group-quantizer.ts';
import { type Matrix, MatrixMath } from './matrix-math.ts';
import { type GroupGrid, NearestRounder } from './nearest-rounder.ts';
import { searchRanges } from './range-search.ts';

const ROWS = 24;
const COLUMNS = 64;
const GROUP = 32;

let state = 5;
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}

/** Moments of inputs that go together within groups, and unlike from channel to channel. */
function momentsOf(math: MatrixMath): Matrix {
  const moments = math.matrix(COLUMNS, COLUMNS);
  for (let t = 0; t < 200; t++) {
    const common = random();
    const x = Array.from({ length: COLUMNS }, (_, j) => (random() + common) * (1 + (j % 5)));
    for (let i = 0; i < COLUMNS; i++) {
      for (let j = 0; j < COLUMNS; j++) moments.values[i * moments.stride + j]! += x[i]! * x[j]!;
    }
  }
  return moments;
}

for (const symmetry of SYMMETRIES) {
  it(`${symmetry}: less error of each group's outputs than with its whole range`, () => {
    using math = new MatrixMath(1);
    const scheme: GroupScheme = { bits: 3, groupSize: GROUP, symmetry, searchesRange: false };
    const rounder = new NearestRounder(scheme, GROUP);
    using moments = momentsOf(math);
    using weights = math.matrix(ROWS, COLUMNS);
    for (let i = 0; i < ROWS * COLUMNS; i++) weights.values[i] = random() + 0.3 * random() ** 9;
    const errorsOf = (grid: GroupGrid): number[] => {
      using rounded = math.matrix(ROWS, COLUMNS);
      rounder.round(weights, COLUMNS, grid, rounded);
      const change = rounded.values.map((v, i) => v - weights.values[i]!);
      return Array.from(grid.scales, (_, group) => {
        const column = (group % 2) * GROUP;
        const at = Math.floor(group / 2) * COLUMNS + column;
        let error = 0;
        for (let i = 0; i < GROUP; i++) {
          for (let j = 0; j < GROUP; j++) {
            const moment = moments.values[(column + i) * moments.stride + column + j]!;
            error += change[at + i]! * change[at + j]! * moment;
          }
        }
        return error;
      });
    };
    const whole = rounder.grid(ROWS, COLUMNS);
    rounder.fit(weights, COLUMNS, 1, whole);
    const before = errorsOf(whole);
    const after = errorsOf(searchRanges(math, weights, moments, rounder, scheme));
    const sum = (errors: number[]): number => errors.reduce((total, each) => total + each, 0);
    assert.ok(after.every((error, i) => error <= 1.001 * before[i]!));
    assert.ok(sum(after) < 0.7 * sum(before), `${sum(after)} of ${sum(before)}`);
  });
}
