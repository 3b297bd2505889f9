import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { autoround } from './autoround.ts';
import {
  dequantize,
  type GroupScheme,
  type QuantizedMatrix,
  SYMMETRIES,
  storedScale,
} from './group-quantizer.ts';
import { InputStatistics } from './input-statistics.ts';
import { type Matrix, MatrixMath } from './matrix-math.ts';
import { NearestRounder } from './nearest-rounder.ts';
import { OutputNorm } from './output-error.ts';
import { settleCodes } from './settle-codes.ts';
import { signRound } from './sign-rounding.ts';
import { roundPlainly } from './testing/round-plainly.ts';

const ROWS = 40;
const COLUMNS = 192;
const TOKENS = 500;

let state = 11;
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}

const w = Float32Array.from({ length: ROWS * COLUMNS }, () => random() + 0.5 * random() ** 9);
/** Inputs that go together, some louder than others. */
const x = new Float32Array(TOKENS * COLUMNS);
for (let t = 0; t < TOKENS; t++) {
  const [a, b] = [random(), random()];
  for (let j = 0; j < COLUMNS; j++) {
    const own = 0.5 * random() * (j % 13 === 0 ? 5 : 1);
    x[t * COLUMNS + j] = own + a * Math.sin(j) + b * Math.cos(3 * j);
  }
}

interface Linear extends Disposable {
  readonly math: MatrixMath;
  readonly weights: Matrix;
  readonly statistics: InputStatistics;
  errorOf(quantized: QuantizedMatrix): number;
}

function linear(target: 'auto' | 'reference' = 'auto', rows = ROWS): Linear {
  const math = new MatrixMath(1, target);
  const weights = math.matrix(rows, COLUMNS);
  for (let row = 0; row < rows; row++) {
    const from = (row % ROWS) * COLUMNS;
    weights.values.set(w.subarray(from, from + COLUMNS), row * weights.stride);
  }
  const statistics = new InputStatistics(math, COLUMNS);
  statistics.add(x, COLUMNS, TOKENS);
  const norm = new OutputNorm(math, statistics.moments());
  return {
    math,
    weights,
    statistics,
    errorOf(quantized) {
      const change = math.matrix(rows, COLUMNS);
      for (const [i, value] of dequantize(quantized).entries()) {
        const at = Math.floor(i / COLUMNS) * change.stride + (i % COLUMNS);
        change.values[at] = value - weights.values[at]!;
      }
      const error = norm.of(change);
      change[Symbol.dispose]();
      return error;
    },
    [Symbol.dispose]() {
      for (const each of [norm, statistics, weights, math]) each[Symbol.dispose]();
    },
  };
}

function checkCodes({ codes, zeros, scales, bits }: QuantizedMatrix): void {
  assert.ok(codes.every((code) => code < 2 ** bits));
  assert.ok(zeros.every((zero) => zero < 2 ** bits));
  assert.ok(scales.every((scale) => scale === storedScale(scale)));
}

function nearest({ bits, groupSize, symmetry }: GroupScheme): QuantizedMatrix {
  const scheme = { bits, groupSize, symmetry, searchesRange: false };
  return roundPlainly(w, ROWS, COLUMNS, scheme);
}

const schemes = SYMMETRIES.flatMap((symmetry) =>
  ([16, 96, 'row'] as const).map((groupSize, i): GroupScheme => {
    return { bits: [4, 3, 2][i]!, groupSize, symmetry, searchesRange: false };
  }),
);
const titleOf = ({ bits, groupSize, symmetry }: GroupScheme): string =>
  `${bits} bits, groups of ${groupSize}, ${symmetry}`;

describe('settling codes', () => {
  for (const scheme of schemes) {
    it(`${titleOf(scheme)}: ends where no code alone can gain, with less error than before`, () => {
      using given = linear();
      const { math, weights, statistics } = given;
      const moments = statistics.moments();
      const quantized = nearest(scheme);
      const before = given.errorOf(quantized);
      let last = before;
      for (let sweep = 0; sweep < 40; sweep++) {
        settleCodes(math, weights, moments, quantized, { sweeps: 1 });
        const error = given.errorOf(quantized);
        assert.ok(error <= last * (1 + 1e-5), `${error} after ${last}`);
        last = error;
      }
      checkCodes(quantized);
      assert.ok(last < 0.7 * before, `${last} of ${before}`);
      for (let i = 3; i < quantized.codes.length; i += 97) {
        for (const by of [-1, 1]) {
          const code = quantized.codes[i]! + by;
          if (code < 0 || code >= 2 ** scheme.bits) continue;
          const moved = { ...quantized, codes: quantized.codes.slice() };
          moved.codes[i] = code;
          assert.ok(given.errorOf(moved) > last * (1 - 1e-5), `code ${i} by ${by}`);
        }
      }
    });
  }

  it('is the same for rows beyond the first piece of them', () => {
    const settled = (rows: number): QuantizedMatrix => {
      using given = linear('auto', rows);
      const { math, weights, statistics } = given;
      const scheme = schemes[0]!;
      const { codes, ...rest } = nearest(scheme);
      const repeated = <T extends Uint8Array | Float32Array>(values: T): T => {
        const whole = new (values.constructor as new (length: number) => T)(
          (values.length / ROWS) * rows,
        );
        for (let i = 0; i < whole.length; i++) whole[i] = values[i % values.length]!;
        return whole;
      };
      const quantized = {
        ...{ ...rest, rows, codes: repeated(codes) },
        ...{ scales: repeated(rest.scales), zeros: repeated(rest.zeros) },
      };
      settleCodes(math, weights, statistics.moments(), quantized, { sweeps: 2 });
      return quantized;
    };
    const all = settled(8 * ROWS);
    const some = settled(ROWS);
    assert.deepEqual(all.codes.subarray(7 * ROWS * COLUMNS), some.codes);
    assert.deepEqual(all.scales.subarray(7 * some.scales.length), some.scales);
  });
});

describe('sign rounding', () => {
  for (const scheme of schemes) {
    it(`${titleOf(scheme)}: begins with rounding to nearest and is never worse, the same twice`, () => {
      using given = linear();
      const { math, weights, statistics } = given;
      const groupSize = scheme.groupSize === 'row' ? COLUMNS : scheme.groupSize;
      using rounder = new NearestRounder(math, scheme, groupSize);
      const grid = rounder.grid(ROWS, COLUMNS);
      rounder.fit(weights, COLUMNS, 1, grid);
      const round = (iterations: number): QuantizedMatrix =>
        signRound(math, weights, statistics.moments(), { scheme, groupSize, grid, iterations });
      const start = round(0);
      assert.deepEqual(start, nearest(scheme));
      const learned = round(60);
      checkCodes(learned);
      assert.deepEqual(round(60), learned);
      const [before, after] = [given.errorOf(start), given.errorOf(learned)];
      assert.ok(after < 0.85 * before, `${after} of ${before}`);
      assert.ok(given.errorOf(round(1)) <= before);
    });
  }
});

describe('autoround', () => {
  for (const scheme of schemes) {
    it(`${titleOf(scheme)}: much less error than rounding to nearest, and leaves the weights alone`, () => {
      using given = linear();
      const { math, weights, statistics } = given;
      const before = weights.values.slice();
      const options = { scheme, iterations: 20 };
      const { matrix, relativeError } = autoround(math, weights, statistics, 'w', options);
      checkCodes(matrix);
      assert.deepEqual(weights.values, before);
      const [ours, rounded] = [given.errorOf(matrix), given.errorOf(nearest(scheme))];
      assert.ok(ours < 0.5 * rounded, `${ours} of ${rounded}`);
      assert.ok(relativeError > 0 && relativeError < 1);
    });
  }

  it('comes out alike without native code', () => {
    const errors = (['auto', 'reference'] as const).map((target) => {
      using given = linear(target);
      const { math, weights, statistics } = given;
      const scheme = schemes[1]!;
      const { matrix } = autoround(math, weights, statistics, 'w', { scheme, iterations: 5 });
      return given.errorOf(matrix);
    });
    assert.ok(Math.abs(errors[0]! / errors[1]! - 1) < 0.02, `${errors}`);
  });

  it('leaves inputs that never come at their nearest codes', () => {
    using given = linear();
    const { math, weights } = given;
    const silent = x.slice();
    for (let t = 0; t < TOKENS; t++) silent[t * COLUMNS + 5] = 0;
    using other = new InputStatistics(math, COLUMNS);
    other.add(silent, COLUMNS, TOKENS);
    const scheme = schemes[0]!;
    const { matrix } = autoround(math, weights, other, 'w', { scheme, iterations: 10 });
    const values = dequantize(matrix);
    for (let row = 0; row < ROWS; row++) {
      const at = row * COLUMNS + 5;
      const scale = Math.abs(matrix.scales[Math.floor(at / 16)]!);
      const code = matrix.codes[at]!;
      if (code === 0 || code === 15) continue;
      assert.ok(Math.abs(values[at]! - w[at]!) <= 0.5001 * scale, `row ${row}`);
    }
  });
});
