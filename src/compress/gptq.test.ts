import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { resolveTarget } from '../runtime/create-runner.ts';
import { gptq } from './gptq.ts';
import { dequantize, type GroupScheme } from './group-quantizer.ts';
import { InputStatistics } from './input-statistics.ts';
import { type Matrix, MatrixMath } from './matrix-math.ts';
import { OutputNorm } from './output-error.ts';
import { roundPlainly } from './testing/round-plainly.ts';

let state = 7;
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}

const isNative = resolveTarget('auto').kind === 'x64';
const targets = ['reference', 'auto', ...(isNative ? (['avx2'] as const) : [])] as const;

const ROWS = 48;
const COLUMNS = 192;
const TOKENS = 600;

/** Inputs with a few strong directions, as activations have. */
function inputs(): Float32Array {
  const directions = Array.from({ length: 12 }, () =>
    Float32Array.from({ length: COLUMNS }, (_, j) => random() * (j % 17 === 0 ? 4 : 1)),
  );
  const x = new Float32Array(TOKENS * COLUMNS);
  for (let t = 0; t < TOKENS; t++) {
    for (const direction of directions) {
      const strength = random() * 2;
      for (let j = 0; j < COLUMNS; j++) x[t * COLUMNS + j]! += strength * direction[j]!;
    }
    for (let j = 0; j < COLUMNS; j++) x[t * COLUMNS + j]! += 0.2 * random();
  }
  return x;
}

const x = inputs();
const w = Float32Array.from({ length: ROWS * COLUMNS }, random);

function matrixOf(math: MatrixMath, values: Float32Array): Matrix {
  const matrix = math.matrix(ROWS, COLUMNS);
  for (let row = 0; row < ROWS; row++) {
    matrix.values.set(values.subarray(row * COLUMNS, (row + 1) * COLUMNS), row * matrix.stride);
  }
  return matrix;
}

describe('InputStatistics', () => {
  it('gathers second moments and magnitudes, in pieces of any size', () => {
    using math = new MatrixMath(1);
    using statistics = new InputStatistics(math, COLUMNS);
    for (const [start, count] of [
      [0, 1],
      [1, 250],
      [251, TOKENS - 251],
    ] as const) {
      statistics.add(x.subarray(start * COLUMNS), COLUMNS, count);
    }
    const { values, stride } = statistics.moments();
    for (const [i, j] of [
      [0, 0],
      [3, 190],
      [190, 3],
      [100, 101],
    ] as const) {
      let sum = 0;
      for (let t = 0; t < TOKENS; t++) sum += x[t * COLUMNS + i]! * x[t * COLUMNS + j]!;
      const mean = sum / TOKENS;
      assert.ok(
        Math.abs(values[i * stride + j]! - mean) < 1e-3 * (1 + Math.abs(mean)),
        `${i} ${j}`,
      );
    }
    let magnitude = 0;
    for (let t = 0; t < TOKENS; t++) magnitude += Math.abs(x[t * COLUMNS + 9]!) / TOKENS;
    assert.ok(Math.abs(statistics.meanMagnitudes()[9]! - magnitude) < 1e-3);
  });

  it('says the same on every target, of any width', () => {
    for (const width of [1, 50, 160]) {
      const scales = Float32Array.from({ length: width }, () => 1.5 + random());
      const loud = x.map((value, i) => (i < 3 * COLUMNS ? 90 * value : value));
      const [expected, ...others] = targets.map((target) => {
        const math = new MatrixMath(2, target);
        using statistics = new InputStatistics(math, width);
        for (const [start, isExact] of [
          [0, true],
          [200, true],
          [400, false],
        ] as const) {
          const inputs = loud.subarray(start * COLUMNS);
          const exact = { inputs: x.subarray(start * COLUMNS), scales };
          statistics.add(inputs, COLUMNS, 200, isExact ? exact : null);
        }
        const { drift, moments } = statistics.drift()!;
        const whole = statistics.moments();
        const all = [drift, moments, whole].flatMap(({ values, stride }) =>
          Array.from({ length: width }, (_, i) => [
            ...values.subarray(i * stride, i * stride + width),
          ]),
        );
        math[Symbol.dispose]();
        return [...all.flat(), ...statistics.meanMagnitudes()];
      });
      const largest = expected!.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      for (const seen of others) {
        const off = seen.map((value, i) => Math.abs(value - expected![i]!));
        assert.ok(Math.max(...off) <= 2e-5 * largest, `${width}: ${Math.max(...off)} ${largest}`);
      }
    }
  });

  it('lets no single token decide', () => {
    using math = new MatrixMath(1);
    const meanOf = (first: number): number => {
      const loud = x.slice();
      for (let j = 0; j < COLUMNS; j++) loud[j]! *= first;
      using statistics = new InputStatistics(math, COLUMNS);
      statistics.add(loud, COLUMNS, TOKENS);
      return statistics.meanSquares().reduce((sum, square) => sum + square, 0);
    };
    // Of 600 tokens, one may count as four.
    assert.ok(meanOf(1000) < 1.02 * meanOf(1), `${meanOf(1000)} ${meanOf(1)}`);
  });
});

describe('gptq', () => {
  using math = new MatrixMath(2);
  const statistics = new InputStatistics(math, COLUMNS);
  statistics.add(x, COLUMNS, TOKENS);
  const errorOf = (values: Float32Array): number => {
    using difference = matrixOf(
      math,
      values.map((v, i) => v - w[i]!),
    );
    using whole = matrixOf(math, w);
    using norm = new OutputNorm(math, statistics.moments());
    return norm.of(difference) / norm.of(whole);
  };
  const errorOfNearest = (scheme: GroupScheme): number =>
    errorOf(dequantize(roundPlainly(w, ROWS, COLUMNS, scheme)));
  for (const groupSize of [32, 64, 'row'] as const) {
    for (const symmetry of ['symmetric', 'asymmetric'] as const) {
      const scheme: GroupScheme = { bits: 4, groupSize, symmetry, searchesRange: false };
      const nearest = errorOfNearest(scheme);
      for (const order of ['stored', 'importance'] as const) {
        using weights = matrixOf(math, w);
        const result = gptq(math, weights, statistics, 'w', { scheme, order, damping: 0.01 });
        const error = errorOf(dequantize(result.matrix));
        it(`${symmetry} groups of ${groupSize}, ${order} order: well below rounding`, () => {
          assert.ok(error < 0.4 * nearest, `${error} ${nearest}`);
          assert.equal(result.damping, 0.01);
          assert.ok(Math.abs(result.relativeError - error) < 1e-3 * error);
        });
      }
    }
  }

  it('rounds the same on every target', () => {
    for (const symmetry of ['symmetric', 'asymmetric'] as const) {
      for (const [bits, groupSize, order] of [
        [4, 64, 'importance'],
        [8, 12, 'importance'],
        [3, 96, 'stored'],
        [4, 6, 'stored'],
      ] as const) {
        const scheme: GroupScheme = { bits, groupSize, symmetry, searchesRange: true };
        const codesOf = (target: (typeof targets)[number], threads: number): Uint8Array => {
          using own = new MatrixMath(threads, target);
          using inputs = new InputStatistics(own, COLUMNS);
          inputs.add(x, COLUMNS, TOKENS);
          using weights = matrixOf(own, w);
          return gptq(own, weights, inputs, 'w', { scheme, order, damping: 0.01 }).matrix.codes;
        };
        const expected = codesOf('reference', 1);
        for (const target of targets) {
          const codes = codesOf(target, 2);
          assert.deepEqual(codes, codesOf(target, 1), 'on any number of threads');
          // Where a value lies in the middle of two codes, the order of summation decides, and what follows differs.
          const others = codes.filter((code, i) => code !== expected[i]);
          assert.ok(others.length < 0.002 * w.length, `${target}, ${bits} bits: ${others.length}`);
        }
      }
    }
  });

  it('dead inputs and moments that cannot be factored do no harm', () => {
    using own = new MatrixMath(1);
    using few = new InputStatistics(own, COLUMNS);
    // One token: the moments have rank one; and half of its inputs are zero.
    const token = x.slice(0, COLUMNS).map((v, j) => (j % 2 === 0 ? 0 : v));
    few.add(token, COLUMNS, 1);
    using weights = matrixOf(own, w);
    const scheme: GroupScheme = {
      bits: 4,
      groupSize: 64,
      symmetry: 'asymmetric',
      searchesRange: false,
    };
    const { matrix, relativeError } = gptq(own, weights, few, 'w', {
      scheme,
      order: 'importance',
      damping: 0.01,
    });
    assert.ok(relativeError < 0.05);
    assert.ok(matrix.scales.every(Number.isFinite));
  });
});
