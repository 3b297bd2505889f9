/** ggml's search for the scale of groups of weights, a group to a lane: tensor/block-formats/scale-search.ts's `fitSymmetric`, to the bit. */
import { SMALLEST, STEP_01 } from '../../tensor/block-formats/scale-search.ts';
import type { KernelBuilder, VectorSlot } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import { absF } from '../math.ts';
import {
  farthestFromZero,
  forEachRow,
  forEachStepAround,
  LaneArray,
  roundWithin,
  selectWhereZero,
} from './lane-array.ts';

/** Candidates on either side of the plain one. */
const CANDIDATES = 9;

/** x ~ scale * (code - levels); the codes that were found are those nearest to inverse * x, plus `offset`. */
export interface SymmetricFitted {
  readonly scale: Vector;
  readonly inverse: Vector;
  readonly offset: Vector;
}

export class SymmetricFit {
  readonly #k: KernelBuilder;
  readonly #size: number;
  readonly #levels: number;
  /** Weight times x. */
  readonly #products: LaneArray;
  /** Of the best candidate so far. */
  readonly #best: Readonly<Record<'scale' | 'inverse' | 'gain', VectorSlot>>;
  /** Of largest magnitude, with its sign. */
  readonly #farthest: VectorSlot;
  readonly #step: VectorSlot;

  /** @param levels half as many as there are codes */
  constructor(k: KernelBuilder, size: number, levels: number) {
    this.#k = k;
    this.#size = size;
    this.#levels = levels;
    this.#products = new LaneArray(k, size);
    this.#best = { scale: k.vectorSlot(), inverse: k.vectorSlot(), gain: k.vectorSlot() };
    this.#farthest = k.vectorSlot();
    this.#step = k.vectorSlot();
  }

  /** @param x and weights, both f32 `[size, lanes]` */
  emit(x: Scalar, weights: Scalar): SymmetricFitted {
    const k = this.#k;
    this.#measure(x, weights);
    this.#takePlain(x, weights);
    forEachStepAround(k, this.#step, CANDIDATES, () => this.#tryCandidate(x, weights));
    const smallest = k.splatF32(SMALLEST);
    const size = absF(k, this.#farthest.get());
    return {
      scale: k.keepWhereGe(this.#best.scale.get(), size, smallest),
      inverse: k.keepWhereGe(this.#best.inverse.get(), size, smallest),
      offset: k.keepWhereGe(k.splatF32(this.#levels), size, smallest),
    };
  }

  #measure(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    this.#farthest.set(farthestFromZero(k, this.#size, x).farthest);
    const arrays = [x, weights, this.#products.pointer()] as const;
    forEachRow(k, this.#size, arrays, (xAt, weightAt, productAt) => {
      k.store(productAt, k.mulF(k.load(weightAt), k.load(xAt)));
    });
  }

  #takePlain(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    const inverse = k.divF(k.splatF32(-this.#levels), this.#farthest.get());
    const { xl, l2 } = this.#roundAndSum(x, weights, inverse);
    const scale = selectWhereZero(k, l2, k.zero(), k.divF(xl, l2));
    this.#best.inverse.set(inverse);
    this.#best.scale.set(scale);
    this.#best.gain.set(k.mulF(scale, xl));
  }

  #tryCandidate(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    const best = this.#best;
    const inverse = k.mulF(k.splatF32(STEP_01), this.#step.get());
    k.addF(k.splatF32(this.#levels), inverse, inverse);
    k.binary('bits.xor', inverse, k.splatBits(1 << 31), inverse);
    k.divF(inverse, this.#farthest.get(), inverse);
    const { xl, l2 } = this.#roundAndSum(x, weights, inverse);
    const bar = k.selectWhereGt(
      l2,
      k.zero(),
      k.mulF(best.gain.get(), l2),
      k.splatF32(Number.POSITIVE_INFINITY),
    );
    const squared = k.mulF(xl, xl);
    const scale = k.divF(xl, l2);
    const keepBetter = (slot: VectorSlot, value: Vector): void =>
      slot.set(k.selectWhereGt(squared, bar, value, slot.get()));
    keepBetter(best.inverse, inverse);
    keepBetter(best.scale, scale);
    keepBetter(best.gain, k.mulF(scale, xl));
  }

  /** Weighted sums of the codes times x, and of their squares. */
  #roundAndSum(x: Scalar, weights: Scalar, inverse: Vector): Record<'xl' | 'l2', Vector> {
    const k = this.#k;
    const lowest = k.splatF32(-this.#levels);
    const highest = k.splatF32(this.#levels - 1);
    const sums = { xl: k.zero(), l2: k.zero() };
    const arrays = [x, weights, this.#products.pointer()] as const;
    forEachRow(k, this.#size, arrays, (xAt, weightAt, productAt) => {
      const code = k.mulF(inverse, k.load(xAt));
      roundWithin(k, code, lowest, highest);
      const product = k.mulF(k.load(productAt), code);
      k.addF(sums.xl, product, sums.xl);
      const squared = k.mulF(k.load(weightAt), code);
      k.addF(sums.l2, k.mulF(squared, code, squared), sums.l2);
    });
    return sums;
  }
}
