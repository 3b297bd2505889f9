/** Codes into the bytes of blocks (layouts: tensor/block-formats/k-quants.ts, legacy-quants.ts); those of a super-block are i32 `[256]`. */
import type { KernelBuilder } from '../builder.ts';
import type { Address, Scalar, Vector } from '../kernel-ir.ts';

/** i32 lanes within 0..255 to bytes. */
export function storeBytes(k: KernelBuilder, at: Address, value: Vector): void {
  k.shift('i32.shl', value, 24, value);
  k.store(at, k.shift('i32.sar', value, 24, value), 'i8');
}

/** Low nibbles of 64 codes at a time in 32 bytes, from byte `first` on: those of the second 32 are the upper ones. */
export function packNibbles(k: KernelBuilder, codes: Scalar, out: Scalar, first: number): void {
  for (let chunk = 0; chunk < 4; chunk++) {
    k.unrolledLanes(32, (element) => {
      const nibbleOf = (from: number): Vector => {
        const code = k.load(k.at(codes, 4 * (from + element)));
        return k.binary('bits.and', code, k.splatBits(15), code);
      };
      const upper = nibbleOf(64 * chunk + 32);
      k.shift('i32.shl', upper, 4, upper);
      const byte = k.binary('bits.or', upper, nibbleOf(64 * chunk), upper);
      storeBytes(k, k.at(out, first + 32 * chunk + element), byte);
    });
  }
}

/** A bit of every code: those of 32 codes as one bit each of 32 bytes, from byte `first` on. It is the codes' highest. */
export function packBits(
  k: KernelBuilder,
  codes: Scalar,
  bit: number,
  out: Scalar,
  first: number,
): void {
  k.unrolledLanes(32, (element) => {
    const byte = k.zero();
    for (let group = 0; group < 8; group++) {
      const highest = k.load(k.at(codes, 4 * (32 * group + element)));
      k.shift('i32.shr', highest, bit, highest);
      k.binary('bits.or', byte, k.shift('i32.shl', highest, group, highest), byte);
    }
    storeBytes(k, k.at(out, first + element), byte);
  });
}

/** Low pairs of bits of 128 codes at a time in 32 bytes, from byte `first` on. */
export function packPairs(k: KernelBuilder, codes: Scalar, out: Scalar, first: number): void {
  for (let half = 0; half < 2; half++) {
    k.unrolledLanes(32, (element) => {
      const byte = k.zero();
      for (let i = 0; i < 4; i++) {
        const pair = k.load(k.at(codes, 4 * (128 * half + 32 * i + element)));
        k.binary('bits.and', pair, k.splatBits(3), pair);
        k.binary('bits.or', byte, k.shift('i32.shl', pair, 2 * i, pair), byte);
      }
      storeBytes(k, k.at(out, first + 32 * half + element), byte);
    });
  }
}

/** Low nibbles of 32 codes in 16 bytes, from byte `first` on: those of the second 16 are the upper ones. */
export function packHalves(
  k: KernelBuilder,
  codesOf: (element: number) => Vector,
  out: Scalar,
  first: number,
): void {
  k.unrolledLanes(16, (element) => {
    const nibbleOf = (from: number): Vector => {
      const code = codesOf(from);
      return k.binary('bits.and', code, k.splatBits(15), code);
    };
    const upper = nibbleOf(16 + element);
    k.shift('i32.shl', upper, 4, upper);
    const byte = k.binary('bits.or', upper, nibbleOf(element), upper);
    storeBytes(k, k.at(out, first + element), byte);
  });
}

/** The fifth bits of 32 codes in 4 bytes, from byte `first` on. */
export function packHighBits(
  k: KernelBuilder,
  codesOf: (element: number) => Vector,
  out: Scalar,
  first: number,
): void {
  // 2^lane, by way of the exponent of an f32.
  const power = k.binary('i32.add', k.laneIndex(), k.splatBits(127));
  k.shift('i32.shl', power, 23, power);
  k.unary('i32.fromF32', power, power);
  const word = k.zero();
  k.unrolledLanes(32, (element) => {
    const bit = k.shift('i32.shr', codesOf(element), 4);
    k.binary('i32.mul', bit, power, bit);
    const bits = k.unary('i32.reduceAdd', bit);
    k.binary('bits.or', word, k.shift('i32.shl', bits, element, bits), word);
  });
  k.store(k.at(out, first), word, 'bits', 1);
}
