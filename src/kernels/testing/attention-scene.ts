/** Sequences in a paged KV cache for tests of attention, and attention by its definition. */
import { KV_BLOCK_SIZE, keyBlockBytes, valueBlockBytes, valueRowElements } from '../kv-layout.ts';
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
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
  readonly fields: Fields;
  readonly numChunks: number;
}

function setElement(
  shape: PagedAttentionShape,
  view: DataView,
  index: number,
  value: number,
): void {
  if (shape.kvType === 'f16') view.setFloat16(2 * index, value, true);
  else view.setFloat32(4 * index, value, true);
}

/** Sequences in a cache with blocks in random order; whatever no sequence owns is NaN, and unused table entries are out of the question. */
export function scene(shape: PagedAttentionShape, sequences: readonly Sequence[], seed = 1): Scene {
  const { numHeads, numKvHeads, headDim, kvType, queryTokens, window } = shape;
  const numTokens = sequences.reduce((sum, s) => sum + s.queryLen, 0);
  const rounded = (x: Float32Array): Float32Array =>
    kvType === 'f16' ? Float32Array.from(new Float16Array(x)) : x;
  const q = randomF32(numTokens * numHeads * headDim, seed, 2);
  const kvOf = (salt: number) =>
    sequences.map(({ contextLen }, s) =>
      rounded(randomF32(contextLen * numKvHeads * headDim, seed + salt + 7 * s)),
    );
  const keys = kvOf(100);
  const values = kvOf(200);

  const maxBlocksPerSeq = Math.max(...sequences.map((s) => Math.ceil(s.contextLen / 16))) + 1;
  const numBlocks = sequences.length * maxBlocksPerSeq;
  const random = randomSource(seed);
  const order = range(numBlocks).sort(() => random() - 0.5);
  const blockTables = new Int32Array(sequences.length * maxBlocksPerSeq).fill(1 << 28);
  const keyCache = new Uint8Array(numBlocks * keyBlockBytes(shape));
  const valueCache = new Uint8Array(numBlocks * valueBlockBytes(shape));
  const keyView = new DataView(keyCache.buffer);
  const valueView = new DataView(valueCache.buffer);
  const elementBytes = kvType === 'f16' ? 2 : 4;
  for (const i of range(keyCache.length / elementBytes)) setElement(shape, keyView, i, Number.NaN);
  const rowElements = valueRowElements(headDim);
  for (const i of range(valueCache.length / elementBytes)) {
    setElement(shape, valueView, i, i % rowElements < headDim ? Number.NaN : 0);
  }
  sequences.forEach(({ contextLen, queryLen }, s) => {
    // With a window, blocks that nobody sees any more have been given back.
    const oldest = window === null ? 0 : Math.max(0, contextLen - queryLen - window + 1);
    for (let t = oldest & ~15; t < contextLen; t++) {
      const at = s * maxBlocksPerSeq + (t >> 4);
      if (t % KV_BLOCK_SIZE === 0) blockTables[at] = order.pop()!;
      const block = blockTables[at]!;
      for (const h of range(numKvHeads)) {
        for (const d of range(headDim)) {
          const from = (t * numKvHeads + h) * headDim + d;
          const keyAt = ((block * numKvHeads + h) * headDim + d) * 16 + (t & 15);
          setElement(shape, keyView, keyAt, keys[s]![from]!);
          const valueAt = ((block * numKvHeads + h) * 16 + (t & 15)) * rowElements + d;
          setElement(shape, valueView, valueAt, values[s]![from]!);
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
  return { shape, sequences, q, keys, values, fields, numChunks: (tiles.length / 8) * numKvHeads };
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
