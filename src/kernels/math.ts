/**
 * Elementary functions as sequences of vector instructions, lane by lane.
 *
 * Each is a polynomial after range reduction, the same on every machine; results are normal numbers or zero, so flushing denormals changes nothing.
 * NaN in gives NaN out unless stated. Constants are loaded where they are used: a load costs what a register move would, and no register is held.
 * Polynomials of exp and tanh: Cephes (Moshier 1992). Knows nothing of rows or memory.
 */
import type { ActivationKind } from '../graph/ir.ts';
import type { KernelBuilder } from './builder.ts';
import type { Vector } from './kernel-ir.ts';

const LOG2_E = Math.LOG2E;
/** ln 2 in two parts: the first has 9 bits, so that its product with an exponent is exact. */
const LN2_HIGH = 0.693359375;
const LN2_LOW = -2.1219444e-4;
/** Above ln 2^-126: results of smaller arguments are zero. */
const EXP_MIN = -87.3365;
/** Largest f32 whose exponential is finite. */
const EXP_MAX = 88.72283;

/** coefficients[0] * x^n + ... + coefficients[n], one fused step each. */
function horner(k: KernelBuilder, x: Vector, coefficients: readonly number[]): Vector {
  let result = k.splatF32(coefficients[0]!);
  for (const c of coefficients.slice(1)) {
    const next = k.splatF32(c);
    k.fmaInto(next, result, x);
    result = next;
  }
  return result;
}

/** The same for an even number of coefficients, in pairs: half as many steps that wait for each other. `square` is x². */
function pairwise(
  k: KernelBuilder,
  x: Vector,
  square: Vector,
  coefficients: readonly number[],
): Vector {
  let result: Vector | undefined;
  for (let i = 0; i < coefficients.length; i += 2) {
    const pair = k.splatF32(coefficients[i + 1]!);
    k.fmaInto(pair, k.splatF32(coefficients[i]!), x);
    if (result) k.fmaInto(pair, result, square);
    result = pair;
  }
  return result!;
}

/** value * 2^exponent, for whole `exponent` and a normal result. */
function scaleByPowerOfTwo(k: KernelBuilder, value: Vector, exponent: Vector): Vector {
  const whole = k.unary('i32.fromF32', exponent);
  return k.binary('i32.add', value, k.shift('i32.shl', whole, 23));
}

/** value where a < b or either is NaN, else 0. `value` is finite, or NaN where the result keeps it. */
function keepWhereLess(k: KernelBuilder, value: Vector, a: Vector, b: Vector): Vector {
  return k.subF(value, k.keepWhereGe(value, a, b));
}

export function absF(k: KernelBuilder, x: Vector, into?: Vector): Vector {
  return k.binary('bits.and', x, k.splatBits(0x7fffffff), into);
}

/** e^x within 2 ulp; 0 below -87.3365, infinity above 88.7228. */
export function exp(k: KernelBuilder, x: Vector): Vector {
  const value = expAboveZero(k, x);
  return k.subF(value, k.keepWhereGe(value, k.splatF32(EXP_MIN), x));
}

/** e^x; some 1e-38 below -87.3365, which 1 + e^x does not tell from 0. */
function expAboveZero(k: KernelBuilder, x: Vector): Vector {
  const inRange = k.minF(k.splatF32(EXP_MAX), k.maxF(k.splatF32(EXP_MIN), x));
  const n = k.unary('f32.round', k.mulF(inRange, k.splatF32(LOG2_E)));
  const r = inRange;
  k.fnmaInto(r, n, k.splatF32(LN2_HIGH));
  k.fnmaInto(r, n, k.splatF32(LN2_LOW));
  const square = k.mulF(r, r);
  const p = pairwise(
    k,
    r,
    square,
    [
      1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
      5.0000001201e-1,
    ],
  );
  const sum = k.addF(r, k.splatF32(1));
  k.fmaInto(sum, p, square);
  const value = scaleByPowerOfTwo(k, sum, n);
  const saturation = k.splatF32(Number.POSITIVE_INFINITY);
  return k.addF(value, k.keepWhereGe(saturation, x, k.splatF32(88.722839)));
}

/** 1.5 * 2^23: in x + ROUNDER, for |x| < 2^22, the low bits are x rounded to a whole number, ties to even. */
const ROUNDER = 12582912;
/** 2^(-127) and less count as zero: of the normal numbers the least is 2^-126. */
const LEAST_EXPONENT = -127;
const ONE_BITS = 0x3f800000;

/** What `exp2From` needs to know of the whole number it counts exponents from. */
export interface Exp2Base {
  /** Every lane base - 127. */
  readonly lowest: Vector;
  /** Every lane 1.5 * 2^23 - base. */
  readonly rounder: Vector;
}

/** @param base a whole number in every lane, of at most 2^21 in magnitude */
export function exp2Base(k: KernelBuilder, base: Vector): Exp2Base {
  return {
    lowest: k.addF(base, k.splatF32(LEAST_EXPONENT)),
    rounder: k.subF(k.splatF32(ROUNDER), base),
  };
}

/**
 * 2^(x - base) for x <= base + 1/2, relative error below 2.5e-7: exactly 1 at x = base, exactly 0 from x = base - 127 down, and for NaN; in the unit
 * below 2^-126 a denormal or zero. The inner exponential of attention: that the base is whole saves the rounding of a difference, and all else that
 * follows from it is a power of two (`wholeExp2`).
 * Polynomial: degree 5, minimax in relative error on [-1/2, 1/2] (9.2e-8), made to be exactly 1 at 0.
 */
export function exp2From(k: KernelBuilder, { lowest, rounder }: Exp2Base, x: Vector): Vector {
  const inRange = k.maxF(x, lowest);
  const shifted = k.addF(inRange, rounder);
  const f = k.subF(inRange, k.subF(shifted, rounder));
  return k.binary('i32.add', horner(k, f, EXP2_COEFFICIENTS), k.shift('i32.shl', shifted, 23));
}

/** 2^x for whole x <= 0, exactly; 0 from -127 down. */
export function wholeExp2(k: KernelBuilder, x: Vector): Vector {
  const shifted = k.addF(k.maxF(x, k.splatF32(LEAST_EXPONENT)), k.splatF32(ROUNDER));
  return k.binary('i32.add', k.splatBits(ONE_BITS), k.shift('i32.shl', shifted, 23));
}

const EXP2_COEFFICIENTS = [
  0.0013264738796, 0.009671516668, 0.055507337526, 0.24022242024, 0.69314697757, 1,
];

/** 1 / (1 + e^-x) */
export function sigmoid(k: KernelBuilder, x: Vector): Vector {
  const one = k.splatF32(1);
  return k.divF(one, k.addF(expAboveZero(k, negate(k, x)), one));
}

/** x / (1 + e^-x) */
export function silu(k: KernelBuilder, x: Vector): Vector {
  return k.divF(x, k.addF(expAboveZero(k, negate(k, x)), k.splatF32(1)));
}

function negate(k: KernelBuilder, x: Vector): Vector {
  return k.binary('bits.xor', x, k.splatBits(0x80000000 | 0));
}

/** tanh x within 3 ulp: an odd polynomial below 0.625, 1 - 2 / (e^2|x| + 1) above. */
export function tanh(k: KernelBuilder, x: Vector): Vector {
  // Clamped, so that the polynomial stays finite where it is not wanted.
  const near = k.maxF(k.splatF32(-1), k.minF(k.splatF32(1), x));
  const square = k.mulF(near, near);
  const p = horner(
    k,
    square,
    [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1],
  );
  k.fmaInto(near, k.mulF(p, square), near);

  const size = absF(k, x);
  const e = exp(k, k.addF(size, size));
  const one = k.splatF32(1);
  const far = k.subF(one, k.divF(k.splatF32(2), k.addF(e, one)));
  const signed = k.binary('bits.or', far, k.binary('bits.and', x, k.splatBits(0x80000000 | 0)));

  const boundary = k.splatF32(0.625);
  const kept = keepWhereLess(k, near, size, boundary);
  return k.addF(kept, k.keepWhereGe(signed, size, boundary));
}

/**
 * x * Φ(x), absolute error below 1e-6: max(x, 0) - |x| / 2 * erfc(|x| / √2), so that the tail keeps its relative accuracy too.
 * erfc: Abramowitz & Stegun 1964, 7.1.26.
 */
export function gelu(k: KernelBuilder, x: Vector): Vector {
  const size = absF(k, x);
  const denominator = k.splatF32(1);
  k.fmaInto(denominator, size, k.splatF32(0.3275911 * Math.SQRT1_2));
  const t = k.divF(k.splatF32(1), denominator);
  const p = horner(k, t, [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592]);
  const halfSquare = k.mulF(k.mulF(x, k.splatF32(-0.5)), x);
  const erfc = k.mulF(k.mulF(p, t), exp(k, halfSquare));
  const result = k.maxF(k.zero(), x);
  k.fnmaInto(result, k.mulF(size, k.splatF32(0.5)), erfc);
  return result;
}

/** x / 2 * (1 + tanh(√(2/π) (x + 0.044715 x³))), as x * sigmoid of twice the argument. */
export function geluTanh(k: KernelBuilder, x: Vector): Vector {
  const factor = -2 * Math.sqrt(2 / Math.PI);
  const inner = k.splatF32(factor);
  k.fmaInto(inner, k.mulF(x, x), k.splatF32(factor * 0.044715));
  return k.divF(x, k.addF(expAboveZero(k, k.mulF(inner, x)), k.splatF32(1)));
}

export function relu(k: KernelBuilder, x: Vector): Vector {
  return k.maxF(k.zero(), x);
}

const ACTIVATIONS: Record<ActivationKind, (k: KernelBuilder, x: Vector) => Vector> = {
  silu,
  gelu,
  geluTanh,
  relu,
  tanh,
};

export function activation(k: KernelBuilder, kind: ActivationKind, x: Vector): Vector {
  return ACTIVATIONS[kind](k, x);
}
