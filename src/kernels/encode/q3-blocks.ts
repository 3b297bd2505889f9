/** Q3_K blocks; tensor/block-formats/k-quants-encode.ts says what is done. */
import type { VectorSlot } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import type { BlockFrame, BlockShape, LaneGroup, OpenBlock } from './block-frame.ts';
import { BlockWords, packBytes } from './block-words.ts';
import { meanSquare, weighByImportance, weighPlainly } from './group-weights.ts';
import { codeOf, farthestFromZero, forEachRow, LaneArray, roundWithin } from './lane-array.ts';
import { MovesFit } from './moves-fit.ts';
import { packBits, packPairs } from './pack-codes.ts';
import { StoredF16 } from './stored-f16.ts';
import { SymmetricCodes } from './symmetric-codes.ts';
import { SymmetricFit } from './symmetric-fit.ts';

export const Q3_SHAPE: BlockShape = {
  elements: 256,
  blockBytes: 110,
  size: 16,
  importance: 'used',
};
const LEVELS = 4;
const SCALE_LEVELS = 32;
/** Bytes of a block: highest bits from 0, then low pairs, scales, the block's scale. */
const [PAIRS_AT, SCALES_AT, FACTOR_AT] = [32, 96, 108];
const NUM_GROUPS = 16;

export class Q3Blocks {
  readonly #frame: BlockFrame;
  readonly #weights: LaneArray;
  readonly #codes: SymmetricCodes;
  /** i32 `[numGroups, lanes]` */
  readonly #scaleCodes: LaneArray;
  readonly #f16: StoredF16;
  readonly #words: BlockWords;
  readonly #search: PlainSearch | WeightedSearch;

  constructor(frame: BlockFrame) {
    const { k } = frame;
    this.#frame = frame;
    this.#weights = new LaneArray(k, Q3_SHAPE.size);
    this.#codes = new SymmetricCodes(frame, LEVELS);
    this.#scaleCodes = new LaneArray(k, NUM_GROUPS);
    this.#f16 = new StoredF16(k);
    this.#words = new BlockWords(k, 4);
    this.#search = frame.isWeighted ? new WeightedSearch(frame) : new PlainSearch(frame);
  }

  fit(): void {
    const { k } = this.#frame;
    const { scales } = this.#codes;
    this.#search.begin();
    this.#frame.forEachGroup((group) => {
      this.#search.fitGroup(group, this.#weights.pointer(), this.#codes);
    });
    const factor = this.#search.fitScales(scales.pointer(), this.#scaleCodes.pointer());
    const { bits, stored } = this.#f16.round(factor);
    this.#words.keep({ word: bits, at: FACTOR_AT, bits: 16 });
    forEachRow(k, NUM_GROUPS, [scales.pointer(), this.#scaleCodes.pointer()], (at, codeAt) => {
      const code = k.unary('f32.fromI32', k.load(codeAt));
      k.subF(code, k.splatF32(SCALE_LEVELS), code);
      k.store(at, k.mulF(stored, code, code));
    });
    this.#keepScaleWords();
  }

  /** 16 codes of 6 bits: nibbles of 8 bytes, then pairs of 4. */
  #keepScaleWords(): void {
    const { k } = this.#frame;
    const codeOfGroup = (g: number): Vector => k.load(this.#scaleCodes.at(g));
    const masked = (g: number, mask: number): Vector => {
      const code = codeOfGroup(g);
      return k.binary('bits.and', code, k.splatBits(mask), code);
    };
    const or = (a: Vector, b: Vector): Vector => k.binary('bits.or', a, b, a);
    const nibbles = (g: number): Vector =>
      or(k.shift('i32.shl', masked(g + 8, 15), 4), masked(g, 15));
    const pairs = (g: number): Vector => {
      const byte = k.shift('i32.shr', codeOfGroup(g), 4);
      for (let i = 1; i < 4; i++) {
        const upper = masked(g + 4 * i, 48);
        or(byte, k.shift('i32.shl', k.shift('i32.shr', upper, 4, upper), 2 * i, upper));
      }
      return byte;
    };
    const bytes = [nibbles, nibbles, pairs];
    for (const [i, byteOf] of bytes.entries()) {
      const first = i === 1 ? 4 : 0;
      const word = packBytes(
        k,
        [0, 1, 2, 3].map((j) => byteOf(first + j)),
      );
      this.#words.keep({ word, at: SCALES_AT + 4 * i, bits: 32 });
    }
  }

  write(block: OpenBlock): void {
    const { k } = this.#frame;
    const codes = this.#codes.round(block, this.#search.found);
    this.#words.copyInto(block);
    const out = block.out.get();
    packBits(k, codes, 2, out, 0);
    packPairs(k, codes, out, PAIRS_AT);
  }
}

/** Without an importance: codes are moved one by one, scales follow from the largest. */
class PlainSearch {
  readonly #frame: BlockFrame;
  readonly #fit: MovesFit;
  /** i32 `[elements, lanes]` */
  readonly found: LaneArray;

  constructor(frame: BlockFrame) {
    this.#frame = frame;
    this.#fit = new MovesFit(frame.k, Q3_SHAPE.size, LEVELS);
    this.found = new LaneArray(frame.k, Q3_SHAPE.elements);
  }

  begin(): void {}

  fitGroup({ x, row }: LaneGroup, weights: Scalar, codes: SymmetricCodes): void {
    const { k } = this.#frame;
    weighPlainly(k, 'square', Q3_SHAPE.size, x, weights);
    const found = k.pointer(this.found.behind(k.mul(row, Q3_SHAPE.size)));
    k.store(codes.scales.behind(row), this.#fit.emit(x, weights, found));
  }

  fitScales(scales: Scalar, scaleCodes: Scalar): Vector {
    const { k } = this.#frame;
    const { farthest, most } = farthestFromZero(k, NUM_GROUPS, scales);
    const inverse = k.divF(k.splatF32(-SCALE_LEVELS), farthest);
    const zero = k.zero();
    forEachRow(k, NUM_GROUPS, [scales, scaleCodes], (at, codeAt) => {
      const code = k.mulF(inverse, k.load(at));
      roundWithin(k, code, k.splatF32(-SCALE_LEVELS), k.splatF32(SCALE_LEVELS - 1));
      k.addF(code, k.splatF32(SCALE_LEVELS), code);
      const stored = codeOf(k, code, 2 * SCALE_LEVELS - 1);
      k.store(codeAt, k.selectWhereGt(most, zero, stored, zero));
    });
    return k.selectWhereGt(most, zero, k.divF(k.splatF32(1), inverse), zero);
  }
}

/** With one: the scales' own errors count what their groups' do. */
class WeightedSearch {
  readonly found = null;
  readonly #frame: BlockFrame;
  readonly #fit: SymmetricFit;
  readonly #scaleFit: SymmetricFit;
  readonly #meanSquare: VectorSlot;
  /** Sums of weights, f32 `[numGroups, lanes]`. */
  readonly #counts: LaneArray;

  constructor(frame: BlockFrame) {
    const { k } = frame;
    this.#frame = frame;
    this.#fit = new SymmetricFit(k, Q3_SHAPE.size, LEVELS);
    this.#scaleFit = new SymmetricFit(k, NUM_GROUPS, SCALE_LEVELS);
    this.#meanSquare = k.vectorSlot();
    this.#counts = new LaneArray(k, NUM_GROUPS);
  }

  begin(): void {
    const { k, x } = this.#frame;
    this.#meanSquare.set(meanSquare(k, x.pointer(), Q3_SHAPE.elements, 2));
  }

  fitGroup({ x, importance, row }: LaneGroup, weights: Scalar, codes: SymmetricCodes): void {
    const { k } = this.#frame;
    const rows = { x, importance: importance!, weights };
    const count = weighByImportance(k, Q3_SHAPE.size, rows, this.#meanSquare.get());
    k.store(this.#counts.behind(row), count);
    codes.keep(row, this.#fit.emit(x, weights));
  }

  fitScales(scales: Scalar, scaleCodes: Scalar): Vector {
    const { k } = this.#frame;
    const { scale, inverse, offset } = this.#scaleFit.emit(scales, this.#counts.pointer());
    forEachRow(k, NUM_GROUPS, [scales, scaleCodes], (at, codeAt) => {
      const code = k.mulF(inverse, k.load(at));
      roundWithin(k, code, k.splatF32(-SCALE_LEVELS), k.splatF32(SCALE_LEVELS - 1));
      k.store(codeAt, codeOf(k, k.addF(code, offset, code), 2 * SCALE_LEVELS - 1));
    });
    return scale;
  }
}
