/** What the squared (or absolute) error of each weight counts in ggml's searches: from the weights themselves, or from an importance of their channels. Lanes are blocks. */
import type { KernelBuilder } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import { absF } from '../math.ts';
import { forEachRow } from './lane-array.ts';

/** `square`: x²; `magnitude`: |x|; `aboveMean`: |x| more than the root of the group's mean square. */
export type PlainWeights = 'square' | 'magnitude' | 'aboveMean';

/** Sum of x² in f32, one after another. */
export function sumOfSquares(k: KernelBuilder, x: Scalar, count: number): Vector {
  const sum = k.zero();
  forEachRow(k, count, [x], (xAt) => {
    const value = k.load(xAt);
    k.addF(sum, k.mulF(value, value, value), sum);
  });
  return sum;
}

/** `factor` times the mean of x² over a block of `count`; powers of 2 both. */
export function meanSquare(k: KernelBuilder, x: Scalar, count: number, factor: 1 | 2): Vector {
  const sum = sumOfSquares(k, x, count);
  if (factor !== 1) k.mulF(sum, k.splatF32(factor), sum);
  return k.mulF(sum, k.splatF32(1 / count), sum);
}

/** weights f32 `[size, lanes]` */
export function weighPlainly(
  k: KernelBuilder,
  kind: PlainWeights,
  size: number,
  x: Scalar,
  weights: Scalar,
): void {
  let root: Vector | null = null;
  if (kind === 'aboveMean') {
    root = meanSquare(k, x, size, 1);
    k.unary('f32.sqrt', root, root);
  }
  forEachRow(k, size, [x, weights], (xAt, weightAt) => {
    const value = k.load(xAt);
    if (kind === 'square') k.mulF(value, value, value);
    else absF(k, value, value);
    k.store(weightAt, root === null ? value : k.addF(root, value, value));
  });
}

/** importance * sqrt(sigma2 + x²). @returns their sum */
export function weighByImportance(
  k: KernelBuilder,
  size: number,
  { x, importance, weights }: Readonly<Record<'x' | 'importance' | 'weights', Scalar>>,
  sigma2: Vector,
): Vector {
  const sum = k.zero();
  forEachRow(k, size, [x, importance, weights], (xAt, importanceAt, weightAt) => {
    const weight = k.load(xAt);
    k.mulF(weight, weight, weight);
    k.addF(sigma2, weight, weight);
    k.unary('f32.sqrt', weight, weight);
    k.mulF(k.load(importanceAt), weight, weight);
    k.addF(sum, weight, sum);
    k.store(weightAt, weight);
  });
  return sum;
}
