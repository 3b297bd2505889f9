/** Q6_K blocks; tensor/block-formats/k-quants-encode.ts says what is done. */
import { SMALLEST } from '../../tensor/block-formats/scale-search.ts';
import type { Vector } from '../kernel-ir.ts';
import type { BlockFrame, BlockShape, OpenBlock } from './block-frame.ts';
import { BlockWords, packBytes } from './block-words.ts';
import { weighPlainly } from './group-weights.ts';
import { codeOf, farthestFromZero, forEachRow, LaneArray, roundWithin } from './lane-array.ts';
import { storeBytes } from './pack-codes.ts';
import { StoredF16 } from './stored-f16.ts';
import { SymmetricCodes } from './symmetric-codes.ts';
import { SymmetricFit } from './symmetric-fit.ts';

export const Q6_SHAPE: BlockShape = {
  elements: 256,
  blockBytes: 210,
  size: 16,
  importance: 'used',
};
const LEVELS = 32;
/** Bytes of a block: low nibbles from 0, then high pairs, scales, the block's scale. */
const [HIGH_AT, SCALES_AT, FACTOR_AT] = [128, 192, 208];
const NUM_GROUPS = 16;

export class Q6Blocks {
  readonly #frame: BlockFrame;
  readonly #fit: SymmetricFit;
  readonly #weights: LaneArray;
  readonly #codes: SymmetricCodes;
  /** i32 `[numGroups, lanes]` */
  readonly #scaleCodes: LaneArray;
  readonly #f16: StoredF16;
  readonly #words: BlockWords;

  constructor(frame: BlockFrame) {
    const { k } = frame;
    this.#frame = frame;
    this.#fit = new SymmetricFit(k, Q6_SHAPE.size, LEVELS);
    this.#weights = new LaneArray(k, Q6_SHAPE.size);
    this.#codes = new SymmetricCodes(frame, LEVELS);
    this.#scaleCodes = new LaneArray(k, NUM_GROUPS);
    this.#f16 = new StoredF16(k);
    this.#words = new BlockWords(k, 5);
  }

  fit(): void {
    const { k } = this.#frame;
    this.#frame.forEachGroup(({ x, importance, row }) => {
      const weights = importance ?? this.#weights.pointer();
      if (importance === null) weighPlainly(k, 'square', Q6_SHAPE.size, x, weights);
      this.#codes.keep(row, this.#fit.emit(x, weights));
    });
    this.#quantizeScales();
    for (let i = 0; i < 4; i++) {
      const bytes = [0, 1, 2, 3].map((j) => k.load(this.#scaleCodes.at(4 * i + j)));
      this.#words.keep({ word: packBytes(k, bytes), at: SCALES_AT + 4 * i, bits: 32 });
    }
  }

  /** Blocks of next to nothing become all zeros. */
  #quantizeScales(): void {
    const { k } = this.#frame;
    const { scales, inverses, offsets } = this.#codes;
    const { farthest, most } = farthestFromZero(k, NUM_GROUPS, scales.pointer());
    const smallest = k.splatF32(SMALLEST);
    const inverse = k.divF(k.splatF32(-128), farthest);
    const factor = k.keepWhereGe(k.divF(k.splatF32(1), inverse), most, smallest);
    k.move(inverse, k.keepWhereGe(inverse, most, smallest));
    const { bits, stored } = this.#f16.round(factor);
    this.#words.keep({ word: bits, at: FACTOR_AT, bits: 16 });
    const highest = k.splatF32(127);
    const arrays = [scales, this.#scaleCodes, inverses, offsets];
    const pointers = arrays.map((array) => array.pointer());
    forEachRow(k, NUM_GROUPS, pointers, (at, codeAt, inverseAt, offsetAt) => {
      const code = roundWithin(k, k.mulF(inverse, k.load(at!)), null, highest);
      k.store(codeAt!, codeOf(k, code, 255));
      k.store(at!, k.mulF(stored, code, code));
      k.store(inverseAt!, k.keepWhereGe(k.load(inverseAt!), most, smallest));
      k.store(offsetAt!, k.keepWhereGe(k.load(offsetAt!), most, smallest));
    });
  }

  write(block: OpenBlock): void {
    const { k } = this.#frame;
    const codes = this.#codes.round(block);
    this.#words.copyInto(block);
    const out = block.out.get();
    for (let half = 0; half < 2; half++) {
      k.unrolledLanes(32, (element) => {
        const [a, b, c, d] = [0, 32, 64, 96].map((first) =>
          k.load(k.at(codes, 4 * (128 * half + first + element))),
        ) as [Vector, Vector, Vector, Vector];
        const low = (code: Vector): Vector => k.binary('bits.and', code, k.splatBits(15));
        const high = (code: Vector, to: number): Vector => {
          const bits = k.shift('i32.shr', code, 4);
          return k.shift('i32.shl', bits, to, bits);
        };
        const or = (p: Vector, q: Vector): Vector => k.binary('bits.or', p, q, p);
        const nibbles = (p: Vector, q: Vector): Vector => or(k.shift('i32.shl', low(q), 4), low(p));
        storeBytes(k, k.at(out, 64 * half + element), nibbles(a, c));
        storeBytes(k, k.at(out, 64 * half + 32 + element), nibbles(b, d));
        const pairs = or(or(high(a, 0), high(b, 2)), or(high(c, 4), high(d, 6)));
        storeBytes(k, k.at(out, HIGH_AT + 32 * half + element), pairs);
      });
    }
  }
}
