/** Sequences in a paged KV cache for tests of attention, and attention by its definition. */
import { decodeKvHead, encodeKvHead } from '../../tensor/kv-row.ts';
import {
  isQuantizedKv,
  KV_BLOCK_SIZE,
  KV_SCALE_BYTES,
  type KvElement,
  type KvPlace,
  type KvShape,
  keyBlockBytes,
  keyHeadBytes,
  keyPlace,
  kvElements,
  kvScalesBytes,
  valueBlockBytes,
  valueHeadBytes,
  valuePlace,
  valueRowBytes,
} from '../kv-layout.ts';
import type { PagedAttentionShape } from '../paged-attention.ts';
import { type Fields, randomF32, randomSource, range } from './run-kernel.ts';

/** More spans than any context has. */
const ALL_SPANS = 1 << 20;

export interface Sequence {
  readonly contextLen: number;
  /** Query tokens of the step, its last ones. */
  readonly queryLen: number;
}

export interface Scene {
  readonly shape: PagedAttentionShape;
  readonly sequences: readonly Sequence[];
  /** q of all tokens of the step, `[numTokens, numHeads * headDim]`. */
  readonly q: Float32Array;
  /** Per sequence `[contextLen, numKvHeads * headDim]`, as the cache holds them. */
  readonly keys: readonly Float64Array[];
  readonly values: readonly Float64Array[];
  readonly fields: Fields;
  readonly numChunks: number;
}

/** A head as the cache holds it: what is stored per dimension, the scale, and the values that these stand for. */
interface StoredHead {
  readonly elements: ArrayLike<number>;
  readonly scale: number;
  readonly meaning: ArrayLike<number>;
}

function storedHead(element: KvElement, values: Float32Array): StoredHead {
  if (element === 'q8' || element === 'q4') {
    const elements = new Int8Array(values.length);
    const scale = encodeKvHead(element, values, elements);
    return { elements, scale, meaning: decodeKvHead(elements, scale) };
  }
  const elements = element === 'f16' ? new Float16Array(values) : values;
  return { elements, scale: 1, meaning: elements };
}

/** Writes an element; `at` is the place of the first one of its head (keys) or token (values). */
function setElement(element: KvElement, view: DataView, at: number, place: KvPlace, value: number) {
  const offset = at + place.offsetBytes;
  if (element === 'f16') view.setFloat16(offset, value, true);
  else if (element === 'f32') view.setFloat32(offset, value, true);
  else if (element === 'q8') view.setInt8(offset, value);
  else {
    const before = view.getUint8(offset);
    const [kept, shift] = place.isHighHalf ? [0x0f, 4] : [0xf0, 0];
    view.setUint8(offset, (before & kept) | ((value & 15) << shift));
  }
}

/** Reads what `setElement` wrote. */
export function kvElement(element: KvElement, view: DataView, at: number, place: KvPlace): number {
  const offset = at + place.offsetBytes;
  if (element === 'f16') return view.getFloat16(offset, true);
  if (element === 'f32') return view.getFloat32(offset, true);
  const byte = view.getInt8(offset);
  if (element === 'q8') return byte;
  return place.isHighHalf ? byte >> 4 : (byte << 28) >> 28;
}

/** Where the keys of a slot and head lie: their scale, and what `keyPlace` counts from (without the token). */
export function keyAddress(shape: KvShape, slot: number, head: number) {
  const start = (slot >> 4) * keyBlockBytes(shape) + head * keyHeadBytes(shape);
  return {
    scale: start + KV_SCALE_BYTES * (slot & 15),
    elements: start + kvScalesBytes(shape.kvType),
  };
}

/** Where the values of a slot and head lie: their scale, and what `valuePlace` counts from. */
export function valueAddress(shape: KvShape, slot: number, head: number) {
  const start = (slot >> 4) * valueBlockBytes(shape) + head * valueHeadBytes(shape);
  return {
    scale: start + KV_SCALE_BYTES * (slot & 15),
    elements: start + kvScalesBytes(shape.kvType) + (slot & 15) * valueRowBytes(shape),
  };
}

/** Sequences in a cache with blocks in random order; whatever no sequence owns is NaN, and unused table entries are out of the question. */
export function scene(shape: PagedAttentionShape, sequences: readonly Sequence[], seed = 1): Scene {
  const { numHeads, numKvHeads, headDim, kvType, queryTokens, window } = shape;
  const numTokens = sequences.reduce((sum, s) => sum + s.queryLen, 0);
  const q = randomF32(numTokens * numHeads * headDim, seed, 2);
  const element = kvElements(kvType);
  const heads = (salt: number, of: KvElement): StoredHead[][] =>
    sequences.map(({ contextLen }, s) => {
      const row = randomF32(contextLen * numKvHeads * headDim, seed + salt + 7 * s);
      return range(contextLen * numKvHeads).map((i) =>
        storedHead(of, row.subarray(i * headDim, (i + 1) * headDim)),
      );
    });
  const keyHeads = heads(100, element.keys);
  const valueHeads = heads(200, element.values);
  const meanings = (of: StoredHead[][]): Float64Array[] =>
    of.map((stored) => {
      const all = new Float64Array(stored.length * headDim);
      stored.forEach(({ meaning }, i) => {
        all.set(meaning, i * headDim);
      });
      return all;
    });

  const maxBlocksPerSeq = Math.max(...sequences.map((s) => Math.ceil(s.contextLen / 16))) + 1;
  const numBlocks = sequences.length * maxBlocksPerSeq;
  const random = randomSource(seed);
  const order = range(numBlocks).sort(() => random() - 0.5);
  const blockTables = new Int32Array(sequences.length * maxBlocksPerSeq).fill(1 << 28);
  const keyCache = new Uint8Array(numBlocks * keyBlockBytes(shape));
  const valueCache = new Uint8Array(numBlocks * valueBlockBytes(shape));
  const keyView = new DataView(keyCache.buffer);
  const valueView = new DataView(valueCache.buffer);
  for (const slot of range(numBlocks * KV_BLOCK_SIZE)) {
    for (const h of range(numKvHeads)) {
      const key = keyAddress(shape, slot, h);
      const value = valueAddress(shape, slot, h);
      if (isQuantizedKv(kvType)) {
        keyView.setFloat16(key.scale, Number.NaN, true);
        valueView.setFloat16(value.scale, Number.NaN, true);
      }
      const garbage = isQuantizedKv(kvType) ? -5 : Number.NaN;
      for (const d of range(headDim)) {
        setElement(element.keys, keyView, key.elements, keyPlace(kvType, d, slot & 15), garbage);
        setElement(element.values, valueView, value.elements, valuePlace(kvType, d), garbage);
      }
    }
  }
  sequences.forEach(({ contextLen, queryLen }, s) => {
    // With a window, blocks that nobody sees any more have been given back.
    const oldest = window === null ? 0 : Math.max(0, contextLen - queryLen - window + 1);
    for (let t = oldest & ~15; t < contextLen; t++) {
      const at = s * maxBlocksPerSeq + (t >> 4);
      if (t % KV_BLOCK_SIZE === 0) blockTables[at] = order.pop()!;
      const block = blockTables[at]!;
      const slot = KV_BLOCK_SIZE * block + (t & 15);
      for (const h of range(numKvHeads)) {
        const key = keyAddress(shape, slot, h);
        const value = valueAddress(shape, slot, h);
        const storedKey = keyHeads[s]![t * numKvHeads + h]!;
        const storedValue = valueHeads[s]![t * numKvHeads + h]!;
        if (isQuantizedKv(kvType)) {
          keyView.setFloat16(key.scale, storedKey.scale, true);
          valueView.setFloat16(value.scale, storedValue.scale, true);
        }
        for (const d of range(headDim)) {
          const keyAt = keyPlace(kvType, d, t & 15);
          setElement(element.keys, keyView, key.elements, keyAt, storedKey.elements[d]!);
          const valueAt = valuePlace(kvType, d);
          setElement(element.values, valueView, value.elements, valueAt, storedValue.elements[d]!);
        }
      }
    }
  });

  const queryStarts = new Int32Array(sequences.length + 1);
  const tiles: number[] = [];
  sequences.forEach(({ queryLen }, s) => {
    queryStarts[s + 1] = queryStarts[s]! + queryLen;
    for (let t = 0; t < queryLen; t += queryTokens) {
      const numTokens = Math.min(queryTokens, queryLen - t);
      tiles.push(s, queryStarts[s]! + t, numTokens, 0, ALL_SPANS, 0, 0, 0);
    }
  });
  const fields = {
    q,
    qStride: 4 * numHeads * headDim,
    out: new Float32Array(q.length).fill(-7),
    outStride: 4 * numHeads * headDim,
    keyCache,
    valueCache,
    blockTables,
    maxBlocksPerSeq,
    contextLens: Int32Array.from(sequences, (s) => s.contextLen),
    queryStarts,
    tiles: Int32Array.from(tiles),
    parts: 0,
  };
  return {
    ...{ shape, sequences, q, fields },
    keys: meanings(keyHeads),
    values: meanings(valueHeads),
    numChunks: (tiles.length / 8) * numKvHeads,
  };
}

/** The definition, in f64. */
export function attentionReference({ shape, sequences, q, keys, values }: Scene): Float64Array {
  const { numHeads, numKvHeads, headDim, scale, window } = shape;
  const out = new Float64Array(q.length);
  let token = 0;
  sequences.forEach(({ contextLen, queryLen }, s) => {
    for (let i = contextLen - queryLen; i < contextLen; i++, token++) {
      for (const h of range(numHeads)) {
        const kvHead = Math.floor(h / (numHeads / numKvHeads));
        const row = (token * numHeads + h) * headDim;
        const first = window === null ? 0 : Math.max(0, i - window + 1);
        const at = (t: number): number => (t * numKvHeads + kvHead) * headDim;
        const scores: number[] = [];
        for (let t = first; t <= i; t++) {
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += q[row + d]! * keys[s]![at(t) + d]!;
          scores.push(sum * scale);
        }
        const max = Math.max(...scores);
        const weights = scores.map((x) => Math.exp(x - max));
        const total = weights.reduce((a, b) => a + b);
        weights.forEach((p, j) => {
          for (let d = 0; d < headDim; d++) {
            out[row + d]! += (p / total) * values[s]![at(first + j) + d]!;
          }
        });
      }
    }
  });
  return out;
}
