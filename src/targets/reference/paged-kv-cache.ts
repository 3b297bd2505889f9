/**
 * Keys and values of all layers in blocks of `blockSize` tokens, f32.
 *
 * Per layer, keys and values each: [numBlocks, numKvHeads, blockSize, headDim]. Slot = block id * blockSize + offset in the block.
 * Knows nothing of sequences; block tables say which blocks are whose.
 */
import { InternalError } from '../../platform/errors.ts';

export interface KvLayout {
  readonly numKvHeads: number;
  readonly headDim: number;
}

export interface KvLayer extends KvLayout {
  readonly keys: Float32Array;
  readonly values: Float32Array;
}

export class PagedKvCache {
  readonly blockSize: number;
  readonly #layers = new Map<number, KvLayer>();

  /** @param layouts by layer index */
  constructor(layouts: ReadonlyMap<number, KvLayout>, numBlocks: number, blockSize: number) {
    this.blockSize = blockSize;
    for (const [layer, { numKvHeads, headDim }] of layouts) {
      const length = numBlocks * numKvHeads * blockSize * headDim;
      const keys = new Float32Array(length);
      this.#layers.set(layer, { numKvHeads, headDim, keys, values: new Float32Array(length) });
    }
  }

  layer(index: number): KvLayer {
    const layer = this.#layers.get(index);
    if (layer === undefined) throw new InternalError(`the KV cache has no layer ${index}`);
    return layer;
  }

  /** Where head `kvHead` of slot `slot` starts in `keys` and `values`. */
  headOffset({ numKvHeads, headDim }: KvLayout, slot: number, kvHead: number): number {
    const block = Math.floor(slot / this.blockSize);
    return ((block * numKvHeads + kvHead) * this.blockSize + (slot % this.blockSize)) * headDim;
  }

  /** Stores one token's heads, `[numKvHeads * headDim]` from an offset, into `values` or `keys` of a layer. */
  store(
    target: Float32Array,
    layout: KvLayout,
    slot: number,
    source: Float32Array,
    sourceOffset: number,
  ): void {
    const { numKvHeads, headDim } = layout;
    for (let head = 0; head < numKvHeads; head++) {
      const to = this.headOffset(layout, slot, head);
      const from = sourceOffset + head * headDim;
      for (let i = 0; i < headDim; i++) target[to + i] = source[from + i]!;
    }
  }

  copyBlock(from: number, to: number): void {
    for (const { keys, values, numKvHeads, headDim } of this.#layers.values()) {
      const length = numKvHeads * this.blockSize * headDim;
      keys.copyWithin(to * length, from * length, (from + 1) * length);
      values.copyWithin(to * length, from * length, (from + 1) * length);
    }
  }
}
