/** ggml's codes of scales, the scales of a block to a lane: tensor/block-formats/scale-search.ts's `fitPositive`, to the bit. */
import { SMALLEST, STEP_01 } from '../../tensor/block-formats/scale-search.ts';
import type { KernelBuilder, VectorSlot } from '../builder.ts';
import type { Address, Scalar, Vector } from '../kernel-ir.ts';
import { addCode, type CodeSums, moveCode } from './code-sums.ts';
import { forEachRow, forEachStepAround, LaneArray, roundWithin } from './lane-array.ts';

/** Candidates on either side of the plain one. */
const CANDIDATES = 4;
/** How often codes are moved one by one. */
const ROUNDS = 5;

export class PositiveFit {
  readonly #k: KernelBuilder;
  readonly #size: number;
  readonly #levels: number;
  readonly #trial: LaneArray;
  readonly #most: VectorSlot;
  readonly #step: VectorSlot;
  readonly #inverse: VectorSlot;
  readonly #error: VectorSlot;

  constructor(k: KernelBuilder, size: number, levels: number) {
    this.#k = k;
    this.#size = size;
    this.#levels = levels;
    this.#trial = new LaneArray(k, size);
    this.#most = k.vectorSlot();
    this.#step = k.vectorSlot();
    this.#inverse = k.vectorSlot();
    this.#error = k.vectorSlot();
  }

  /**
   * @param x and weights, f32 `[size, lanes]`, x at least 0
   * @param codes receives f32 `[size, lanes]`
   * @returns the scale: x ~ scale * code
   */
  emit(x: Scalar, weights: Scalar, codes: Scalar): Vector {
    const k = this.#k;
    this.#measure(x);
    this.#takePlain(x, weights);
    forEachStepAround(k, this.#step, CANDIDATES, () => this.#tryCandidate(x, weights));
    const sums = this.#roundAndSum(x, weights, codes);
    k.loop(ROUNDS, () => {
      forEachRow(k, this.#size, [x, weights, codes], (...at) => this.#move(sums, ...at));
    });
    return this.#result(sums, codes);
  }

  #measure(x: Scalar): void {
    const k = this.#k;
    const most = k.zero();
    forEachRow(k, this.#size, [x], (xAt) => {
      k.maxF(k.load(xAt), most, most);
    });
    this.#most.set(most);
  }

  #takePlain(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    const inverse = k.divF(k.splatF32(this.#levels), this.#most.get());
    this.#inverse.set(inverse);
    forEachRow(k, this.#size, [x, this.#trial.pointer()], (xAt, trialAt) => {
      const code = k.mulF(inverse, k.load(xAt));
      k.store(trialAt, k.unary('f32.round', code, code));
    });
    this.#error.set(this.#errorOf(x, weights, k.divF(k.splatF32(1), inverse)));
  }

  #tryCandidate(x: Scalar, weights: Scalar): void {
    const k = this.#k;
    const inverse = k.mulF(k.splatF32(STEP_01), this.#step.get());
    k.addF(inverse, k.splatF32(this.#levels), inverse);
    k.divF(inverse, this.#most.get(), inverse);
    const levels = k.splatF32(this.#levels);
    forEachRow(k, this.#size, [x, this.#trial.pointer()], (xAt, trialAt) => {
      const code = k.mulF(inverse, k.load(xAt));
      k.store(trialAt, roundWithin(k, code, null, levels));
    });
    const error = this.#errorOf(x, weights, k.divF(k.splatF32(1), inverse));
    const before = this.#error.get();
    this.#inverse.set(k.selectWhereGt(before, error, inverse, this.#inverse.get()));
    this.#error.set(k.selectWhereGt(before, error, error, before));
  }

  /** Of the codes in `trial`. */
  #errorOf(x: Scalar, weights: Scalar, scale: Vector): Vector {
    const k = this.#k;
    const sum = k.zero();
    const arrays = [x, weights, this.#trial.pointer()] as const;
    forEachRow(k, this.#size, arrays, (xAt, weightAt, trialAt) => {
      const off = k.mulF(scale, k.load(trialAt));
      k.subF(k.load(xAt), off, off);
      const weighted = k.mulF(k.load(weightAt), off);
      k.addF(sum, k.mulF(weighted, off, weighted), sum);
    });
    return sum;
  }

  #roundAndSum(x: Scalar, weights: Scalar, codes: Scalar): CodeSums {
    const k = this.#k;
    const inverse = this.#inverse.get();
    const levels = k.splatF32(this.#levels);
    const sums = { xl: k.zero(), l2: k.zero() };
    forEachRow(k, this.#size, [x, weights, codes], (xAt, weightAt, codeAt) => {
      const value = k.load(xAt);
      const code = k.mulF(inverse, value);
      roundWithin(k, code, null, levels);
      k.store(codeAt, code);
      const weight = k.load(weightAt);
      addCode(k, sums, weight, k.mulF(weight, value, value), code);
    });
    return sums;
  }

  #move(sums: CodeSums, xAt: Address, weightAt: Address, codeAt: Address): void {
    const k = this.#k;
    const levels = k.splatF32(this.#levels);
    moveCode(k, sums, {
      ...{ xAt, weightAt, codeAt },
      round: (code) => roundWithin(k, code, null, levels),
      leavesSquares: true,
    });
  }

  /** Scales that are next to nothing are all 0. */
  #result({ xl, l2 }: CodeSums, codes: Scalar): Vector {
    const k = this.#k;
    const most = this.#most.get();
    const smallest = k.splatF32(SMALLEST);
    forEachRow(k, this.#size, [codes], (codeAt) => {
      k.store(codeAt, k.keepWhereGe(k.load(codeAt), most, smallest));
    });
    const zero = k.zero();
    const scale = k.selectWhereGt(l2, zero, k.divF(xl, l2), zero);
    return k.keepWhereGe(scale, most, smallest);
  }
}
