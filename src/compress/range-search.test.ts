import assert from 'node:assert/strict';
import { it } from 'node:test';
import { type GroupScheme, SYMMETRIES } from './group-quantizer.ts';
import { type Matrix, MatrixMath } from './matrix-math.ts';
import { type GroupGrid, NearestRounder } from './nearest-rounder.ts';
import { OutputNorm } from './output-error.ts';
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

/** The same without what groups have in common. */
function withinGroups(math: MatrixMath, { values, stride }: Matrix): Matrix {
  const moments = math.matrix(COLUMNS, COLUMNS);
  for (let i = 0; i < COLUMNS; i++) {
    for (let j = 0; j < COLUMNS; j++) {
      const at = i * stride + j;
      if (Math.floor(i / GROUP) === Math.floor(j / GROUP)) moments.values[at] = values[at]!;
    }
  }
  return moments;
}

for (const symmetry of SYMMETRIES) {
  it(`${symmetry}: less error of the outputs than with whole ranges, and than with groups on their own`, () => {
    using math = new MatrixMath(1);
    const scheme: GroupScheme = { bits: 3, groupSize: GROUP, symmetry, searchesRange: false };
    using rounder = new NearestRounder(math, scheme, GROUP);
    using moments = momentsOf(math);
    using ownMoments = withinGroups(math, moments);
    using norm = new OutputNorm(math, moments);
    using weights = math.matrix(ROWS, COLUMNS);
    for (let i = 0; i < ROWS * COLUMNS; i++) weights.values[i] = random() + 0.3 * random() ** 9;
    const errorOf = (grid: GroupGrid): number => {
      using change = math.matrix(ROWS, COLUMNS);
      rounder.round(weights, COLUMNS, grid, change);
      for (let i = 0; i < ROWS * COLUMNS; i++) change.values[i]! -= weights.values[i]!;
      return norm.of(change);
    };
    const whole = rounder.grid(ROWS, COLUMNS);
    rounder.fit(weights, COLUMNS, 1, whole);
    const alone = searchRanges(math, weights, ownMoments, rounder, scheme);
    const together = searchRanges(math, weights, moments, rounder, scheme);
    const errors = [together, alone, whole].map(errorOf);
    assert.ok(errors[0]! < 0.95 * errors[1]! && errors[1]! < 0.7 * errors[2]!, String(errors));
  });
}
