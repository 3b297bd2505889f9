/** ggml's scale of groups whose codes are moved one at a time: tensor/block-formats/scale-search.ts's `fitSymmetricByMoves`, to the bit. Lanes are groups. */
import { SMALLEST } from '../../tensor/block-formats/scale-search.ts';
import type { KernelBuilder } from '../builder.ts';
import type { Address, Scalar, Vector } from '../kernel-ir.ts';
import { addCode, moveCode } from './code-sums.ts';
import { codeOf, farthestFromZero, forEachRow, LaneArray, roundWithin } from './lane-array.ts';

const ROUNDS = 5;

export class MovesFit {
  readonly #k: KernelBuilder;
  readonly #size: number;
  readonly #levels: number;
  /** f32 `[size, lanes]`, of both signs */
  readonly #codes: LaneArray;

  /** @param levels half as many as there are codes */
  constructor(k: KernelBuilder, size: number, levels: number) {
    this.#k = k;
    this.#size = size;
    this.#levels = levels;
    this.#codes = new LaneArray(k, size);
  }

  /**
   * @param x and weights, both f32 `[size, lanes]`
   * @param codes receives i32 `[size, lanes]`
   * @returns the scale: x ~ scale * (code - levels)
   */
  emit(x: Scalar, weights: Scalar, codes: Scalar): Vector {
    const k = this.#k;
    const { farthest, most } = farthestFromZero(k, this.#size, x);
    const inverse = k.divF(k.splatF32(-this.#levels), farthest, farthest);
    const round = (value: Vector): void => {
      roundWithin(k, value, k.splatF32(-this.#levels), k.splatF32(this.#levels - 1));
    };
    const sums = { xl: k.zero(), l2: k.zero() };
    const arrays = [x, weights, this.#codes.pointer()] as const;
    forEachRow(k, this.#size, arrays, (xAt, weightAt, codeAt) => {
      const value = k.load(xAt);
      const code = k.mulF(inverse, value);
      round(code);
      k.store(codeAt, code);
      const weight = k.load(weightAt);
      addCode(k, sums, weight, k.mulF(weight, value, value), code);
    });
    k.loop(ROUNDS, () => {
      forEachRow(k, this.#size, arrays, (xAt: Address, weightAt: Address, codeAt: Address) =>
        moveCode(k, sums, { xAt, weightAt, codeAt, round, leavesSquares: false }),
      );
    });
    const smallest = k.splatF32(SMALLEST);
    forEachRow(k, this.#size, [this.#codes.pointer(), codes], (from, to) => {
      const code = k.addF(k.load(from), k.splatF32(this.#levels));
      k.store(to, k.keepWhereGe(codeOf(k, code, 2 * this.#levels - 1), most, smallest));
    });
    const zero = k.zero();
    const scale = k.selectWhereGt(sums.l2, zero, k.divF(sums.xl, sums.l2), zero);
    return k.keepWhereGe(scale, most, smallest);
  }
}
