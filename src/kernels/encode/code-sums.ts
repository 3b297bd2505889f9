/** Weighted sums of codes, by which ggml moves codes one at a time to where the others want them. Lanes are groups. */
import type { KernelBuilder } from '../builder.ts';
import type { Address, Vector } from '../kernel-ir.ts';
import { absF } from '../math.ts';

/** Of weight times x times code, and of weight times the code's square. */
export interface CodeSums {
  readonly xl: Vector;
  readonly l2: Vector;
}

/** @param product weight times x */
export function addCode(
  k: KernelBuilder,
  sums: CodeSums,
  weight: Vector,
  product: Vector,
  code: Vector,
): void {
  k.addF(sums.xl, k.mulF(product, code), sums.xl);
  const squared = k.mulF(weight, code);
  k.addF(sums.l2, k.mulF(squared, code, squared), sums.l2);
}

export interface CodeToMove {
  readonly xAt: Address;
  readonly weightAt: Address;
  /** As f32. */
  readonly codeAt: Address;
  /** To a code. */
  readonly round: (value: Vector) => void;
  /** Whether it moves only where the others' sum of squares is above 0; otherwise that with it has to be. */
  readonly leavesSquares: boolean;
}

/** One code to where the others want it, in lanes where that is better. Once no code of a lane moves in a round, none moves in the next. */
export function moveCode(
  k: KernelBuilder,
  sums: CodeSums,
  { xAt, weightAt, codeAt, round, leavesSquares }: CodeToMove,
): void {
  const zero = k.zero();
  const weight = k.load(weightAt);
  const product = k.mulF(weight, k.load(xAt));
  const old = k.load(codeAt);
  const xl = k.mulF(product, old);
  k.subF(sums.xl, xl, xl);
  const l2 = k.mulF(weight, old);
  k.subF(sums.l2, k.mulF(l2, old, l2), l2);
  const code = k.mulF(k.load(xAt), l2);
  round(k.divF(code, xl, code));
  const distance = k.subF(code, old);
  absF(k, distance, distance);
  // Above 0 where the code may move.
  let allowed = k.selectWhereGt(xl, zero, distance, zero);
  if (leavesSquares) allowed = k.selectWhereGt(l2, zero, allowed, zero);
  addCode(k, { xl, l2 }, weight, product, code);
  if (!leavesSquares) allowed = k.selectWhereGt(l2, zero, allowed, zero);
  let gain = k.mulF(xl, xl);
  k.mulF(gain, sums.l2, gain);
  gain = k.selectWhereGt(allowed, zero, gain, k.splatF32(Number.NEGATIVE_INFINITY));
  const bar = k.mulF(sums.xl, sums.xl);
  k.mulF(bar, l2, bar);
  k.store(codeAt, k.selectWhereGt(gain, bar, code, old));
  k.move(sums.xl, k.selectWhereGt(gain, bar, xl, sums.xl));
  k.move(sums.l2, k.selectWhereGt(gain, bar, l2, sums.l2));
}
