/** Sequences in a paged KV cache for tests of attention, and attention by its definition. */
import { decodeKvHead, encodeKvChannel, encodeKvHead } from '../../tensor/kv-row.ts';
import type { PagedAttentionShape } from '../attention-shape.ts';
import {
  hasOpenGroups,
  hasTokenScales,
  KV_GROUP_TOKENS,
  KV_SCALE_BYTES,
  type KvElement,
  type KvPlace,
  keyBlockBytes,
  keyPlace,
  kvBlockSize,
  kvElements,
  valueBlockBytes,
  valuePlace,
} from '../kv-layout.ts';
import { keyAddress, type Sequence, valueAddress } from './kv-address.ts';
import { type OpenGroupScene, openGroupScene } from './open-group-scene.ts';
import { type Fields, randomF32, randomSource, range } from './run-kernel.ts';

/** More spans than any context has. */
const ALL_SPANS = 1 << 20;

export interface Scene {
  readonly shape: PagedAttentionShape;
  readonly sequences: readonly Sequence[];
  /** q of all tokens of the step, `[numTokens, numHeads * headDim]`. */
  readonly q: Float32Array;
  /** Per sequence `[contextLen, numKvHeads * headDim]`, as the cache holds them. */
  readonly keys: readonly Float64Array[];
  readonly values: readonly Float64Array[];
  /** Of formats that have them: what a query sees of its own group. */
  readonly open: OpenGroupScene | null;
  readonly fields: Fields;
  readonly numChunks: number;
}

/** A head as the cache holds it: what is stored per dimension, the scale, and the values that these stand for. */
interface StoredHead {
  readonly elements: ArrayLike<number>;
  readonly scale: number;
  readonly meaning: ArrayLike<number>;
  /** Where it is a code's: of each dimension, shared by the group. */
  readonly channels?: readonly { readonly scale: number; readonly minimum: number }[];
}

function storedHead(element: Exclude<KvElement, 'c4'>, values: Float32Array): StoredHead {
  if (hasTokenScales(element)) {
    const elements = new Int8Array(values.length);
    const scale = encodeKvHead(element, values, elements);
    return { elements, scale, meaning: decodeKvHead(elements, scale) };
  }
  const elements = element === 'f16' ? new Float16Array(values) : values;
  return { elements, scale: 1, meaning: elements };
}

/** Keys of q4 of all heads, `[tokens, numKvHeads, headDim]` of whole groups. */
function storedGroups(values: Float32Array, numKvHeads: number, headDim: number): StoredHead[] {
  const numHeads = values.length / headDim;
  const at = (t: number, h: number) => t * numKvHeads + h;
  const heads = range(numHeads).map(() => ({
    ...{ elements: new Uint8Array(headDim), scale: 1 },
    ...{ meaning: new Float64Array(headDim), channels: [] as { scale: number; minimum: number }[] },
  }));
  const codes = new Uint8Array(KV_GROUP_TOKENS);
  for (let first = 0; first < numHeads / numKvHeads; first += KV_GROUP_TOKENS) {
    for (const h of range(numKvHeads)) {
      for (const d of range(headDim)) {
        const tokens = range(KV_GROUP_TOKENS).map((t) => at(first + t, h));
        const channel = tokens.map((row) => Math.f16round(values[row * headDim + d]!));
        const { scale, minimum } = encodeKvChannel(Float32Array.from(channel), codes);
        tokens.forEach((row, t) => {
          heads[row]!.elements[d] = codes[t]!;
          heads[row]!.meaning[d] = minimum + scale * codes[t]!;
          heads[row]!.channels.push({ scale, minimum });
        });
      }
    }
  }
  return heads;
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
  if (element === 'c4') return (place.isHighHalf ? byte >> 4 : byte) & 15;
  return place.isHighHalf ? byte >> 4 : (byte << 28) >> 28;
}

/** Sequences in a cache with blocks in random order; whatever no sequence owns is NaN, and unused table entries are out of the question. */
export function scene(shape: PagedAttentionShape, sequences: readonly Sequence[], seed = 1): Scene {
  const { numHeads, numKvHeads, headDim, kvType, queryTokens, window } = shape;
  const numTokens = sequences.reduce((sum, s) => sum + s.queryLen, 0);
  const q = randomF32(numTokens * numHeads * headDim, seed, 2);
  const element = kvElements(kvType);
  const blockSize = kvBlockSize(kvType);
  const wholeBlocks = (tokens: number): number => Math.ceil(tokens / blockSize) * blockSize;
  const rows = (salt: number): Float32Array[] =>
    sequences.map(({ contextLen }, s) =>
      randomF32(wholeBlocks(contextLen) * numKvHeads * headDim, seed + salt + 7 * s),
    );
  const stored = (of: KvElement, rowsOf: readonly Float32Array[]): StoredHead[][] =>
    rowsOf.map((row) =>
      of === 'c4'
        ? storedGroups(row, numKvHeads, headDim)
        : range(row.length / headDim).map((i) =>
            storedHead(of, row.subarray(i * headDim, (i + 1) * headDim)),
          ),
    );
  const [keyRows, valueRows] = [rows(100), rows(200)];
  const keyHeads = stored(element.keys, keyRows);
  const valueHeads = stored(element.values, valueRows);
  const meanings = (of: StoredHead[][]): Float64Array[] =>
    of.map((stored) => {
      const all = new Float64Array(stored.length * headDim);
      stored.forEach(({ meaning }, i) => {
        all.set(meaning, i * headDim);
      });
      return all;
    });

  const maxBlocksPerSeq =
    Math.max(...sequences.map((s) => wholeBlocks(s.contextLen))) / blockSize + 1;
  const numBlocks = sequences.length * maxBlocksPerSeq;
  const random = randomSource(seed);
  const order = range(numBlocks).sort(() => random() - 0.5);
  const blockTables = new Int32Array(sequences.length * maxBlocksPerSeq).fill(1 << 28);
  const keyCache = new Uint8Array(numBlocks * keyBlockBytes(shape));
  const valueCache = new Uint8Array(numBlocks * valueBlockBytes(shape));
  const keyView = new DataView(keyCache.buffer);
  const valueView = new DataView(valueCache.buffer);
  const setKey = (slot: number, h: number, { scale, elements, channels }: StoredHead): void => {
    const at = keyAddress(shape, slot, h);
    if (hasTokenScales(element.keys)) keyView.setFloat16(at.scale, scale, true);
    for (const d of range(headDim)) {
      const place = keyPlace(kvType, d, slot % blockSize);
      setElement(element.keys, keyView, at.elements, place, elements[d]!);
      if (!channels) continue;
      keyView.setFloat16(at.scale + KV_SCALE_BYTES * d, channels[d]!.scale, true);
      const minimumAt = at.scale + KV_SCALE_BYTES * (headDim + d);
      keyView.setFloat16(minimumAt, channels[d]!.minimum, true);
    }
  };
  const setValue = (slot: number, h: number, { scale, elements }: StoredHead): void => {
    const at = valueAddress(shape, slot, h);
    if (hasTokenScales(element.values)) valueView.setFloat16(at.scale, scale, true);
    for (const d of range(headDim)) {
      setElement(element.values, valueView, at.elements, valuePlace(kvType, d), elements[d]!);
    }
  };
  const garbageOf = (of: KvElement): StoredHead => {
    const isFloat = of === 'f16' || of === 'f32';
    const elements = new Array<number>(headDim).fill(isFloat ? Number.NaN : -5);
    const nothing = { scale: Number.NaN, minimum: Number.NaN };
    const channels = of === 'c4' ? { channels: elements.map(() => nothing) } : {};
    return { elements, scale: Number.NaN, meaning: [], ...channels };
  };
  for (const slot of range(numBlocks * blockSize)) {
    for (const h of range(numKvHeads)) {
      setKey(slot, h, garbageOf(element.keys));
      setValue(slot, h, garbageOf(element.values));
    }
  }
  sequences.forEach(({ contextLen, queryLen }, s) => {
    // With a window, blocks that nobody sees any more have been given back.
    const oldest = window === null ? 0 : Math.max(0, contextLen - queryLen - window + 1);
    for (let t = oldest - (oldest % blockSize); t < contextLen; t++) {
      const at = s * maxBlocksPerSeq + Math.floor(t / blockSize);
      if (t % blockSize === 0) blockTables[at] = order.pop()!;
      // A block that is not full has nothing yet, if its tokens are in a group.
      if (hasOpenGroups(kvType) && wholeBlocks(t + 1) > contextLen) continue;
      const slot = blockSize * blockTables[at]! + (t % blockSize);
      for (const h of range(numKvHeads)) {
        setKey(slot, h, keyHeads[s]![t * numKvHeads + h]!);
        setValue(slot, h, valueHeads[s]![t * numKvHeads + h]!);
      }
    }
  });

  const open = hasOpenGroups(kvType)
    ? openGroupScene(shape, sequences, { keys: keyRows, values: valueRows })
    : null;
  const queryStarts = new Int32Array(sequences.length + 1);
  const tiles: number[] = [];
  sequences.forEach(({ queryLen }, s) => {
    queryStarts[s + 1] = queryStarts[s]! + queryLen;
    for (let t = 0; t < queryLen; ) {
      const position = sequences[s]!.contextLen - queryLen + t;
      const toGroupEnd = open ? KV_GROUP_TOKENS - (position % KV_GROUP_TOKENS) : queryLen;
      const numTokens = Math.min(queryTokens, queryLen - t, toGroupEnd);
      const group = open?.groupOf(s, position) ?? 0;
      tiles.push(s, queryStarts[s]! + t, numTokens, 0, ALL_SPANS, 0, 0, group);
      t += numTokens;
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
    ...open?.fields,
  };
  return {
    ...{ shape, sequences, q, fields, open },
    keys: meanings(keyHeads),
    values: meanings(valueHeads),
    numChunks: (tiles.length / 8) * numKvHeads,
  };
}

/** The definition, in f64. */
export function attentionReference(scene: Scene): Float64Array {
  const { shape, sequences, q, open } = scene;
  const { numHeads, numKvHeads, headDim, scale, window } = shape;
  const out = new Float64Array(q.length);
  const isOpen = (query: number, t: number): boolean =>
    open !== null && Math.floor(t / KV_GROUP_TOKENS) === Math.floor(query / KV_GROUP_TOKENS);
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
          const keys = isOpen(i, t) ? open!.keys : scene.keys;
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += q[row + d]! * keys[s]![at(t) + d]!;
          scores.push(sum * scale);
        }
        const max = Math.max(...scores);
        const weights = scores.map((x) => Math.exp(x - max));
        const total = weights.reduce((a, b) => a + b);
        weights.forEach((p, j) => {
          const values = isOpen(i, first + j) ? open!.values : scene.values;
          for (let d = 0; d < headDim; d++) {
            out[row + d]! += (p / total) * values[s]![at(first + j) + d]!;
          }
        });
      }
    }
  });
  return out;
}
