/**
 * Keys and values of all layers in blocks of `blockSize` tokens, in one of the formats of kv-rows.ts; and where blocks are written when they are full,
 * open groups of as many tokens in f16 (targets/open-groups.ts).
 *
 * Per layer, keys and values each: rows [numBlocks, numKvHeads, blockSize] of headDim elements. Slot = block id * blockSize + offset in the block.
 * Knows nothing of sequences; block tables say which blocks are whose.
 */
import { hasOpenGroups, type KvType, kvElements } from '../../kernels/kv-layout.ts';
import { InternalError } from '../../platform/errors.ts';
import { createKvRows, FloatRows, type KvRows } from './kv-rows.ts';

export interface KvLayout {
  readonly numKvHeads: number;
  readonly headDim: number;
}

export interface KvLayer extends KvLayout {
  readonly keys: KvRows;
  readonly values: KvRows;
  /** By slots of open groups; `null` where tokens go to blocks at once. */
  readonly open: { readonly keys: FloatRows; readonly values: FloatRows } | null;
}

export interface KvPool {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly kvType: KvType;
  /** Of those formats that have them. */
  readonly numOpenGroups?: number;
}

export class PagedKvCache {
  readonly blockSize: number;
  readonly #layers = new Map<number, KvLayer>();

  /** @param layouts by layer index */
  constructor(
    layouts: ReadonlyMap<number, KvLayout>,
    { numBlocks, blockSize, kvType, numOpenGroups = 0 }: KvPool,
  ) {
    this.blockSize = blockSize;
    for (const [layer, { numKvHeads, headDim }] of layouts) {
      const elements = kvElements(kvType);
      const numRows = numBlocks * numKvHeads * blockSize;
      const keys = createKvRows(elements.keys, numRows, headDim);
      const values = createKvRows(elements.values, numRows, headDim);
      const openRows = () => new FloatRows('f16', numOpenGroups * numKvHeads * blockSize, headDim);
      const open = hasOpenGroups(kvType) ? { keys: openRows(), values: openRows() } : null;
      this.#layers.set(layer, { numKvHeads, headDim, keys, values, open });
    }
  }

  layer(index: number): KvLayer {
    const layer = this.#layers.get(index);
    if (layer === undefined) throw new InternalError(`the KV cache has no layer ${index}`);
    return layer;
  }

  /** The row of head `kvHead` of slot `slot` in `keys` and `values`. */
  row({ numKvHeads }: KvLayout, slot: number, kvHead: number): number {
    const block = Math.floor(slot / this.blockSize);
    return (block * numKvHeads + kvHead) * this.blockSize + (slot % this.blockSize);
  }

  /** Stores one token's heads, `[numKvHeads * headDim]` from an offset, into `values` or `keys` of a layer. */
  store(
    target: KvRows,
    layout: KvLayout,
    slot: number,
    source: Float32Array,
    sourceOffset: number,
  ): void {
    const { numKvHeads, headDim } = layout;
    for (let head = 0; head < numKvHeads; head++) {
      target.store(this.row(layout, slot, head), source, sourceOffset + head * headDim);
    }
  }

  /** The block of a layer ← a full open group. */
  seal({ open, keys, values, numKvHeads, headDim }: KvLayer, group: number, block: number): void {
    const { blockSize } = this;
    const heads = new Float32Array(blockSize * headDim);
    for (const [from, to] of [
      [open!.keys, keys],
      [open!.values, values],
    ] as const) {
      for (let head = 0; head < numKvHeads; head++) {
        const [source, row] = [group, block].map((at) => (at * numKvHeads + head) * blockSize);
        for (let t = 0; t < blockSize; t++) from.read(source! + t, heads, t * headDim);
        for (let t = 0; t < blockSize; t += to.rowsPerStore) {
          to.store(row! + t, heads, t * headDim);
        }
      }
    }
  }

  copyBlock(from: number, to: number): void {
    for (const { data, bytes } of this.#parts()) {
      data.copyWithin(to * bytes, from * bytes, (from + 1) * bytes);
    }
  }

  /** Bytes of one block over all layers. */
  get blockBytes(): number {
    let total = 0;
    for (const { bytes } of this.#parts()) total += bytes;
    return total;
  }

  /** Copies a block out: keys and values of each layer in turn. */
  readBlock(block: number, into: Uint8Array): void {
    this.#eachPart(block, into, (part, cached) => part.set(cached));
  }

  writeBlock(block: number, from: Uint8Array): void {
    this.#eachPart(block, from, (part, cached) => cached.set(part));
  }

  /** All memory, and how many bytes of each piece are one block's. */
  *#parts(): Generator<{ data: Uint8Array; bytes: number }> {
    for (const { keys, values, numKvHeads } of this.#layers.values()) {
      for (const { data, bytesPerRow } of [...keys.parts, ...values.parts]) {
        yield { data, bytes: numKvHeads * this.blockSize * bytesPerRow };
      }
    }
  }

  #eachPart(
    block: number,
    outside: Uint8Array,
    visit: (part: Uint8Array, cached: Uint8Array) => void,
  ): void {
    let at = 0;
    for (const { data, bytes } of this.#parts()) {
      visit(outside.subarray(at, at + bytes), data.subarray(block * bytes, (block + 1) * bytes));
      at += bytes;
    }
  }
}
