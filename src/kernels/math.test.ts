import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, Vector, VectorMachine } from './kernel-ir.ts';
import * as math from './math.ts';
import { f32Of, nativeMachineNames, randomSource, runEverywhere } from './testing/run-kernel.ts';

type Macro = (k: KernelBuilder, x: Vector) => Vector;

/** out[i] = macro(x[i]); `vectors` vectors. */
function mapProgram(machine: VectorMachine, macro: Macro, count: number): KernelProgram {
  const k = new KernelBuilder('map', machine);
  const x = k.arg('x');
  const out = k.arg('out');
  k.loop(count / k.lanes, () => {
    k.store(k.at(out), macro(k, k.load(k.at(x))));
    k.addTo(x, 4 * k.lanes);
    k.addTo(out, 4 * k.lanes);
  });
  return k.finish();
}

const SWEEP = 1 << 18;
const INTERPRETED_SWEEP = 1 << 11;
const MIN_NORMAL = 2 ** -126;

function sweep(
  macro: Macro,
  values: (i: number, count: number) => number,
  check: (x: number, y: number) => void,
): void {
  for (const [count, nativeOnly] of [
    [INTERPRETED_SWEEP, false],
    [SWEEP, true],
  ] as const) {
    const x = Float32Array.from({ length: count }, (_, i) => values(i, count));
    runEverywhere({
      record: (machine) => mapProgram(machine, macro, count),
      fields: { x, out: new Float32Array(count) },
      chunks: [0],
      nativeOnly,
      onResult: ({ out }) => {
        f32Of(out!).forEach((y, i) => {
          check(x[i]!, y);
        });
      },
    });
  }
}

const linear =
  (from: number, to: number) =>
  (i: number, count: number): number =>
    from + ((to - from) * i) / (count - 1);

/** Both signs, all magnitudes from 1e-30 to 1e4. */
const magnitudes = (i: number, count: number): number =>
  (i % 2 ? -1 : 1) * 10 ** (-30 + (34 * i) / count);

/** Distance in units in the last place of the exact value. */
function ulps(y: number, exact: number): number {
  const exponent = Math.max(-126, Math.floor(Math.log2(Math.abs(exact) || MIN_NORMAL)));
  return Math.abs(y - exact) / 2 ** (exponent - 23);
}

/** `map` runs on one value in every lane. */
function atPoint(macro: Macro, x: number): number[] {
  const results: number[] = [];
  runEverywhere({
    record: (machine) => mapProgram(machine, macro, 16),
    fields: { x: new Float32Array(16).fill(x), out: new Float32Array(16) },
    chunks: [0],
    onResult: ({ out }) => results.push(f32Of(out!)[15]!),
  });
  return results;
}

function assertEverywhere(macro: Macro, x: number, expected: number): void {
  for (const y of atPoint(macro, x)) {
    assert.ok(
      Object.is(y, Math.fround(expected)) || y === expected,
      `f(${x}) = ${y}, expected ${expected}`,
    );
  }
}

test(`exp is within 2 ulp over its whole range (${nativeMachineNames()})`, () => {
  let worst = 0;
  sweep(math.exp, linear(-87.336, 88.7228), (x, y) => {
    worst = Math.max(worst, ulps(y, Math.exp(x)));
  });
  assert.ok(worst <= 2, `${worst} ulp`);
});

test('exp gives exactly 0 far below, infinity far above, 1 at 0, and keeps NaN', () => {
  for (const x of [-87.34, -100, -1e30, Number.NEGATIVE_INFINITY]) assertEverywhere(math.exp, x, 0);
  for (const x of [88.73, 1e5, 1e30, Number.POSITIVE_INFINITY]) {
    assertEverywhere(math.exp, x, Number.POSITIVE_INFINITY);
  }
  assertEverywhere(math.exp, 0, 1);
  for (const macro of [
    math.exp,
    math.silu,
    math.sigmoid,
    math.tanh,
    math.gelu,
    math.geluTanh,
    math.relu,
  ]) {
    for (const y of atPoint(macro, Number.NaN))
      assert.ok(Number.isNaN(y), `${macro.name}(NaN) = ${y}`);
  }
});

/** 2^(x - base) */
const exp2From =
  (base: number): Macro =>
  (k, x) =>
    math.exp2From(k, math.exp2Base(k, k.splatF32(base)), x);

test('exp2From stays within 2.5e-7, is 1 at its base and exactly 0 from 127 below it', () => {
  for (const base of [0, 3, -77, 1000, -(2 ** 21), 2 ** 21]) {
    // Where the values of x lie further apart than 2^-12 the sweep takes the nearest ones.
    let worst = 0;
    sweep(exp2From(base), linear(base - 125.5, base + 0.5), (x, y) => {
      worst = Math.max(worst, Math.abs(y / 2 ** (x - base) - 1));
    });
    assert.ok(worst < 2.5e-7, `base ${base}: ${worst}`);
    assertEverywhere(exp2From(base), base, 1);
    for (const x of [base - 127, base - 1e4, -5e29, Number.NEGATIVE_INFINITY, Number.NaN]) {
      assertEverywhere(exp2From(base), x, 0);
    }
  }
  sweep(exp2From(0), linear(-127, -125.5), (x, y) => {
    assert.ok(y >= 0 && y <= 2 ** -125, `2^${x} = ${y}`);
  });
});

test('wholeExp2 is exact, and 0 from -127 down', () => {
  for (const x of [0, -1, -2, -23, -125, -126]) assertEverywhere(math.wholeExp2, x, 2 ** x);
  for (const x of [-127, -128, -1000, -(2 ** 22), -1e30]) assertEverywhere(math.wholeExp2, x, 0);
});

test('sigmoid and silu follow f64 closely', () => {
  const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
  sweep(math.sigmoid, linear(-80, 80), (x, y) => {
    assert.ok(ulps(y, sigmoid(x)) <= 4, `sigmoid(${x}) = ${y}`);
  });
  sweep(math.silu, linear(-80, 80), (x, y) => {
    assert.ok(ulps(y, x * sigmoid(x)) <= 4, `silu(${x}) = ${y}`);
  });
  assertEverywhere(math.silu, -1000, -0);
  assertEverywhere(math.silu, 1000, 1000);
});

test('tanh is within 3 ulp at every magnitude', () => {
  let worst = 0;
  const check = (x: number, y: number): void => {
    worst = Math.max(worst, ulps(y, Math.tanh(x)));
  };
  sweep(math.tanh, linear(-12, 12), check);
  sweep(math.tanh, magnitudes, check);
  assert.ok(worst <= 3, `${worst} ulp`);
  assertEverywhere(math.tanh, Number.POSITIVE_INFINITY, 1);
  assertEverywhere(math.tanh, Number.NEGATIVE_INFINITY, -1);
});

/** Φ(x) in f64: Taylor series around 0, continued fraction in the tails. */
function phi(x: number): number {
  const z = Math.abs(x);
  if (z < 3) {
    let term = z;
    let sum = z;
    for (let n = 1; n < 200 && Math.abs(term) > 1e-18; n++) {
      term *= (z * z) / (2 * n + 1);
      sum += term;
    }
    const half = sum * Math.exp(-0.5 * z * z) * (1 / Math.sqrt(2 * Math.PI));
    return x >= 0 ? 0.5 + half : 0.5 - half;
  }
  let fraction = 0;
  for (let n = 200; n >= 1; n--) fraction = n / (z + fraction);
  const tail = (Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI)) * (1 / (z + fraction));
  return x >= 0 ? 1 - tail : tail;
}

test('gelu has an absolute error below 1e-6 and geluTanh follows f64', () => {
  const error = { gelu: 0, geluTanh: 0 };
  sweep(math.gelu, linear(-12, 12), (x, y) => {
    error.gelu = Math.max(error.gelu, Math.abs(y - x * phi(x)) / Math.max(1, Math.abs(x)));
  });
  sweep(math.geluTanh, linear(-12, 12), (x, y) => {
    const u = Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
    const exact = x / (1 + Math.exp(-2 * u));
    error.geluTanh = Math.max(error.geluTanh, Math.abs(y - exact) / Math.max(1, Math.abs(x)));
  });
  assert.ok(error.gelu < 1e-6, `gelu ${error.gelu}`);
  assert.ok(error.geluTanh < 5e-7, `geluTanh ${error.geluTanh}`);
  for (const macro of [math.gelu, math.geluTanh]) {
    assertEverywhere(macro, 0, 0);
    assertEverywhere(macro, 1000, 1000);
    for (const y of atPoint(macro, -1000)) assert.ok(y === 0, `${macro.name}(-1000) = ${y}`);
  }
});

test('random bit patterns never make exp leave [0, infinity]', () => {
  const random = randomSource(5);
  const bits = new Int32Array(1);
  const value = new Float32Array(bits.buffer);
  sweep(
    math.exp,
    () => {
      bits[0] = Math.floor(random() * 2 ** 32) | 0;
      return value[0]!;
    },
    (x, y) => {
      assert.ok(Number.isNaN(x) ? Number.isNaN(y) : y >= 0, `exp(${x}) = ${y}`);
    },
  );
});
