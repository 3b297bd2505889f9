/**
 * Integer dot products of packed weight codes (unsigned) with q8 activations (signed), for machines with and without 8-bit dots.
 *
 * A `DotAccumulator` holds the sums of one output vector over one block. With VNNI that is one i32 register. Without, products of u8 and i8 are summed
 * in i16, which holds floor(32767 / (2 * 127 * maxCode)) of them, then widened; full 8-bit codes do not fit in i16 at all and are taken as two nibbles.
 * All ways give the same exact integer.
 */
import {
  Q8_BLOCK_VALUES,
  Q8_D_OFFSET,
  Q8_DSUM_OFFSET,
  Q8_NSUM_OFFSET,
  Q8_NSUM16_OFFSET,
} from './activation-format.ts';
import type { KernelBuilder } from './builder.ts';
import type { Address, Vector, VectorMachine } from './kernel-ir.ts';
import type { QuantizedPackedFormat } from './packed-format.ts';

const NIBBLE_MASK = 0x0f0f0f0f;

/** Constants that dots need, made once per kernel. */
export interface DotConstants {
  /** 0x0f in every byte, to take apart codes that do not fit 16-bit sums. */
  readonly nibbleMask: Vector | null;
  /** 1 in every i16, to widen sums; null with 8-bit dots. */
  readonly ones: Vector | null;
}

/** Whether dots take codes apart into nibbles: without 8-bit dots, where full 8-bit codes do not fit 16-bit sums. */
export function splitsCodes(machine: VectorMachine, format: QuantizedPackedFormat): boolean {
  return !machine.hasInt8Dot && format.maxCode === 255;
}

/** Four codes per lane as dots take them: `low + 16 * high` where they are taken apart, else `low` alone. */
export interface DotCodes {
  readonly low: Vector;
  readonly high: Vector | null;
}

export function splitCodes(
  k: KernelBuilder,
  format: QuantizedPackedFormat,
  { nibbleMask }: DotConstants,
  codes: Vector,
): DotCodes {
  if (!splitsCodes(k.machine, format)) return { low: codes, high: null };
  const high = k.binary('bits.and', k.shift('i16.shr', codes, 4), nibbleMask!);
  return { low: k.binary('bits.and', codes, nibbleMask!), high };
}

/** @param nibbleMask of the kernel, if it has one */
export function dotConstants(
  k: KernelBuilder,
  format: QuantizedPackedFormat,
  nibbleMask: Vector | null = null,
): DotConstants {
  return {
    nibbleMask: nibbleMask ?? (splitsCodes(k.machine, format) ? k.splatBits(NIBBLE_MASK) : null),
    ones: k.machine.hasInt8Dot ? null : k.splatBits(0x00010001),
  };
}

export class DotAccumulator {
  readonly #k: KernelBuilder;
  readonly #constants: DotConstants;
  readonly #format: QuantizedPackedFormat;
  /** i32 sums; without 8-bit dots only once a first i16 sum was widened. */
  #sum: Vector | null = null;
  #sum16: Vector | null = null;
  #sum16High: Vector | null = null;
  #numIn16 = 0;

  readonly #makeStart: (() => Vector) | null;

  /** @param makeStart makes the i32 to start from (a register of its own), or null for zero; called when it costs the fewest live registers */
  constructor(
    k: KernelBuilder,
    format: QuantizedPackedFormat,
    constants: DotConstants,
    makeStart: (() => Vector) | null,
  ) {
    this.#k = k;
    this.#constants = constants;
    this.#format = format;
    this.#makeStart = makeStart;
    if (k.machine.hasInt8Dot) this.#sum = makeStart ? makeStart() : k.zero();
  }

  /** Adds the products of four codes per lane with four activations per lane. */
  add(codes: Vector, activations: Vector): void {
    if (this.#k.machine.hasInt8Dot) this.#k.dotU8I8Into(this.#sum!, codes, activations);
    else this.#addIn16(splitCodes(this.#k, this.#format, this.#constants, codes), activations);
  }

  /** Adds the products of four codes per lane with the four activations at `address`, the same for every lane. */
  addAt(codes: DotCodes, address: Address): void {
    const k = this.#k;
    if (k.machine.hasInt8Dot) k.dotU8I8BroadcastInto(this.#sum!, codes.low, address);
    else this.#addIn16(codes, k.broadcast(address));
  }

  #addIn16({ low, high }: DotCodes, activations: Vector): void {
    if (high) {
      this.addSplit(low, high, activations);
      return;
    }
    this.#sum16 = this.#add16(this.#sum16, low, activations);
    this.#numIn16++;
    if (this.#numIn16 === Math.floor(32767 / (2 * 127 * this.#format.maxCode))) this.#widen();
  }

  /** For codes up to 255 without 8-bit dots: adds products of the codes `low + 16 * high`, both 0..15; up to eight of them. */
  addSplit(low: Vector, high: Vector, activations: Vector): void {
    this.#sum16 = this.#add16(this.#sum16, low, activations);
    this.#sum16High = this.#add16(this.#sum16High, high, activations);
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
    if (!k.machine.hasInt8Dot && this.#makeStart) {
      k.binary('i32.add', this.#sum!, this.#makeStart(), this.#sum!);
    }
    return this.#sum!;
  }
}

/**
 * What a group of weights needs of the sums of its activations: the start of a dot for codes with a zero point, and the term of the minimum.
 * Groups of 16 take their half of the block: first from `nsum16`, last as the difference.
 */
export class ActivationSums {
  readonly #k: KernelBuilder;
  readonly #half: 'all' | 'first' | 'last';
  readonly #at: (offset: number) => Address;
  /** For `DotAccumulator`: -zero * (sum of codes), or null without a zero point. */
  readonly makeStart: (() => Vector) | null;

  /** @param sub which group inside the block of 32; `at`: an address in the q8 block */
  constructor(
    k: KernelBuilder,
    format: QuantizedPackedFormat,
    sub: number,
    at: (offset: number) => Address,
  ) {
    this.#k = k;
    this.#at = at;
    this.#half = format.groupSize === Q8_BLOCK_VALUES ? 'all' : sub === 0 ? 'first' : 'last';
    this.makeStart =
      format.zero === 0
        ? null
        : () => {
            const nsum = this.#nsum();
            return k.shift('i32.shl', nsum, Math.log2(format.zero), nsum);
          };
  }

  #nsum(): Vector {
    const k = this.#k;
    if (this.#half === 'first') return k.broadcast(this.#at(Q8_NSUM16_OFFSET));
    const nsum = k.broadcast(this.#at(Q8_NSUM_OFFSET));
    if (this.#half === 'all') return nsum;
    return k.binary('i32.sub', nsum, k.broadcast(this.#at(Q8_NSUM16_OFFSET)), nsum);
  }

  /** sum += mins * d * (sum of codes) */
  addMins(sum: Vector, mins: Vector): void {
    const k = this.#k;
    if (this.#half === 'all') {
      k.fmaBroadcastInto(sum, mins, this.#at(Q8_DSUM_OFFSET));
      return;
    }
    const nsum = this.#nsum();
    const value = k.unary('f32.fromI32', nsum, nsum);
    k.mulF(value, k.broadcast(this.#at(Q8_D_OFFSET)), value);
    k.fnmaInto(sum, mins, value);
  }
}
