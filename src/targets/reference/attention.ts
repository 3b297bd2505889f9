/** Attention of one token over the paged KV cache; scores and softmax in f64. */
import { rotateHead, rotationSize } from '../../tensor/kv-row.ts';
import type { KvLayer, PagedKvCache } from './paged-kv-cache.ts';
import type { HeadRow } from './rope.ts';

export interface AttentionQuery {
  readonly numHeads: number;
  /** Factor on q · k. */
  readonly scale: number;
  /** Positions seen, the token's own included; null: all up to it. */
  readonly window: number | null;
  readonly position: number;
  /** KV block ids of the sequence, from `blockTableOffset`, in order of position. */
  readonly blockTable: Int32Array;
  readonly blockTableOffset: number;
  /** The open group that positions of the token's own group are read from, if the layer has open groups. */
  readonly openGroup: number;
}

/**
 * out[h] = sum over visible positions j of softmax_j(scale * q[h] · k_j) * v_j, for every query head h; head h reads KV head h / (numHeads / numKvHeads).
 *
 * @param q      rotated query, f32 `[numHeads * headDim]` from its offset
 * @param out    f32 `[numHeads * headDim]` from its offset; must not overlap q
 * @param scores workspace, f64, at least position + 1
 *
 * PagedAttention: Kwon et al. 2023, arXiv:2309.06180.
 */
export function pagedAttentionRow(
  q: HeadRow,
  out: HeadRow,
  query: AttentionQuery,
  cache: PagedKvCache,
  layer: KvLayer,
  scores: Float64Array,
): void {
  const { numHeads, scale, window, position, blockTable, blockTableOffset, openGroup } = query;
  const { numKvHeads, headDim, keys, values, open } = layer;
  const { blockSize } = cache;
  // Positions from here on are read from the open group.
  const openStart = open === null ? position + 1 : position - (position % blockSize);
  const rowOf = (j: number, kvHead: number): number => {
    const block =
      j < openStart ? blockTable[blockTableOffset + Math.floor(j / blockSize)]! : openGroup;
    return cache.row(layer, block * blockSize + (j % blockSize), kvHead);
  };
  const rotation = rotationSize(headDim);
  const groupSize = numHeads / numKvHeads;
  const first = window === null ? 0 : Math.max(0, position - window + 1);
  for (let head = 0; head < numHeads; head++) {
    const kvHead = Math.floor(head / groupSize);
    const start = q.offset + head * headDim;
    const plain = q.data.slice(start, start + headDim);
    const query = plain.slice();
    if (keys.isRotated) rotateHead(query);
    const factor = keys.isRotated ? scale / rotation : scale;
    let max = -Infinity;
    for (let j = first; j <= position; j++) {
      const row = rowOf(j, kvHead);
      const score =
        j < openStart ? keys.dot(row, query, 0) * factor : open!.keys.dot(row, plain, 0) * scale;
      scores[j] = score;
      if (score > max) max = score;
    }
    let sum = 0;
    for (let j = first; j <= position; j++) {
      const weight = Math.exp(scores[j]! - max);
      scores[j] = weight;
      sum += weight;
    }
    const to = out.offset + head * headDim;
    const result = out.data.subarray(to, to + headDim).fill(0);
    for (let j = first; j < openStart; j++) {
      values.addTo(rowOf(j, kvHead), scores[j]! / sum, result, 0);
    }
    if (values.isRotated) {
      rotateHead(result);
      for (let i = 0; i < headDim; i++) result[i] = result[i]! / rotation;
    }
    for (let j = Math.max(first, openStart); j <= position; j++) {
      open!.values.addTo(rowOf(j, kvHead), scores[j]! / sum, result, 0);
    }
  }
}
