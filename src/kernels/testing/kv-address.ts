/** Sequences of a scene of attention, and where in a cache the keys and values of a slot lie. */
import {
  KV_SCALE_BYTES,
  type KvShape,
  keyBlockBytes,
  keyHeadBytes,
  keyScalesBytes,
  kvBlockSize,
  kvElements,
  valueBlockBytes,
  valueHeadBytes,
  valueRowBytes,
  valueScalesBytes,
} from '../kv-layout.ts';

export interface Sequence {
  readonly contextLen: number;
  /** Query tokens of the step, its last ones. */
  readonly queryLen: number;
}

/** Where the keys of a slot and head lie: their scale (by channel: the first one), and what `keyPlace` counts from (without the token). */
export function keyAddress(shape: KvShape, slot: number, head: number) {
  const blockSize = kvBlockSize(shape.kvType);
  const start = Math.floor(slot / blockSize) * keyBlockBytes(shape) + head * keyHeadBytes(shape);
  const token = kvElements(shape.kvType).keys === 'c4' ? 0 : slot % blockSize;
  return { scale: start + KV_SCALE_BYTES * token, elements: start + keyScalesBytes(shape) };
}

/** Where the values of a slot and head lie: their scale, and what `valuePlace` counts from. */
export function valueAddress(shape: KvShape, slot: number, head: number) {
  const blockSize = kvBlockSize(shape.kvType);
  const start =
    Math.floor(slot / blockSize) * valueBlockBytes(shape) + head * valueHeadBytes(shape);
  const token = slot % blockSize;
  return {
    scale: start + KV_SCALE_BYTES * token,
    elements: start + valueScalesBytes(shape.kvType) + token * valueRowBytes(shape),
  };
}
