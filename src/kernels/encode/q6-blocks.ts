/** Q6_K blocks; tensor/block-formats/k-quants-encode.ts says what is done. */
import { SMALLEST } from '../../tensor/block-formats/scale-search.ts';
import type { Vector } from '../kernel-ir.ts';
import { absF } from '../math.ts';
import { type BlockFrame, type BlockShape, type OpenBlock, storeBytes } from './block-frame.ts';
import { BlockWords, packBytes } from './block-words.ts';
import { weighPlainly } from './group-weights.ts';
import { codeOf, forEachRow, LaneArray, roundWithin } from './lane-array.ts';
import { StoredF16 } from './stored-f16.ts';
import { SymmetricFit } from './symmetric-fit.ts';

export const Q6_SHAPE: BlockShape = { elements: 256, blockBytes: 210, size: 16 };
const LEVELS = 32;
/** Bytes of a block: low nibbles from 0, then high pairs, scales, the block's scale. */
const [HIGH_AT, SCALES_AT, FACTOR_AT] = [128, 192, 208];
const NUM_GROUPS = 16;

export class Q6Blocks {
  readonly #frame: BlockFrame;
  readonly #fit: SymmetricFit;
  readonly #weights: LaneArray;
  /** As found, then as stored; f32 `[numGroups, lanes]`. */
  readonly #scales: LaneArray;
  /** i32 */
  readonly #scaleCodes: LaneArray;
  /** What the search found, f32 `[numGroups, lanes]`. */
  readonly #inverses: LaneArray;
  readonly #offsets: LaneArray;
  readonly #f16: StoredF16;
  readonly #words: BlockWords;
  /** i32 `[elements]` */
  readonly #codes: number;

  constructor(frame: BlockFrame) {
    const { k } = frame;
    this.#frame = frame;
    this.#fit = new SymmetricFit(k, Q6_SHAPE.size, LEVELS);
    this.#weights = new LaneArray(k, Q6_SHAPE.size);
    this.#scales = new LaneArray(k, NUM_GROUPS);
    this.#scaleCodes = new LaneArray(k, NUM_GROUPS);
    this.#inverses = new LaneArray(k, NUM_GROUPS);
    this.#offsets = new LaneArray(k, NUM_GROUPS);
    this.#f16 = new StoredF16(k);
    this.#words = new BlockWords(k, 5);
    this.#codes = k.reserveScratch(4 * Q6_SHAPE.elements);
  }

  fit(): void {
    const { k } = this.#frame;
    this.#frame.forEachGroup(({ x, importance, row }) => {
      const weights = importance ?? this.#weights.pointer();
      if (importance === null) weighPlainly(k, 'square', Q6_SHAPE.size, x, weights);
      const { scale, inverse, offset } = this.#fit.emit(x, weights);
      k.store(this.#scales.behind(row), scale);
      k.store(this.#inverses.behind(row), inverse);
      k.store(this.#offsets.behind(row), offset);
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
    const farthest = k.zero();
    const most = k.zero();
    forEachRow(k, NUM_GROUPS, [this.#scales.pointer()], (at) => {
      const scale = k.load(at);
      const size = absF(k, scale);
      k.move(farthest, k.selectWhereGt(size, most, scale, farthest));
      k.maxF(size, most, most);
    });
    const smallest = k.splatF32(SMALLEST);
    const inverse = k.divF(k.splatF32(-128), farthest);
    const factor = k.keepWhereGe(k.divF(k.splatF32(1), inverse), most, smallest);
    k.move(inverse, k.keepWhereGe(inverse, most, smallest));
    const { bits, stored } = this.#f16.round(factor);
    this.#words.keep({ word: bits, at: FACTOR_AT, bits: 16 });
    const highest = k.splatF32(127);
    const arrays = [this.#scales, this.#scaleCodes, this.#inverses, this.#offsets] as const;
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
    const codes = k.pointer(k.at(k.scratch, this.#codes));
    const round = (value: Vector, offset: Vector): Vector => {
      roundWithin(k, value, k.splatF32(-LEVELS), k.splatF32(LEVELS - 1));
      return codeOf(k, k.addF(value, offset, value), 2 * LEVELS - 1);
    };
    this.#frame.roundBlock(block, this.#scales, codes, {
      byScale: (of) => {
        const scale = of(this.#scales);
        return (x) => round(k.divF(x, scale, x), k.splatF32(LEVELS));
      },
      asFound: (of) => {
        const [inverse, offset] = [of(this.#inverses), of(this.#offsets)];
        return (x) => round(k.mulF(inverse, x, x), offset);
      },
    });
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
