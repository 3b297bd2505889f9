/**
 * How keys and values of one layer lie in the paged KV cache.
 *
 * A block holds 16 tokens. Slot s is token s & 15 of block s >> 4. Keys are transposed, so that one vector of a block is 16 tokens of one dimension;
 * values lie by token, so that one vector is dimensions of one token:
 *
 *     keys    [block][kvHead] { scales[16 tokens] } [headDim][16 tokens]
 *     values  [block][kvHead] { scales[16 tokens] } [16 tokens][headDim padded to a multiple of 16; q4: of 32]
 *
 *     f16, f32   elements as they are, no scales
 *     q8, q4     codes, and one f16 scale per token and head (tensor/kv-row.ts says how a row becomes these)
 *     k8v4       keys as in q8, values as in q4
 *
 * q4 has two codes in a byte. Keys: byte (i, token) holds dimension 2i of the token in its low half and 2i + 1 in its high half. Values: of each 32
 * dimensions byte j holds dimension j in its low half and 16 + j in its high half. So 16 bytes become two vectors of 16 lanes without a shuffle.
 *
 * What a slot holds depends on that token alone: a block may be copied, moved away and written again as bytes at any time, full or not.
 * The padding of values is zero from allocation on. Stored values are always finite (stores saturate, NaN becomes the largest finite value), so whatever
 * stands in a block that was given back cannot spread to another sequence through a product with zero.
 * Knows nothing of block tables or of who owns a block.
 */

import type { QuantizedKvType } from '../tensor/kv-row.ts';

export const KV_BLOCK_SIZE = 16;

export const KV_TYPES = ['f16', 'f32', 'q8', 'k8v4', 'q4'] as const;
export type KvType = (typeof KV_TYPES)[number];
export type FloatKvType = 'f16' | 'f32';
/** What one key or value is stored as. */
export type KvElement = FloatKvType | QuantizedKvType;

export interface KvShape {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly kvType: KvType;
}

type HeadShape = Omit<KvShape, 'numKvHeads'>;

const ELEMENT_BITS: Readonly<Record<KvElement, number>> = { f16: 16, f32: 32, q8: 8, q4: 4 };

/** Bytes of a scale, f16. */
export const KV_SCALE_BYTES = 2;

/** Whether heads are stored as codes, and so rotated (tensor/kv-row.ts), as the queries then must be. */
export function isQuantizedKv(kvType: KvType): kvType is Exclude<KvType, FloatKvType> {
  return kvType !== 'f16' && kvType !== 'f32';
}

/** What keys and values are stored as. */
export function kvElements<T extends KvType>(kvType: T): KvElementsOf<T> {
  const elements =
    kvType === 'k8v4' ? { keys: 'q8', values: 'q4' } : { keys: kvType, values: kvType };
  return elements as KvElementsOf<T>;
}

interface KvElementsOf<T extends KvType> {
  readonly keys: T extends FloatKvType ? FloatKvType : QuantizedKvType;
  readonly values: T extends FloatKvType ? FloatKvType : QuantizedKvType;
}

/** Bytes of the scales in front of the codes of a block and KV head. */
export function kvScalesBytes(kvType: KvType): number {
  return isQuantizedKv(kvType) ? KV_SCALE_BYTES * KV_BLOCK_SIZE : 0;
}

/** Values per token and head in the memory of kernels: whole vectors on every machine. */
export function valueRowElements(headDim: number): number {
  return Math.ceil(headDim / KV_BLOCK_SIZE) * KV_BLOCK_SIZE;
}

/** Bytes of one token of one head of the value cache, without its scale. */
export function valueRowBytes({ headDim, kvType }: HeadShape): number {
  const { values } = kvElements(kvType);
  const padding = values === 'q4' ? 32 : KV_BLOCK_SIZE;
  return (Math.ceil(headDim / padding) * padding * ELEMENT_BITS[values]) / 8;
}

/** Bytes that `dimensions` dimensions of the keys of a block take. */
export function keyBytes(kvType: KvType, dimensions: number): number {
  return (dimensions * KV_BLOCK_SIZE * ELEMENT_BITS[kvElements(kvType).keys]) / 8;
}

/** Bytes of the keys of one block and KV head. */
export function keyHeadBytes({ headDim, kvType }: HeadShape): number {
  return kvScalesBytes(kvType) + keyBytes(kvType, headDim);
}

/** Bytes of the values of one block and KV head. */
export function valueHeadBytes(shape: HeadShape): number {
  return kvScalesBytes(shape.kvType) + KV_BLOCK_SIZE * valueRowBytes(shape);
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
export function keyPlace(kvType: KvType, dimension: number, token: number): KvPlace {
  const { keys } = kvElements(kvType);
  if (keys === 'q4') {
    return {
      offsetBytes: (dimension >> 1) * KV_BLOCK_SIZE + token,
      isHighHalf: dimension % 2 === 1,
    };
  }
  const bytes = ELEMENT_BITS[keys] / 8;
  return { offsetBytes: (dimension * KV_BLOCK_SIZE + token) * bytes, isHighHalf: false };
}

/** Of a value, from the first element of its token. */
export function valuePlace(kvType: KvType, dimension: number): KvPlace {
  const { values } = kvElements(kvType);
  if (values === 'q4') {
    return {
      offsetBytes: (dimension >> 5) * 16 + (dimension & 15),
      isHighHalf: (dimension & 16) !== 0,
    };
  }
  return { offsetBytes: (dimension * ELEMENT_BITS[values]) / 8, isHighHalf: false };
}
