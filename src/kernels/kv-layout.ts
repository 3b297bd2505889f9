/**
 * How keys and values of one layer lie in the paged KV cache.
 *
 * A block holds 16 tokens, of q4 32. Keys are transposed, so that one vector of a block is tokens of one dimension; values lie by token, so that one vector
 * is dimensions of one token:
 *
 *     keys    [block][kvHead] { scales } [headDim][tokens]
 *     values  [block][kvHead] { scales[tokens] } [tokens][headDim padded to a multiple of 16; 4 bits: of 32]
 *
 *     f16, f32   elements as they are, no scales
 *     q8         codes, and one f16 scale per token and head (tensor/kv-row.ts says how a row becomes these)
 *     q4         values as in q8 with codes of 4 bits; keys in 4 bits with an f16 scale and minimum per channel: scales[headDim], minima[headDim]
 *     open       what a sequence has of its unfinished block of q4 (open-group.ts): f16, values rotated as their codes will be
 *     unpacked   a block of q4 as f32, in scratch: keys, and codes of values (unpack-kv.ts)
 *
 * Two 4-bit codes share a byte. Keys of q4: of 16 bytes of a dimension byte j holds token j in its low half and 16 + j in its high half. Values: of each
 * 32 dimensions byte j holds dimension j in its low half and 16 + j in its high half. So 16 bytes become two vectors of 16 lanes without a shuffle.
 *
 * What a slot holds depends on that token alone, in q4 a block on its 32: a block may be copied, moved away and written again as bytes at any time, in q4
 * when it is full. The padding of values is zero from allocation on. Stored values are always finite (stores saturate, NaN becomes the largest finite
 * value), so whatever stands in a block that was given back cannot spread to another sequence through a product with zero.
 * Knows nothing of block tables or of who owns a block.
 */

import type { QuantizedKvType } from '../tensor/kv-row.ts';

/** Tokens of a block of q4, whose keys share scales; positions of a group are 32 g to 32 g + 31. */
export const KV_GROUP_TOKENS = 32;
/** Lanes of the widest vector. */
const MOST_LANES = 16;

export const KV_TYPES = ['f16', 'f32', 'q8', 'q4'] as const;
export type KvType = (typeof KV_TYPES)[number];
export type FloatKvType = 'f16' | 'f32';
/** A layout: of the cache's blocks, of open groups, or of blocks of q4 that a kernel has taken apart in scratch. */
export type KvLayoutType = KvType | 'open' | 'unpacked';
/** What one key or value is stored as; c4: 4 bits with scale and minimum of its channel. */
export type KvElement = FloatKvType | QuantizedKvType | 'c4';

export interface KvShape {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly kvType: KvLayoutType;
}

type HeadShape = Omit<KvShape, 'numKvHeads'>;

const ELEMENT_BITS: Readonly<Record<KvElement, number>> = { f16: 16, f32: 32, q8: 8, q4: 4, c4: 4 };

/** Bytes of a scale, f16. */
export const KV_SCALE_BYTES = 2;

const ELEMENTS: Readonly<Record<KvLayoutType, { keys: KvElement; values: KvElement }>> = {
  f16: { keys: 'f16', values: 'f16' },
  f32: { keys: 'f32', values: 'f32' },
  q8: { keys: 'q8', values: 'q8' },
  q4: { keys: 'c4', values: 'q4' },
  open: { keys: 'f16', values: 'f16' },
  unpacked: { keys: 'f32', values: 'f32' },
};

/** What keys and values are stored as. */
export function kvElements(kvType: KvLayoutType): { keys: KvElement; values: KvElement } {
  return ELEMENTS[kvType];
}

/** Whether elements are codes with a scale for each token and head. */
export function hasTokenScales(element: KvElement): element is QuantizedKvType {
  return element === 'q8' || element === 'q4';
}

/** Whether blocks are written when they are full, and until then their tokens are kept in groups of f16 (open-group.ts). */
export function hasOpenGroups(kvType: KvLayoutType): boolean {
  return kvType === 'q4';
}

/** Whether keys are stored rotated (tensor/kv-row.ts), as the queries then must be. */
export function hasRotatedKeys(kvType: KvLayoutType): boolean {
  return hasTokenScales(ELEMENTS[kvType].keys);
}

/** Whether values are stored rotated, as sums of them then are. */
export function hasRotatedValues(kvType: KvLayoutType): boolean {
  return kvType === 'open' || hasTokenScales(ELEMENTS[kvType].values);
}

/** Tokens of a block. */
export function kvBlockSize(kvType: KvLayoutType): number {
  const hasGroups = kvType === 'open' || kvType === 'unpacked' || hasOpenGroups(kvType);
  return hasGroups ? KV_GROUP_TOKENS : 16;
}

/** Bytes of the scales in front of the keys of a block and KV head. */
export function keyScalesBytes({ headDim, kvType }: HeadShape): number {
  const { keys } = ELEMENTS[kvType];
  if (keys === 'c4') return 2 * KV_SCALE_BYTES * headDim;
  return hasTokenScales(keys) ? KV_SCALE_BYTES * kvBlockSize(kvType) : 0;
}

/** Bytes of the scales in front of the values of a block and KV head. */
export function valueScalesBytes(kvType: KvLayoutType): number {
  return hasTokenScales(ELEMENTS[kvType].values) ? KV_SCALE_BYTES * kvBlockSize(kvType) : 0;
}

/** Values per token and head in the memory of kernels: whole vectors on every machine. */
export function valueRowElements(headDim: number): number {
  return Math.ceil(headDim / MOST_LANES) * MOST_LANES;
}

/** Bytes of one token of one head of the value cache, without its scale. */
export function valueRowBytes({ headDim, kvType }: HeadShape): number {
  const { values } = ELEMENTS[kvType];
  const padding = values === 'q4' ? 32 : MOST_LANES;
  return (Math.ceil(headDim / padding) * padding * ELEMENT_BITS[values]) / 8;
}

/** Bytes that `dimensions` dimensions of the keys of a block take. */
export function keyBytes(kvType: KvLayoutType, dimensions: number): number {
  return (dimensions * kvBlockSize(kvType) * ELEMENT_BITS[ELEMENTS[kvType].keys]) / 8;
}

/** Bytes of the keys of one block and KV head. */
export function keyHeadBytes(shape: HeadShape): number {
  return keyScalesBytes(shape) + keyBytes(shape.kvType, shape.headDim);
}

/** Bytes of the values of one block and KV head. */
export function valueHeadBytes(shape: HeadShape): number {
  return valueScalesBytes(shape.kvType) + kvBlockSize(shape.kvType) * valueRowBytes(shape);
}

/** Bytes of the keys of one block of one layer. */
export function keyBlockBytes(shape: KvShape): number {
  return shape.numKvHeads * keyHeadBytes(shape);
}

/** Bytes of the values of one block of one layer. */
export function valueBlockBytes(shape: KvShape): number {
  return shape.numKvHeads * valueHeadBytes(shape);
}

/** Where an element stands: bytes from the first element, and which half of the byte if two share it. */
export interface KvPlace {
  readonly offsetBytes: number;
  readonly isHighHalf: boolean;
}

/** Of a key, from the first element of its block and head. */
export function keyPlace(kvType: KvLayoutType, dimension: number, token: number): KvPlace {
  const { keys } = ELEMENTS[kvType];
  if (keys === 'c4') return { offsetBytes: dimension * 16 + (token & 15), isHighHalf: token >= 16 };
  const elements = dimension * kvBlockSize(kvType) + token;
  return { offsetBytes: (elements * ELEMENT_BITS[keys]) / 8, isHighHalf: false };
}

/** Of a value, from the first element of its token. */
export function valuePlace(kvType: KvLayoutType, dimension: number): KvPlace {
  const { values } = ELEMENTS[kvType];
  if (values === 'q4') {
    return {
      offsetBytes: (dimension >> 5) * 16 + (dimension & 15),
      isHighHalf: (dimension & 16) !== 0,
    };
  }
  return { offsetBytes: (dimension * ELEMENT_BITS[values]) / 8, isHighHalf: false };
}
