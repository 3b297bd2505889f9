/** ggml's super-blocks whose groups have a scale and a min (Q4_K, Q5_K, Q2_K); tensor/block-formats/k-quants-encode.ts says what is done. */
import { type AffineSearch, WEIGHTED_SEARCH } from '../../tensor/block-formats/scale-search.ts';
import type { KernelBuilder, VectorSlot } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import { AffineFit } from './affine-fit.ts';
import type { BlockFrame, BlockShape, LaneGroup, OpenBlock } from './block-frame.ts';
import { type BlockWord, BlockWords } from './block-words.ts';
import { meanSquare, type PlainWeights, weighByImportance, weighPlainly } from './group-weights.ts';
import { codeOf, forEachRow, LaneArray, roundWithin } from './lane-array.ts';
import { PositiveFit } from './positive-fit.ts';
import { StoredF16 } from './stored-f16.ts';

/** Codes of a block's scales or mins, i32 rows by group, and the f16 bits of what they are multiplied by. */
export interface ScaleCodes {
  of(group: number): Vector;
  factorBits(): Vector;
}

export interface AffineFormat {
  readonly shape: BlockShape;
  /** The largest codes, all ones. */
  readonly levels: 3 | 15 | 31;
  readonly scaleLevels: 15 | 63;
  /** Whether a scale beyond all codes gets the largest; otherwise 0. Only an infinite one can be, where all scales are subnormal. */
  readonly clampsScales: boolean;
  /** Without an importance. */
  readonly search: AffineSearch;
  readonly weights: PlainWeights;
  /** What the mean square of a block counts, with an importance. */
  readonly meanSquareFactor: 1 | 2;
  words(k: KernelBuilder, scales: ScaleCodes, mins: ScaleCodes): BlockWord[];
  /** Codes of a block, i32 `[elements]`, to the block at `out`. */
  packCodes(k: KernelBuilder, codes: Scalar, out: Scalar): void;
}

const MOST_WORDS = 5;

export class AffineBlocks {
  readonly #frame: BlockFrame;
  readonly #format: AffineFormat;
  readonly #fit: AffineFit;
  /** f32 `[size, lanes]` */
  readonly #weights: LaneArray;
  readonly #meanSquare: VectorSlot | null;
  readonly #scales: GroupScales;
  readonly #mins: GroupScales;
  /** What the search found, f32 `[numGroups, lanes]`. */
  readonly #inverses: LaneArray;
  readonly #bases: LaneArray;
  readonly #words: BlockWords;
  /** i32 `[elements]` */
  readonly #codes: number;

  constructor(frame: BlockFrame, format: AffineFormat) {
    const { k, numGroups, isWeighted } = frame;
    const { size, elements } = format.shape;
    this.#frame = frame;
    this.#format = format;
    const search = isWeighted ? WEIGHTED_SEARCH : format.search;
    this.#fit = new AffineFit(k, { size, levels: format.levels, search });
    this.#weights = new LaneArray(k, size);
    this.#meanSquare = isWeighted ? k.vectorSlot() : null;
    // Sums of the groups' weights: what errors of scales count.
    const counts = isWeighted ? new LaneArray(k, numGroups) : null;
    this.#scales = new GroupScales(k, numGroups, format, counts);
    this.#mins = new GroupScales(k, numGroups, format, counts);
    this.#inverses = new LaneArray(k, numGroups);
    this.#bases = new LaneArray(k, numGroups);
    this.#words = new BlockWords(k, MOST_WORDS);
    this.#codes = k.reserveScratch(4 * elements);
  }

  /** Scales of the blocks of all lanes. */
  fit(): void {
    const { k, shape, x } = this.#frame;
    const { meanSquareFactor, words } = this.#format;
    this.#meanSquare?.set(meanSquare(k, x.pointer(), shape.elements, meanSquareFactor));
    this.#frame.forEachGroup((group) => {
      this.#weigh(group);
      const { scale, min, inverse, base } = this.#fit.emit(group.x, this.#weights.pointer());
      k.store(this.#scales.values.behind(group.row), scale);
      k.store(this.#mins.values.behind(group.row), min);
      k.store(this.#inverses.behind(group.row), inverse);
      k.store(this.#bases.behind(group.row), base);
    });
    this.#scales.quantize();
    this.#mins.quantize();
    for (const word of words(k, this.#scales, this.#mins)) this.#words.keep(word);
  }

  #weigh({ x, importance, row }: LaneGroup): void {
    const { k } = this.#frame;
    const { size } = this.#format.shape;
    const weights = this.#weights.pointer();
    if (importance === null) {
      weighPlainly(k, this.#format.weights, size, x, weights);
      return;
    }
    const sum = weighByImportance(k, size, { x, importance, weights }, this.#meanSquare!.get());
    k.store(this.#scales.counts!.behind(row), sum);
  }

  write(block: OpenBlock): void {
    const { k } = this.#frame;
    const { levels } = this.#format;
    const codes = k.pointer(k.at(k.scratch, this.#codes));
    const round = (value: Vector): Vector =>
      codeOf(k, roundWithin(k, value, k.zero(), k.splatF32(levels)), levels);
    this.#frame.roundBlock(block, this.#scales.values, codes, {
      byScale: (of) => {
        const [scale, min] = [of(this.#scales.values), of(this.#mins.values)];
        return (x) => round(k.divF(k.addF(x, min, x), scale, x));
      },
      asFound: (of) => {
        const [inverse, base] = [of(this.#inverses), of(this.#bases)];
        return (x) => round(k.mulF(inverse, k.subF(x, base, x), x));
      },
    });
    this.#words.copyInto(block);
    this.#format.packCodes(k, codes, block.out.get());
  }
}

/** Scales (or mins) of the groups of all lanes' blocks, as found, then as stored; and their codes. */
class GroupScales implements ScaleCodes {
  /** f32 `[numGroups, lanes]` */
  readonly values: LaneArray;
  /** f32 `[numGroups, lanes]`; null where all errors count alike. */
  readonly counts: LaneArray | null;
  readonly #k: KernelBuilder;
  readonly #numGroups: number;
  readonly #levels: number;
  readonly #clamps: boolean;
  /** f32, then i32 `[numGroups, lanes]` */
  readonly #codes: LaneArray;
  readonly #factorBits: VectorSlot;
  readonly #f16: StoredF16;
  readonly #fit: PositiveFit | null;

  constructor(
    k: KernelBuilder,
    numGroups: number,
    { scaleLevels: levels, clampsScales }: AffineFormat,
    counts: LaneArray | null,
  ) {
    this.#k = k;
    this.#numGroups = numGroups;
    this.#levels = levels;
    this.#clamps = clampsScales;
    this.values = new LaneArray(k, numGroups);
    this.counts = counts;
    this.#codes = new LaneArray(k, numGroups);
    this.#factorBits = k.vectorSlot();
    this.#f16 = new StoredF16(k);
    this.#fit = counts === null ? null : new PositiveFit(k, numGroups, levels);
  }

  of(group: number): Vector {
    return this.#k.load(this.#codes.at(group));
  }

  factorBits(): Vector {
    return this.#factorBits.get();
  }

  quantize(): void {
    const k = this.#k;
    const { values, counts } = this;
    const factor =
      counts === null
        ? this.#quantizeByLargest()
        : this.#fit!.emit(values.pointer(), counts.pointer(), this.#codes.pointer());
    const { bits, stored } = this.#f16.round(factor);
    this.#factorBits.set(bits);
    forEachRow(k, this.#numGroups, [values.pointer(), this.#codes.pointer()], (at, codeAt) => {
      const code = codeOf(k, k.load(codeAt), this.#levels);
      k.store(codeAt, code);
      k.store(at, k.mulF(stored, k.unary('f32.fromI32', code, code), code));
    });
  }

  #quantizeByLargest(): Vector {
    const k = this.#k;
    const { values } = this;
    const zero = k.zero();
    const largest = k.zero();
    forEachRow(k, this.#numGroups, [values.pointer()], (at) => {
      k.maxF(k.load(at), largest, largest);
    });
    const levels = k.splatF32(this.#levels);
    const inverse = k.selectWhereGt(largest, zero, k.divF(levels, largest), zero);
    forEachRow(k, this.#numGroups, [values.pointer(), this.#codes.pointer()], (at, codeAt) => {
      const code = k.mulF(inverse, k.load(at));
      k.store(codeAt, roundWithin(k, code, null, this.#clamps ? levels : null));
    });
    return k.divF(largest, levels, largest);
  }
}
