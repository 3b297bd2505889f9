/**
 * How keys and values of one layer lie in the paged KV cache.
 *
 * A block holds 16 tokens. Slot s is token s & 15 of block s >> 4. Keys are transposed, so that one vector of a block is 16 tokens of one dimension;
 * values lie by token, so that one vector is dimensions of one token:
 *
 *     keys    [block][kvHead][headDim][16 tokens]
 *     values  [block][kvHead][16 tokens][headDim padded to a multiple of 16]
 *
 * Elements are f16 or f32. The padding of values is zero from allocation on. Stored values are always finite (stores saturate, NaN becomes the
 * largest finite value), so whatever stands in a block that was given back cannot spread to another sequence through a product with zero.
 * Knows nothing of block tables or of who owns a block.
 */

export const KV_BLOCK_SIZE = 16;

export type KvType = 'f16' | 'f32';

export interface KvShape {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly kvType: KvType;
}

export function kvElementBytes(kvType: KvType): 2 | 4 {
  return kvType === 'f16' ? 2 : 4;
}

/** Stored elements per token and head of the value cache. */
export function valueRowElements(headDim: number): number {
  return Math.ceil(headDim / KV_BLOCK_SIZE) * KV_BLOCK_SIZE;
}

/** Bytes of the keys of one block and KV head. */
export function keyHeadBytes({ headDim, kvType }: Omit<KvShape, 'numKvHeads'>): number {
  return headDim * KV_BLOCK_SIZE * kvElementBytes(kvType);
}

/** Bytes of the values of one block and KV head. */
export function valueHeadBytes({ headDim, kvType }: Omit<KvShape, 'numKvHeads'>): number {
  return valueRowElements(headDim) * KV_BLOCK_SIZE * kvElementBytes(kvType);
}

/** Bytes of the keys of one block of one layer. */
export function keyBlockBytes(shape: KvShape): number {
  return shape.numKvHeads * keyHeadBytes(shape);
}

/** Bytes of the values of one block of one layer. */
export function valueBlockBytes(shape: KvShape): number {
  return shape.numKvHeads * valueHeadBytes(shape);
}
