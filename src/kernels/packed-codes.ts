/**
 * Codes, scales and mins of packed blocks (packed-format.ts) as vectors, for every kernel that reads weights: lane = row of the row group.
 *
 * Knows the layout of a block; not what is done with the values.
 */
import type { KernelBuilder } from './builder.ts';
import type { Address, Vector } from './kernel-ir.ts';
import {
  type BlockLayout,
  blockLayout,
  PLANE_BITS,
  type QuantizedPackedFormat,
  ROW_GROUP,
} from './packed-format.ts';

const VECTOR_BYTES = 64;
/** Planes hold bits above those of a nibble. */
const NIBBLE_BITS = 4;

const inEveryByte = (bits: number): number => bits * 0x01010101;

/** Bits of planes, where codes have them. */
export const planeMask = (format: QuantizedPackedFormat): number =>
  inEveryByte(((1 << PLANE_BITS[format.codes]) - 1) << NIBBLE_BITS);

/** Where the lanes of one vector of a row group stand. */
export interface BlockPlace {
  /** An address in the block. */
  readonly at: (offsetBytes: number) => Address;
  /** An address in the header of its super-block. */
  readonly header: (offsetBytes: number) => Address;
  /** First row of the row group in the vector. */
  readonly lane: number;
}

/** Reads blocks of one format; keeps the constants that this takes. */
export class PackedCodes {
  readonly format: QuantizedPackedFormat;
  readonly layout: BlockLayout;
  readonly nibbleMask: Vector | null;
  readonly planeMask: Vector | null;
  readonly #k: KernelBuilder;
  readonly #values: Vector | null;

  /** @param options.looksUp whether codes of formats with `values` are wanted as values */
  constructor(
    k: KernelBuilder,
    format: QuantizedPackedFormat,
    { looksUp = true }: { looksUp?: boolean } = {},
  ) {
    this.#k = k;
    this.format = format;
    this.layout = blockLayout(format);
    this.nibbleMask = format.codes === 'u8' ? null : k.splatBits(inEveryByte(15));
    this.planeMask = this.layout.planesPerGroup > 0 ? k.splatBits(planeMask(format)) : null;
    this.#values = format.values && looksUp ? k.table16(format.values) : null;
  }

  group(place: BlockPlace, group: number): GroupCodes {
    return new GroupCodes(this.#k, this, this.#values, place, group);
  }

  scales(place: BlockPlace, group: number): Vector {
    return this.#factor(place, group, 0, 0);
  }

  /** Null where the format has none. */
  mins(place: BlockPlace, group: number): Vector | null {
    if (!this.format.hasMin) return null;
    return this.#factor(place, group, this.layout.minsOffset, 2 * ROW_GROUP);
  }

  #factor(place: BlockPlace, group: number, offset: number, headerOffset: number): Vector {
    const k = this.#k;
    const { scaleBytes } = this.layout;
    const from = place.at(offset + (group * ROW_GROUP + place.lane) * scaleBytes);
    if (this.format.scaleType === 'f16') return k.load(from, 'f16');
    const whole = k.load(from, 'i8');
    const factor = k.load(place.header(headerOffset + 2 * place.lane), 'f16');
    return k.mulF(k.unary('f32.fromI32', whole, whole), factor, factor);
  }
}

/** The codes of one group: quad q is inputs 4q .. 4q+3 of the group, byte by byte in each lane. */
export class GroupCodes {
  readonly #k: KernelBuilder;
  readonly #codes: PackedCodes;
  readonly #values: Vector | null;
  readonly #place: BlockPlace;
  readonly #group: number;
  #stored: { readonly index: number; readonly vector: Vector } | null = null;
  #plane: { readonly index: number; readonly vector: Vector } | null = null;

  constructor(
    k: KernelBuilder,
    codes: PackedCodes,
    values: Vector | null,
    place: BlockPlace,
    group: number,
  ) {
    this.#k = k;
    this.#codes = codes;
    this.#values = values;
    this.#place = place;
    this.#group = group;
  }

  /** Vector j of codes as they are stored; kept until the next one. */
  stored(j: number): Vector {
    if (this.#stored?.index !== j) {
      const { codesOffset, vectorsPerGroup } = this.#codes.layout;
      const offset = codesOffset + VECTOR_BYTES * (this.#group * vectorsPerGroup + j);
      this.#stored = { index: j, vector: this.#load(offset) };
    }
    return this.#stored.vector;
  }

  #load(offset: number): Vector {
    return this.#k.load(this.#place.at(offset + 4 * this.#place.lane));
  }

  /** u4 codes of a quad, without upper bits and not looked up. */
  nibbles(quad: number): Vector {
    const k = this.#k;
    const { vectorsPerGroup } = this.#codes.layout;
    const mask = this.#codes.nibbleMask!;
    const isHigh = quad >= vectorsPerGroup;
    const stored = this.stored(isHigh ? quad - vectorsPerGroup : quad);
    if (!isHigh) return k.binary('bits.and', stored, mask);
    const shifted = k.shift('i16.shr', stored, NIBBLE_BITS);
    return k.binary('bits.and', shifted, mask, shifted);
  }

  /** The upper bits of a quad where they stand in its codes; null without planes. */
  upperBits(quad: number): Vector | null {
    const k = this.#k;
    const mask = this.#codes.planeMask;
    if (!mask) return null;
    const { planesOffset, planesPerGroup } = this.#codes.layout;
    const bit = quad * PLANE_BITS[this.#codes.format.codes];
    const index = bit >> 3;
    if (this.#plane?.index !== index) {
      const offset = planesOffset + VECTOR_BYTES * (this.#group * planesPerGroup + index);
      this.#plane = { index, vector: this.#load(offset) };
    }
    const plane = this.#plane.vector;
    const shift = (bit & 7) - NIBBLE_BITS;
    if (shift === 0) return k.binary('bits.and', plane, mask);
    const moved = k.shift(shift > 0 ? 'i32.shr' : 'i32.shl', plane, Math.abs(shift));
    return k.binary('bits.and', moved, mask, moved);
  }

  /** The codes of a quad (or the values that they stand for) as u8, in a register of their own unless they are stored so. */
  quad(quad: number): Vector {
    const k = this.#k;
    if (!this.#codes.nibbleMask) return this.stored(quad);
    const code = this.nibbles(quad);
    if (this.#values) return k.binary('i8.lookup16', this.#values, code, code);
    const upper = this.upperBits(quad);
    return upper ? k.binary('bits.or', code, upper, code) : code;
  }
}

/** What codes of a group become values by. */
export interface GroupFactors {
  readonly scales: Vector;
  readonly mins: Vector | null;
}

/** Decoded values of packed weights: exactly those of the stored row. */
export class GroupValues {
  readonly #k: KernelBuilder;
  readonly #codes: PackedCodes;
  readonly #byteMask: Vector;
  readonly #zero: Vector | null;

  constructor(k: KernelBuilder, codes: PackedCodes) {
    this.#k = k;
    this.#codes = codes;
    this.#byteMask = k.splatBits(255);
    this.#zero = codes.format.zero > 0 ? k.splatF32(codes.format.zero) : null;
  }

  factors(place: BlockPlace, group: number): GroupFactors {
    return { scales: this.#codes.scales(place, group), mins: this.#codes.mins(place, group) };
  }

  /** Each input of the group, ascending, as f32 in a register of its own. */
  forEach(place: BlockPlace, group: number, visit: (input: number, value: Vector) => void): void {
    const factors = this.factors(place, group);
    const codes = this.#codes.group(place, group);
    for (let quad = 0; quad < this.#codes.format.groupSize / 4; quad++) {
      this.#quad(codes, quad, factors, visit);
    }
  }

  /** The four inputs of one quad alone, ascending: holds no registers between quads but the factors. */
  quad(
    place: BlockPlace,
    group: number,
    quad: number,
    factors: GroupFactors,
    visit: (input: number, value: Vector) => void,
  ): void {
    this.#quad(this.#codes.group(place, group), quad, factors, visit);
  }

  #quad(
    codes: GroupCodes,
    quad: number,
    { scales, mins }: GroupFactors,
    visit: (input: number, value: Vector) => void,
  ): void {
    const k = this.#k;
    const packed = codes.quad(quad);
    for (let i = 0; i < 4; i++) {
      const value = this.#byte(packed, i);
      k.unary('f32.fromI32', value, value);
      if (this.#zero) k.subF(value, this.#zero, value);
      k.mulF(value, scales, value);
      if (mins) k.addF(value, mins, value);
      visit(4 * quad + i, value);
    }
  }

  #byte(packed: Vector, i: number): Vector {
    const k = this.#k;
    if (i === 0) return k.binary('bits.and', packed, this.#byteMask);
    const shifted = k.shift('i32.shr', packed, 8 * i);
    return i === 3 ? shifted : k.binary('bits.and', shifted, this.#byteMask, shifted);
  }
}
