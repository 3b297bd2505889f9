/** ggml's search for scale and min of groups of weights, a group to a lane: tensor/block-formats/scale-search.ts's `fitAffine`, to the bit. */
import type { AffineSearch } from '../../tensor/block-formats/scale-search.ts';
import type { KernelBuilder, VectorSlot } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import { absF } from '../math.ts';
import { forEachRow, LaneArray, roundWithin } from './lane-array.ts';

export interface AffineFitShape {
  /** Weights of a group. */
  readonly size: number;
  /** The largest code. */
  readonly levels: number;
  readonly search: AffineSearch;
}

/** x ~ scale * code - min; the codes that were found are those nearest to inverse * (x - base), all of each lane's group. */
export interface AffineFitted {
  readonly scale: Vector;
  readonly min: Vector;
  readonly inverse: Vector;
  readonly base: Vector;
}

export class AffineFit {
  readonly #k: KernelBuilder;
  readonly #shape: AffineFitShape;
  readonly #trial: LaneArray;
  /** Of the best candidate so far; `min` is added here. */
  readonly #best: Readonly<Record<'scale' | 'min' | 'inverse' | 'base' | 'error', VectorSlot>>;
  /** Of the group; `least` is at most 0. */
  readonly #group: Readonly<Record<'least' | 'most' | 'sumW' | 'sumX', VectorSlot>>;
  readonly #candidate: VectorSlot;

  constructor(k: KernelBuilder, shape: AffineFitShape) {
    this.#k = k;
    this.#shape = shape;
    this.#trial = new LaneArray(k, shape.size);
    const slot = (): VectorSlot => k.vectorSlot();
    this.#best = { scale: slot(), min: slot(), inverse: slot(), base: slot(), error: slot() };
    this.#group = { least: slot(), most: slot(), sumW: slot(), sumX: slot() };
    this.#candidate = slot();
  }

  /** @param x and weights, both f32 `[size, lanes]` */
  emit(x: Scalar, weights: Scalar): AffineFitted {
    const k = this.#k;
    const { search } = this.#shape;
    this.#measure(x, weights);
    this.#takeWholeRange(x, weights);
    this.#candidate.set(k.zero());
    k.loop(search.count + 1, () => {
      this.#tryCandidate(x, weights);
      this.#candidate.set(k.addF(this.#candidate.get(), k.splatF32(1)));
    });
    return this.#result();
  }

  /** Range and sums. */
  #measure(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    const least = k.load(k.at(x));
    const most = k.load(k.at(x));
    // What is added to -0 stays as it is.
    const sumW = k.splatF32(-0);
    const sumX = k.splatF32(-0);
    forEachRow(k, this.#shape.size, [x, weights], (xAt, weightAt) => {
      const value = k.load(xAt);
      const weight = k.load(weightAt);
      k.minF(value, least, least);
      k.maxF(value, most, most);
      k.addF(sumW, weight, sumW);
      k.addF(sumX, k.mulF(weight, value, weight), sumX);
    });
    k.minF(k.zero(), least, least);
    this.#group.least.set(least);
    this.#group.most.set(most);
    this.#group.sumW.set(sumW);
    this.#group.sumX.set(sumX);
  }

  #takeWholeRange(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    const best = this.#best;
    const least = this.#group.least.get();
    const inverse = k.subF(this.#group.most.get(), least);
    k.divF(k.splatF32(this.#shape.levels), inverse, inverse);
    const scale = k.divF(k.splatF32(1), inverse);
    best.inverse.set(inverse);
    best.base.set(least);
    best.min.set(least);
    best.scale.set(scale);
    const levels = k.splatF32(this.#shape.levels);
    const zero = k.zero();
    forEachRow(k, this.#shape.size, [x, this.#trial.pointer()], (xAt, trialAt) => {
      const code = k.subF(k.load(xAt), least);
      k.store(trialAt, roundWithin(k, k.mulF(inverse, code, code), zero, levels));
    });
    best.error.set(this.#errorOf(x, weights, scale, least));
  }

  /** Of the codes in `trial`. */
  #errorOf(x: Scalar, weights: Scalar, scale: Vector, min: Vector): Vector {
    const k = this.#k;
    const sum = k.zero();
    const arrays = [x, weights, this.#trial.pointer()] as const;
    forEachRow(k, this.#shape.size, arrays, (xAt, weightAt, trialAt) => {
      const off = k.mulF(scale, k.load(trialAt));
      k.subF(k.addF(off, min, off), k.load(xAt), off);
      const error = this.#shape.search.isAbsolute ? absF(k, off) : k.mulF(off, off, off);
      k.addF(sum, k.mulF(k.load(weightAt), error, error), sum);
    });
    return sum;
  }

  #tryCandidate(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    const best = this.#best;
    const base = best.min.get();
    const inverse = this.#inverseOfCandidate(base);
    const { scale, min, determinant } = this.#leastSquares(
      this.#roundAndSum(x, weights, inverse, base),
    );
    const error = this.#errorOf(x, weights, scale, min);
    const lost = k.splatF32(Number.POSITIVE_INFINITY);
    const counted = k.selectWhereGt(determinant, k.zero(), error, lost);
    const before = best.error.get();
    const keepBetter = (slot: VectorSlot, value: Vector): void =>
      slot.set(k.selectWhereGt(before, counted, value, slot.get()));
    keepBetter(best.inverse, inverse);
    keepBetter(best.base, base);
    keepBetter(best.scale, scale);
    keepBetter(best.min, min);
    keepBetter(best.error, counted);
  }

  /** (first + step * candidate + levels) / (most - min); the range goes on from the min of the best candidate so far. */
  #inverseOfCandidate(min: Vector): Vector {
    const k = this.#k;
    const { search, levels } = this.#shape;
    const inverse = k.mulF(k.splatF32(search.step), this.#candidate.get());
    k.addF(k.splatF32(search.first), inverse, inverse);
    k.addF(inverse, k.splatF32(levels), inverse);
    return k.divF(inverse, k.subF(this.#group.most.get(), min), inverse);
  }

  /** Codes to `trial`, and their weighted sums: of codes, of their squares, of codes times x. */
  #roundAndSum(x: Scalar, weights: Scalar, inverse: Vector, base: Vector): CodeSums {
    const k = this.#k;
    const levels = k.splatF32(this.#shape.levels);
    const zero = k.zero();
    const sums = { l: k.zero(), l2: k.zero(), xl: k.zero() };
    const arrays = [x, weights, this.#trial.pointer()] as const;
    forEachRow(k, this.#shape.size, arrays, (xAt, weightAt, trialAt) => {
      const value = k.load(xAt);
      const code = k.subF(value, base);
      roundWithin(k, k.mulF(inverse, code, code), zero, levels);
      k.store(trialAt, code);
      const weighted = k.mulF(k.load(weightAt), code);
      k.addF(sums.l, weighted, sums.l);
      k.addF(sums.l2, k.mulF(weighted, code, code), sums.l2);
      k.addF(sums.xl, k.mulF(weighted, value, weighted), sums.xl);
    });
    return sums;
  }

  #leastSquares({ l, l2, xl }: CodeSums): Record<'scale' | 'min' | 'determinant', Vector> {
    const k = this.#k;
    const sumW = this.#group.sumW.get();
    const sumX = this.#group.sumX.get();
    const determinant = k.subF(k.mulF(sumW, l2), k.mulF(l, l));
    const scale = k.subF(k.mulF(sumW, xl), k.mulF(sumX, l));
    k.divF(scale, determinant, scale);
    const min = k.subF(k.mulF(l2, sumX), k.mulF(l, xl));
    k.divF(min, determinant, min);
    // A min above 0 becomes 0.
    const zero = k.zero();
    const scaleAlone = k.divF(xl, l2);
    return {
      scale: k.selectWhereGt(min, zero, scaleAlone, scale),
      min: k.minF(zero, min, min),
      determinant,
    };
  }

  /** A group without a range has scale 0. */
  #result(): AffineFitted {
    const k = this.#k;
    const best = this.#best;
    const least = this.#group.least.get();
    const most = this.#group.most.get();
    const zero = k.zero();
    const min = k.selectWhereGt(most, least, best.min.get(), least);
    return {
      scale: k.selectWhereGt(most, least, best.scale.get(), zero),
      min: k.binary('bits.xor', min, k.splatBits(1 << 31), min),
      inverse: k.selectWhereGt(most, least, best.inverse.get(), zero),
      base: best.base.get(),
    };
  }
}

type CodeSums = Record<'l' | 'l2' | 'xl', Vector>;
