import assert from 'node:assert/strict';
import { it } from 'node:test';
import { alignToExact } from './align-to-exact.ts';
import { InputStatistics } from './input-statistics.ts';
import { MatrixMath } from './matrix-math.ts';

const ROWS = 5;
const COLUMNS = 70;
const TOKENS = 400;

it('finds the weights that give the exact outputs from inputs that a linear map has changed', () => {
  let state = 11;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
  const x = Float32Array.from({ length: TOKENS * COLUMNS }, random);
  const w = Float32Array.from({ length: ROWS * COLUMNS }, random);
  // What earlier layers make of x: each input with some of its right neighbour, which can be undone.
  const changed = x.map((v, i) => v + (i % COLUMNS < COLUMNS - 1 ? 0.4 * x[i + 1]! : 0));
  const scales = Float32Array.from({ length: COLUMNS }, (_, j) => 1 + (j % 3));
  const scaled = changed.map((v, i) => v / scales[i % COLUMNS]!);
  using math = new MatrixMath(1);
  using statistics = new InputStatistics(math, COLUMNS);
  // Exact inputs of a part are enough, since the map is the same everywhere.
  const exact = { inputs: x.subarray(0, 300 * COLUMNS), scales };
  statistics.add(scaled.subarray(0, 300 * COLUMNS), COLUMNS, 300, exact);
  statistics.add(scaled.subarray(300 * COLUMNS), COLUMNS, 100);
  const drift = statistics.drift();
  assert.ok(drift !== null);
  /** Mean square of W x - W' x̂, over that of W x, after an alignment of this strength. */
  const errorAfter = (strength: number): number => {
    using weights = math.matrix(ROWS, COLUMNS);
    for (let i = 0; i < w.length; i++) {
      weights.values[Math.floor(i / COLUMNS) * weights.stride + (i % COLUMNS)] =
        w[i]! * scales[i % COLUMNS]!;
    }
    alignToExact(math, weights, drift, { strength, damping: 1e-5 });
    let error = 0;
    let whole = 0;
    for (let t = 0; t < TOKENS; t++) {
      for (let row = 0; row < ROWS; row++) {
        let exact = 0;
        let got = 0;
        for (let j = 0; j < COLUMNS; j++) {
          exact += w[row * COLUMNS + j]! * x[t * COLUMNS + j]!;
          got += weights.values[row * weights.stride + j]! * scaled[t * COLUMNS + j]!;
        }
        error += (got - exact) ** 2;
        whole += exact ** 2;
      }
    }
    return error / whole;
  };
  const [none, half, all] = [errorAfter(0), errorAfter(0.5), errorAfter(1)];
  assert.ok(none > 0.05, `${none}`);
  assert.ok(Math.abs(half - none / 4) < 0.02 * none, `${half} of ${none}`);
  assert.ok(all < 1e-4 * none, `${all} of ${none}`);
});
