/** Scales and codes of super-blocks whose groups have a scale alone. */
import type { Scalar, Vector } from '../kernel-ir.ts';
import type { BlockFrame, OpenBlock } from './block-frame.ts';
import { codeOf, LaneArray, roundWithin } from './lane-array.ts';
import type { SymmetricFitted } from './symmetric-fit.ts';

export class SymmetricCodes {
  /** As found, then as stored; f32 `[numGroups, lanes]`. */
  readonly scales: LaneArray;
  /** What the search found, f32 `[numGroups, lanes]`. */
  readonly inverses: LaneArray;
  readonly offsets: LaneArray;
  readonly #frame: BlockFrame;
  readonly #levels: number;
  /** i32 `[elements]` */
  readonly #codes: number;

  /** @param levels half as many as there are codes */
  constructor(frame: BlockFrame, levels: number) {
    const { k, numGroups } = frame;
    this.#frame = frame;
    this.#levels = levels;
    this.scales = new LaneArray(k, numGroups);
    this.inverses = new LaneArray(k, numGroups);
    this.offsets = new LaneArray(k, numGroups);
    this.#codes = k.reserveScratch(4 * frame.shape.elements);
  }

  keep(row: Scalar, { scale, inverse, offset }: SymmetricFitted): void {
    const { k } = this.#frame;
    k.store(this.scales.behind(row), scale);
    k.store(this.inverses.behind(row), inverse);
    k.store(this.offsets.behind(row), offset);
  }

  /**
   * @param found codes that a search found otherwise, i32 `[elements, lanes]`
   * @returns codes of the block, i32 `[elements]`
   */
  round(block: OpenBlock, found: LaneArray | null = null): Scalar {
    const { k } = this.#frame;
    const levels = this.#levels;
    const codes = k.pointer(k.at(k.scratch, this.#codes));
    const round = (value: Vector, offset: Vector): Vector => {
      roundWithin(k, value, k.splatF32(-levels), k.splatF32(levels - 1));
      return codeOf(k, k.addF(value, offset, value), 2 * levels - 1);
    };
    this.#frame.roundBlock(block, this.scales, codes, {
      byScale: (of) => {
        const scale = of(this.scales);
        return (x) => round(k.divF(x, scale, x), k.splatF32(levels));
      },
      asFound:
        found ??
        ((of) => {
          const [inverse, offset] = [of(this.inverses), of(this.offsets)];
          return (x) => round(k.mulF(inverse, x, x), offset);
        }),
    });
    return codes;
  }
}
