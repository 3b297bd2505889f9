/** IQ4_NL and IQ4_XS blocks, whose codes stand for the values of a table; tensor/block-formats/iq4-encode.ts says what is done. */
import { IQ4_TABLE } from '../../tensor/block-formats/iq4-table.ts';
import { SMALLEST } from '../../tensor/block-formats/scale-search.ts';
import type { KernelBuilder, VectorSlot } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import type { BlockFrame, BlockShape, LaneGroup, OpenBlock } from './block-frame.ts';
import { BlockWords, packBytes } from './block-words.ts';
import { sumOfSquares, weighByImportance, weighPlainly } from './group-weights.ts';
import {
  codeOf,
  farthestFromZero,
  forEachRow,
  inverseOf,
  LaneArray,
  roundWithin,
} from './lane-array.ts';
import { packHalves } from './pack-codes.ts';
import { StoredF16 } from './stored-f16.ts';

const SIZE = 32;
/** Candidates on either side of the plain one. */
const CANDIDATES = 7;
const SCALE_LEVELS = 32;

export interface Iq4Format {
  readonly shape: BlockShape;
  readonly codesAt: number;
}

export const IQ4_FORMATS = {
  iq4_nl: { shape: { elements: 32, blockBytes: 18, size: SIZE, importance: 'used' }, codesAt: 2 },
  iq4_xs: { shape: { elements: 256, blockBytes: 136, size: SIZE, importance: 'used' }, codesAt: 8 },
} as const satisfies Record<string, Iq4Format>;

export class Iq4Blocks {
  readonly #frame: BlockFrame;
  readonly #format: Iq4Format;
  readonly #weights: LaneArray;
  readonly #meanSquare: VectorSlot | null;
  readonly #farthest: VectorSlot;
  readonly #best: Readonly<Record<'scale' | 'gain', VectorSlot>>;
  readonly #candidate: VectorSlot;
  /** As found, then one over what is stored; f32 `[numGroups, lanes]`. */
  readonly #scales: LaneArray;
  /** i32 */
  readonly #scaleCodes: LaneArray;
  readonly #f16: StoredF16;
  readonly #words: BlockWords;

  constructor(frame: BlockFrame, format: Iq4Format) {
    const { k, numGroups, isWeighted } = frame;
    this.#frame = frame;
    this.#format = format;
    this.#weights = new LaneArray(k, SIZE);
    this.#meanSquare = isWeighted ? k.vectorSlot() : null;
    this.#farthest = k.vectorSlot();
    this.#best = { scale: k.vectorSlot(), gain: k.vectorSlot() };
    this.#candidate = k.vectorSlot();
    this.#scales = new LaneArray(k, numGroups);
    this.#scaleCodes = new LaneArray(k, numGroups);
    this.#f16 = new StoredF16(k);
    this.#words = new BlockWords(k, 3);
  }

  fit(): void {
    const { k, x, shape } = this.#frame;
    if (this.#meanSquare !== null) {
      const sum = sumOfSquares(k, x.pointer(), shape.elements);
      this.#meanSquare.set(k.mulF(sum, k.splatF32(2 / shape.elements), sum));
    }
    this.#frame.forEachGroup((group) => {
      this.#weigh(group);
      const { farthest, most } = farthestFromZero(k, SIZE, group.x);
      this.#farthest.set(farthest);
      this.#search(group.x);
      const scale = k.keepWhereGe(this.#best.scale.get(), most, k.splatF32(SMALLEST));
      k.store(this.#scales.behind(group.row), scale);
    });
    if (shape.elements === SIZE) this.#storeScale();
    else this.#quantizeScales();
  }

  #weigh({ x, importance }: LaneGroup): void {
    const { k } = this.#frame;
    const weights = this.#weights.pointer();
    if (importance === null) weighPlainly(k, 'square', SIZE, x, weights);
    else weighByImportance(k, SIZE, { x, importance, weights }, this.#meanSquare!.get());
  }

  #search(x: Scalar): void {
    const { k } = this.#frame;
    const lowest = IQ4_TABLE[0]!;
    const best = this.#best;
    const plain = k.divF(this.#farthest.get(), k.splatF32(-lowest));
    k.divF(k.splatF32(1), plain, plain);
    const { xq, q2 } = this.#sums(x, plain);
    const zero = k.zero();
    const scale = k.selectWhereGt(q2, zero, k.divF(xq, q2), zero);
    best.scale.set(scale);
    best.gain.set(k.mulF(scale, xq));
    this.#candidate.set(k.splatF32(lowest - CANDIDATES));
    k.loop(2 * CANDIDATES + 1, () => {
      this.#tryCandidate(x);
      this.#candidate.set(k.addF(this.#candidate.get(), k.splatF32(1)));
    });
  }

  #tryCandidate(x: Scalar): void {
    const { k } = this.#frame;
    const best = this.#best;
    const { xq, q2 } = this.#sums(x, k.divF(this.#candidate.get(), this.#farthest.get()));
    const lost = k.splatF32(Number.POSITIVE_INFINITY);
    const bar = k.selectWhereGt(q2, k.zero(), k.mulF(best.gain.get(), q2), lost);
    const squared = k.mulF(xq, xq);
    const scale = k.divF(xq, q2);
    best.scale.set(k.selectWhereGt(squared, bar, scale, best.scale.get()));
    const gain = k.mulF(scale, xq);
    best.gain.set(k.selectWhereGt(squared, bar, gain, best.gain.get()));
  }

  /** Weighted sums of the table's values times x, and of their squares. */
  #sums(x: Scalar, inverse: Vector): Record<'xq' | 'q2', Vector> {
    const { k } = this.#frame;
    const sums = { xq: k.zero(), q2: k.zero() };
    forEachRow(k, SIZE, [x, this.#weights.pointer()], (xAt, weightAt) => {
      const value = k.load(xAt);
      const nearest = nearestInTable(k, k.mulF(inverse, value), 'value');
      const weighted = k.mulF(k.load(weightAt), nearest);
      k.addF(sums.xq, k.mulF(weighted, value, value), sums.xq);
      k.addF(sums.q2, k.mulF(weighted, nearest, weighted), sums.q2);
    });
    return sums;
  }

  #storeScale(): void {
    const { k } = this.#frame;
    const scale = k.load(this.#scales.at(0));
    this.#words.keep({ word: this.#f16.round(scale).bits, at: 0, bits: 16 });
    k.store(this.#scales.at(0), inverseOf(k, scale));
  }

  /** 6 bits each, in steps of a 32nd of the farthest. */
  #quantizeScales(): void {
    const { k, numGroups } = this.#frame;
    const { farthest: factor } = farthestFromZero(k, numGroups, this.#scales.pointer());
    k.divF(factor, k.splatF32(-SCALE_LEVELS), factor);
    this.#words.keep({ word: this.#f16.round(factor).bits, at: 0, bits: 16 });
    const inverse = inverseOf(k, factor);
    const [lowest, highest] = [k.splatF32(-SCALE_LEVELS), k.splatF32(SCALE_LEVELS - 1)];
    const arrays = [this.#scales.pointer(), this.#scaleCodes.pointer()] as const;
    forEachRow(k, numGroups, arrays, (at, codeAt) => {
      const code = roundWithin(k, k.mulF(inverse, k.load(at)), lowest, highest);
      k.store(at, inverseOf(k, k.mulF(factor, code)));
      k.addF(code, k.splatF32(SCALE_LEVELS), code);
      k.store(codeAt, codeOf(k, code, 2 * SCALE_LEVELS - 1));
    });
    this.#keepScaleWords();
  }

  /** Upper pairs, then low nibbles. */
  #keepScaleWords(): void {
    const { k, numGroups } = this.#frame;
    const code = (g: number): Vector => k.load(this.#scaleCodes.at(g));
    const or = (a: Vector, b: Vector): Vector => k.binary('bits.or', a, b, a);
    const high = k.zero();
    for (let g = 0; g < numGroups; g++) {
      const pair = k.shift('i32.shr', code(g), 4);
      or(high, k.shift('i32.shl', pair, 2 * g, pair));
    }
    this.#words.keep({ word: high, at: 2, bits: 16 });
    const nibble = (g: number): Vector => k.binary('bits.and', code(g), k.splatBits(15));
    const low = packBytes(
      k,
      [0, 2, 4, 6].map((g) => or(k.shift('i32.shl', nibble(g + 1), 4), nibble(g))),
    );
    this.#words.keep({ word: low, at: 4, bits: 32 });
  }

  write(block: OpenBlock): void {
    const { k, numGroups } = this.#frame;
    this.#words.copyInto(block);
    const values = block.x.get();
    const out = block.out.get();
    const row = block.lane.get();
    k.loop(numGroups, () => {
      const inverse = k.broadcast(this.#scales.behind(row));
      const codesOf = (element: number): Vector => {
        const scaled = k.mulF(inverse, k.load(k.at(values, 4 * element)));
        return codeOf(k, nearestInTable(k, scaled, 'index'), 15);
      };
      packHalves(k, codesOf, out, this.#format.codesAt);
      k.addTo(values, 4 * SIZE);
      k.addTo(out, SIZE / 2);
      k.addTo(row, 4 * k.lanes);
    });
  }
}

/** The table's value nearest to `value`, or its index, as f32; half-way it is the larger. `value` is overwritten. */
function nearestInTable(k: KernelBuilder, value: Vector, what: 'value' | 'index'): Vector {
  // Midpoints doubled are whole numbers.
  k.addF(value, value, value);
  const nearest = what === 'value' ? k.splatF32(IQ4_TABLE[0]!) : k.zero();
  for (let i = 0; i < 15; i++) {
    const [below, above] = [IQ4_TABLE[i]!, IQ4_TABLE[i + 1]!];
    const step = k.splatF32(what === 'value' ? above - below : 1);
    k.addF(nearest, k.keepWhereGe(step, value, k.splatF32(below + above)), nearest);
  }
  return nearest;
}
