/**
 * ggml's blocks of 32 with scales of their own (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0); tensor/block-formats/legacy-quants.ts says what is done. With an importance scales
 * are searched for, and their codes stay as the search found them.
 */
import { WEIGHTED_SEARCH } from '../../tensor/block-formats/scale-search.ts';
import type { KernelBuilder } from '../builder.ts';
import type { Vector } from '../kernel-ir.ts';
import { absF } from '../math.ts';
import { AffineFit } from './affine-fit.ts';
import type { BlockFrame, BlockShape, LaneGroup, OpenBlock } from './block-frame.ts';
import { BlockWords } from './block-words.ts';
import { weighByImportance } from './group-weights.ts';
import {
  codeOf,
  farthestFromZero,
  forEachRow,
  inverseOf,
  LaneArray,
  roundWithin,
} from './lane-array.ts';
import { packHalves, packHighBits, storeBytes } from './pack-codes.ts';
import { StoredF16 } from './stored-f16.ts';
import { SymmetricFit } from './symmetric-fit.ts';

const SIZE = 32;

export interface SmallFormat {
  readonly shape: BlockShape;
  /** `symmetric`: codes from 0 on, value = d * (code - zero); `affine`: d * code + min; `signed`: signed bytes. */
  readonly kind: 'symmetric' | 'affine' | 'signed';
  /** All ones; 127 where signed. */
  readonly largestCode: 15 | 31 | 127;
  /** Bytes of the block. */
  readonly highAt: number | null;
  readonly codesAt: number;
}

/** What stands in the block besides codes, and two numbers that codes follow from. */
interface Scales {
  /** f32, to be stored as f16 one after another. */
  readonly stored: readonly Vector[];
  readonly inverse: Vector;
  /** Taken from weights, or added to codes. */
  readonly offset: Vector;
}

export class SmallBlocks {
  readonly #frame: BlockFrame;
  readonly #format: SmallFormat;
  readonly #symmetric: SymmetricFit | null;
  readonly #affine: AffineFit | null;
  readonly #weights: LaneArray | null;
  readonly #f16: StoredF16;
  readonly #words: BlockWords;
  /** f32 `[1, lanes]` */
  readonly #inverses: LaneArray;
  readonly #offsets: LaneArray;

  constructor(frame: BlockFrame, format: SmallFormat) {
    const { k, isWeighted } = frame;
    const { kind, largestCode: levels } = format;
    this.#frame = frame;
    this.#format = format;
    this.#symmetric =
      isWeighted && kind === 'symmetric' ? new SymmetricFit(k, SIZE, (levels + 1) / 2) : null;
    this.#affine =
      isWeighted && kind === 'affine'
        ? new AffineFit(k, { size: SIZE, levels, search: WEIGHTED_SEARCH })
        : null;
    this.#weights = isWeighted ? new LaneArray(k, SIZE) : null;
    this.#f16 = new StoredF16(k);
    this.#words = new BlockWords(k, 2);
    this.#inverses = new LaneArray(k, 1);
    this.#offsets = new LaneArray(k, 1);
  }

  fit(): void {
    const { k } = this.#frame;
    this.#frame.forEachGroup((group) => {
      const { stored, inverse, offset } = this.#scales(group);
      k.store(this.#inverses.at(0), inverse);
      k.store(this.#offsets.at(0), offset);
      for (const [i, value] of stored.entries()) {
        this.#words.keep({ word: this.#f16.round(value).bits, at: 2 * i, bits: 16 });
      }
    });
  }

  #scales(group: LaneGroup): Scales {
    const { k } = this.#frame;
    if (this.#weights !== null) return this.#searched(group, this.#weights);
    switch (this.#format.kind) {
      case 'symmetric':
        return this.#plainSymmetric(group);
      case 'affine':
        return this.#plainAffine(group);
      case 'signed': {
        const { most } = farthestFromZero(k, SIZE, group.x);
        k.divF(most, k.splatF32(this.#format.largestCode), most);
        return { stored: [most], inverse: inverseOf(k, most), offset: k.zero() };
      }
      default:
        return this.#format.kind satisfies never;
    }
  }

  #searched({ x, importance }: LaneGroup, weights: LaneArray): Scales {
    const { k, rowMeans } = this.#frame;
    const rows = { x, importance: importance!, weights: weights.pointer() };
    weighByImportance(k, SIZE, rows, rowMeans!.get());
    if (this.#symmetric !== null) {
      const { scale, inverse, offset } = this.#symmetric.emit(x, rows.weights);
      return { stored: [scale], inverse, offset };
    }
    const { scale, min, inverse, base } = this.#affine!.emit(x, rows.weights);
    k.binary('bits.xor', min, k.splatBits(1 << 31), min);
    return { stored: [scale, min], inverse, offset: base };
  }

  /** The weight of largest magnitude becomes code 0. */
  #plainSymmetric({ x }: LaneGroup): Scales {
    const { k } = this.#frame;
    const zero = (this.#format.largestCode + 1) / 2;
    const { farthest } = farthestFromZero(k, SIZE, x);
    k.divF(farthest, k.splatF32(-zero), farthest);
    return { stored: [farthest], inverse: inverseOf(k, farthest), offset: k.splatF32(zero + 0.5) };
  }

  #plainAffine({ x }: LaneGroup): Scales {
    const { k } = this.#frame;
    const min = k.load(k.at(x));
    const max = k.load(k.at(x));
    forEachRow(k, SIZE, [x], (at) => {
      const value = k.load(at);
      k.minF(value, min, min);
      k.maxF(value, max, max);
    });
    k.subF(max, min, max);
    k.divF(max, k.splatF32(this.#format.largestCode), max);
    return { stored: [max, min], inverse: inverseOf(k, max), offset: min };
  }

  write(block: OpenBlock): void {
    const { k } = this.#frame;
    const { kind, highAt, codesAt } = this.#format;
    const lane = block.lane.get();
    const values = block.x.get();
    const out = block.out.get();
    const inverse = k.broadcast(this.#inverses.behind(lane));
    const offset = k.broadcast(this.#offsets.behind(lane));
    const codesOf = (element: number): Vector =>
      this.#code(k.load(k.at(values, 4 * element)), inverse, offset);
    this.#words.copyInto(block);
    if (kind === 'signed') {
      k.unrolledLanes(SIZE, (element) => {
        storeBytes(k, k.at(out, codesAt + element), codesOf(element));
      });
      return;
    }
    packHalves(k, codesOf, out, codesAt);
    if (highAt !== null) packHighBits(k, codesOf, out, highAt);
  }

  /** i32; may overwrite x. */
  #code(x: Vector, inverse: Vector, offset: Vector): Vector {
    const { k } = this.#frame;
    const { kind, largestCode } = this.#format;
    if (kind === 'signed') return signedCode(k, k.mulF(x, inverse, x));
    const levels = (largestCode + 1) / 2;
    if (this.#frame.isWeighted && kind === 'symmetric') {
      roundWithin(k, k.mulF(inverse, x, x), k.splatF32(-levels), k.splatF32(levels - 1));
      return codeOf(k, k.addF(x, offset, x), largestCode);
    }
    if (this.#frame.isWeighted) {
      k.mulF(inverse, k.subF(x, offset, x), x);
      return codeOf(k, roundWithin(k, x, k.zero(), k.splatF32(largestCode)), largestCode);
    }
    if (kind === 'affine') k.mulF(k.subF(x, offset, x), inverse, x);
    else k.mulF(x, inverse, x);
    k.addF(x, kind === 'affine' ? k.splatF32(0.5) : offset, x);
    return truncated(k, x, largestCode);
  }
}

/** Towards 0, within 0..largest; NaN becomes 0. */
function truncated(k: KernelBuilder, value: Vector, largest: number): Vector {
  k.minF(k.maxF(value, k.zero(), value), k.splatF32(largest), value);
  const rounded = k.unary('f32.round', value);
  const above = k.selectWhereGt(rounded, value, k.splatF32(1), k.zero());
  return codeOf(k, k.subF(rounded, above, rounded), largest);
}

/** Halves away from 0; i32 within -128..127, what is no number becomes 0. */
function signedCode(k: KernelBuilder, value: Vector): Vector {
  const size = absF(k, value);
  const rounded = k.unary('f32.round', size);
  // What rounding to even left half a step below.
  const half = k.keepWhereGe(k.splatF32(1), k.subF(size, rounded, size), k.splatF32(0.5));
  k.addF(rounded, half, rounded);
  const sign = k.binary('bits.and', value, k.splatBits(1 << 31), value);
  return codeOf(k, k.binary('bits.or', rounded, sign, rounded), 255);
}

const small = (
  kind: SmallFormat['kind'],
  largestCode: SmallFormat['largestCode'],
  {
    blockBytes,
    highAt = null,
    codesAt,
  }: { blockBytes: number; highAt?: number | null; codesAt: number },
): SmallFormat => ({
  shape: {
    ...{ elements: 32, blockBytes, size: 32 },
    importance: kind === 'signed' ? 'unused' : 'ofRows',
  },
  ...{ kind, largestCode, highAt, codesAt },
});

export const SMALL_FORMATS = {
  q4_0: small('symmetric', 15, { blockBytes: 18, codesAt: 2 }),
  q4_1: small('affine', 15, { blockBytes: 20, codesAt: 4 }),
  q5_0: small('symmetric', 31, { blockBytes: 22, highAt: 2, codesAt: 6 }),
  q5_1: small('affine', 31, { blockBytes: 24, highAt: 4, codesAt: 8 }),
  q8_0: small('signed', 127, { blockBytes: 34, codesAt: 2 }),
} as const;
