/** Q4_K, Q5_K and Q2_K: how they differ (layouts: tensor/block-formats/k-quants.ts). */
import { Q2_SEARCH, Q4_SEARCH, Q5_SEARCH } from '../../tensor/block-formats/k-quants-encode.ts';
import type { KernelBuilder } from '../builder.ts';
import type { Vector } from '../kernel-ir.ts';
import type { AffineFormat, ScaleCodes } from './affine-blocks.ts';
import { type BlockWord, packBytes } from './block-words.ts';
import { packBits, packNibbles, packPairs } from './pack-codes.ts';

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

export const Q4_K: AffineFormat = {
  shape: { elements: 256, blockBytes: 144, size: 32, importance: 'used' },
  ...{
    levels: 15,
    scaleLevels: 63,
    clampsScales: true,
    search: Q4_SEARCH,
    weights: 'aboveMean',
    meanSquareFactor: 2,
  },
  words: sixBitWords,
  packCodes: (k, codes, out) => packNibbles(k, codes, out, 16),
};

export const Q5_K: AffineFormat = {
  ...Q4_K,
  shape: { elements: 256, blockBytes: 176, size: 32, importance: 'used' },
  ...{ levels: 31, search: Q5_SEARCH },
  packCodes: (k, codes, out) => {
    packBits(k, codes, 4, out, 16);
    packNibbles(k, codes, out, 48);
  },
};

/** A byte for each group, then the codes, then both factors. */
export const Q2_K: AffineFormat = {
  shape: { elements: 256, blockBytes: 84, size: 16, importance: 'used' },
  ...{
    levels: 3,
    scaleLevels: 15,
    clampsScales: false,
    search: Q2_SEARCH,
    weights: 'magnitude',
    meanSquareFactor: 1,
  },
  words: (k, scales, mins) => {
    const byteOf = (g: number): Vector => {
      const upper = k.shift('i32.shl', mins.of(g), 4);
      return k.binary('bits.or', upper, scales.of(g), upper);
    };
    const factors = k.shift('i32.shl', mins.factorBits(), 16);
    return [
      ...[0, 4, 8, 12].map((at) => {
        const bytes = [0, 1, 2, 3].map((i) => byteOf(at + i));
        return { word: packBytes(k, bytes), at, bits: 32 } as const;
      }),
      { word: k.binary('bits.or', factors, scales.factorBits(), factors), at: 80, bits: 32 },
    ];
  },
  packCodes: (k, codes, out) => packPairs(k, codes, out, 16),
};
