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

  /** Bytes of one block over all layers. */
  get blockBytes(): number {
    let bytes = 0;
    for (const layout of this.#layers.values()) bytes += 2 * this.#bytesPerBlock(layout);
    return bytes;
  }

  /** Copies a block out: keys and values of each layer in turn. */
  readBlock(block: number, into: Uint8Array): void {
    this.#eachPart(block, into, (part, cached) => part.set(cached));
  }

  writeBlock(block: number, from: Uint8Array): void {
    this.#eachPart(block, from, (part, cached) => cached.set(part));
  }

  #bytesPerBlock({ numKvHeads, headDim }: KvLayout): number {
    return numKvHeads * this.blockSize * headDim * Float32Array.BYTES_PER_ELEMENT;
  }

  #eachPart(
    block: number,
    outside: Uint8Array,
    visit: (part: Uint8Array, cached: Uint8Array) => void,
  ): void {
    let at = 0;
    for (const layer of this.#layers.values()) {
      const bytes = this.#bytesPerBlock(layer);
      for (const values of [layer.keys, layer.values]) {
        const cached = new Uint8Array(values.buffer, values.byteOffset + block * bytes, bytes);
        visit(outside.subarray(at, at + bytes), cached);
        at += bytes;
      }
    }
  }
}
