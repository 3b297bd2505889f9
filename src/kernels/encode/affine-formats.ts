/** Q4_K, Q5_K and Q2_K: how they differ, and how their codes are packed (layouts: tensor/block-formats/k-quants.ts). */
import { Q4_SEARCH, Q5_SEARCH } from '../../tensor/block-formats/k-quants-encode.ts';
import type { KernelBuilder } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import type { AffineFormat, ScaleCodes } from './affine-blocks.ts';
import { storeBytes } from './block-frame.ts';
import { type BlockWord, packBytes } from './block-words.ts';

/** Of Q4_K and Q5_K: both factors, then 6 bits each of 8 scales and 8 mins in 12 bytes. */
function sixBitWords(k: KernelBuilder, scales: ScaleCodes, mins: ScaleCodes): BlockWord[] {
  const or = (a: Vector, b: Vector): Vector => k.binary('bits.or', a, b, a);
  const masked = (code: Vector, mask: number): Vector =>
    k.binary('bits.and', code, k.splatBits(mask), code);
  const upper = (codes: ScaleCodes, g: number): Vector =>
    k.shift('i32.shl', masked(codes.of(g + 4), 48), 2);
  const lower = (codes: ScaleCodes, g: number): Vector => masked(codes.of(g + 4), 15);
  const word = (byteOf: (g: number) => Vector): Vector => packBytes(k, [0, 1, 2, 3].map(byteOf));
  const words = [
    () => or(k.shift('i32.shl', mins.factorBits(), 16), scales.factorBits()),
    () => word((g) => or(scales.of(g), upper(scales, g))),
    () => word((g) => or(mins.of(g), upper(mins, g))),
    () => word((g) => or(k.shift('i32.shl', lower(mins, g), 4), lower(scales, g))),
  ];
  return words.map((make, i) => ({ word: make(), at: 4 * i, bits: 32 }));
}

/** Low nibbles of 64 codes in 32 bytes, from byte `first` on. */
function packNibbles(k: KernelBuilder, codes: Scalar, out: Scalar, first: number): void {
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

/** The fifth bits of the 8 groups: a bit each of 32 bytes, from byte `first` on. */
function packFifthBits(k: KernelBuilder, codes: Scalar, out: Scalar, first: number): void {
  k.unrolledLanes(32, (element) => {
    const byte = k.zero();
    for (let group = 0; group < 8; group++) {
      const bit = k.load(k.at(codes, 4 * (32 * group + element)));
      k.shift('i32.shr', bit, 4, bit);
      k.binary('bits.or', byte, k.shift('i32.shl', bit, group, bit), byte);
    }
    storeBytes(k, k.at(out, first + element), byte);
  });
}

export const Q4_K: AffineFormat = {
  shape: { elements: 256, blockBytes: 144, size: 32 },
  ...{ levels: 15, scaleLevels: 63, search: Q4_SEARCH, weights: 'aboveMean', meanSquareFactor: 2 },
  words: sixBitWords,
  packCodes: (k, codes, out) => packNibbles(k, codes, out, 16),
};

export const Q5_K: AffineFormat = {
  ...Q4_K,
  shape: { elements: 256, blockBytes: 176, size: 32 },
  ...{ levels: 31, search: Q5_SEARCH },
  packCodes: (k, codes, out) => {
    packFifthBits(k, codes, out, 16);
    packNibbles(k, codes, out, 48);
  },
};
