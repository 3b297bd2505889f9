/**
 * Integer dot products of packed weight codes (unsigned) with q8 activations (signed), for machines with and without 8-bit dots (DESIGN decision 14).
 *
 * A `DotAccumulator` holds the sums of one output vector over one block. With VNNI that is one i32 register. Without, products of u8 and i8 are summed
 * in i16, which holds floor(32767 / (2 * 127 * maxCode)) of them, then widened; full 8-bit codes do not fit in i16 at all and are taken as two nibbles.
 * All ways give the same exact integer.
 */
import type { KernelBuilder } from './builder.ts';
import type { Vector } from './kernel-ir.ts';
import type { QuantizedPackedFormat } from './packed-format.ts';

const NIBBLE_MASK = 0x0f0f0f0f;

/** Constants that dots need, made once per kernel. */
export interface DotConstants {
  /** 0x0f in every byte, to take codes apart. */
  readonly nibbleMask: Vector | null;
  /** 1 in every i16, to widen sums; null with 8-bit dots. */
  readonly ones: Vector | null;
}

/** @param unpacks whether the kernel takes u4 codes apart itself */
export function dotConstants(
  k: KernelBuilder,
  format: QuantizedPackedFormat,
  unpacks: boolean,
): DotConstants {
  const splits = !k.machine.hasInt8Dot && format.maxCode === 255;
  return {
    nibbleMask: unpacks || splits ? k.splatBits(NIBBLE_MASK) : null,
    ones: k.machine.hasInt8Dot ? null : k.splatBits(0x00010001),
  };
}

/** Vector registers that an accumulator holds besides the temporaries of one step. */
export function dotRegisters(k: KernelBuilder, format: QuantizedPackedFormat): 1 | 2 {
  return k.machine.hasInt8Dot || format.maxCode === 15 ? 1 : 2;
}

export class DotAccumulator {
  readonly #k: KernelBuilder;
  readonly #constants: DotConstants;
  readonly #maxCode: number;
  /** i32 sums; without 8-bit dots only once a first i16 sum was widened. */
  #sum: Vector | null = null;
  #sum16: Vector | null = null;
  #sum16High: Vector | null = null;
  #numIn16 = 0;

  /** @param start i32 to start from (consumed), or null for zero */
  constructor(
    k: KernelBuilder,
    format: QuantizedPackedFormat,
    constants: DotConstants,
    start: Vector | null,
  ) {
    this.#k = k;
    this.#constants = constants;
    this.#maxCode = format.maxCode;
    this.#sum = start;
    if (k.machine.hasInt8Dot && !start) this.#sum = k.zero();
  }

  /** Adds the products of four codes per lane with four activations per lane. */
  add(codes: Vector, activations: Vector): void {
    const k = this.#k;
    if (k.machine.hasInt8Dot) {
      k.dotU8I8Into(this.#sum!, codes, activations);
      return;
    }
    if (this.#maxCode === 255) {
      const mask = this.#constants.nibbleMask!;
      const high = k.binary('bits.and', k.shift('i16.shr', codes, 4), mask);
      const low = k.binary('bits.and', codes, mask);
      this.#sum16 = this.#add16(this.#sum16, low, activations);
      this.#sum16High = this.#add16(this.#sum16High, high, activations);
      return;
    }
    this.#sum16 = this.#add16(this.#sum16, codes, activations);
    this.#numIn16++;
    if (this.#numIn16 === Math.floor(32767 / (2 * 127 * this.#maxCode))) this.#widen();
  }

  #add16(sum: Vector | null, codes: Vector, activations: Vector): Vector {
    const k = this.#k;
    const products = k.binary('i16.dotU8I8', codes, activations);
    return sum ? k.binary('i16.add', sum, products, sum) : products;
  }

  #widen(): void {
    if (!this.#sum16) return;
    const k = this.#k;
    const wide = k.binary('i32.dotI16', this.#sum16, this.#constants.ones!, this.#sum16);
    this.#sum = this.#sum ? k.binary('i32.add', this.#sum, wide, this.#sum) : wide;
    this.#sum16 = null;
    this.#numIn16 = 0;
  }

  /** The exact sum as i32; the accumulator is spent. */
  finish(): Vector {
    const k = this.#k;
    this.#widen();
    if (this.#sum16High) {
      const wide = k.binary('i32.dotI16', this.#sum16High, this.#constants.ones!, this.#sum16High);
      const shifted = k.shift('i32.shl', wide, 4, wide);
      this.#sum = this.#sum ? k.binary('i32.add', this.#sum, shifted, this.#sum) : shifted;
    }
    return this.#sum!;
  }
}
