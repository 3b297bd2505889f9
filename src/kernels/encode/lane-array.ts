/**
 * Where encoders keep what they work on: values whose lanes are blocks, which do not depend on each other, so that each is computed in the very order that
 * one block alone would be.
 */
import type { KernelBuilder, VectorSlot } from '../builder.ts';
import type { Address, Scalar, Vector } from '../kernel-ir.ts';
import { absF } from '../math.ts';

/** f32 (or i32) `[count, lanes]` in thread scratch. */
export class LaneArray {
  readonly #k: KernelBuilder;
  readonly offset: number;

  constructor(k: KernelBuilder, count: number) {
    this.#k = k;
    this.offset = k.reserveScratch(4 * k.lanes * count);
  }

  at(row: number): Address {
    return this.#k.at(this.#k.scratch, this.offset + 4 * this.#k.lanes * row);
  }

  /** What stands `bytes` behind the beginning. */
  behind(bytes: Scalar): Address {
    return this.#k.at(this.#k.scratch, this.offset, bytes);
  }

  pointer(): Scalar {
    return this.#k.pointer(this.at(0));
  }
}

const MOST_UNROLLED = 8;

/** Runs `body` for every row of arrays of `count` rows, with where the row stands in each. The pointers are left as they are. */
export function forEachRow<const Pointers extends readonly Scalar[]>(
  k: KernelBuilder,
  count: number,
  arrays: Pointers,
  body: (...at: { -readonly [I in keyof Pointers]: Address }) => void,
): void {
  const unrolled = Math.min(MOST_UNROLLED, count);
  const pointers = arrays.map((array) => k.copy(array));
  const stride = 4 * k.lanes;
  k.loop(count / unrolled, () => {
    for (let i = 0; i < unrolled; i++) {
      const at = pointers.map((pointer) => k.at(pointer, i * stride));
      body(...(at as { -readonly [I in keyof Pointers]: Address }));
    }
    for (const pointer of pointers) k.addTo(pointer, unrolled * stride);
  });
}

/** Of each lane the first value of largest magnitude, with its sign, and its magnitude; 0 of zeros. */
export function farthestFromZero(
  k: KernelBuilder,
  count: number,
  x: Scalar,
): Record<'farthest' | 'most', Vector> {
  const farthest = k.zero();
  const most = k.zero();
  forEachRow(k, count, [x], (at) => {
    const value = k.load(at);
    const size = absF(k, value);
    k.move(farthest, k.selectWhereGt(size, most, value, farthest));
    k.maxF(size, most, most);
  });
  return { farthest, most };
}

/** To the nearest integer within low..high, as f32; NaN stays NaN. */
export function roundWithin(
  k: KernelBuilder,
  value: Vector,
  low: Vector | null,
  high: Vector | null,
): Vector {
  k.unary('f32.round', value, value);
  if (low !== null) k.maxF(low, value, value);
  return high === null ? value : k.minF(high, value, value);
}

/** i32 codes of whole numbers within 0..mask, where mask is all ones; NaN becomes 0. */
export function codeOf(k: KernelBuilder, value: Vector, mask: number): Vector {
  const code = k.unary('i32.fromF32', value);
  return k.binary('bits.and', code, k.splatBits(mask), code);
}

const SMALLEST_F32_BITS = 1;

/** `value` where `tested` is 0, of either sign, else `otherwise`. */
export function selectWhereZero(
  k: KernelBuilder,
  tested: Vector,
  value: Vector,
  otherwise: Vector,
): Vector {
  return k.selectWhereGt(k.splatBits(SMALLEST_F32_BITS), absF(k, tested), value, otherwise);
}

/** 1 / d; 0 for 0. */
export function inverseOf(k: KernelBuilder, d: Vector): Vector {
  return selectWhereZero(k, d, k.zero(), k.divF(k.splatF32(1), d));
}

/** Runs `body` with every whole number from -most to most but 0 in `step`, in all lanes. */
export function forEachStepAround(
  k: KernelBuilder,
  step: VectorSlot,
  most: number,
  body: () => void,
): void {
  for (const first of [-most, 1]) {
    step.set(k.splatF32(first));
    k.loop(most, () => {
      body();
      step.set(k.addF(step.get(), k.splatF32(1)));
    });
  }
}
