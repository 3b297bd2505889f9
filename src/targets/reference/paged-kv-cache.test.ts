import assert from 'node:assert/strict';
import test from 'node:test';
import { hasOpenGroups, KV_GROUP_TOKENS, KV_TYPES, kvElements } from '../../kernels/kv-layout.ts';
import { kvRowBytes } from './kv-rows.ts';
import { PagedKvCache } from './paged-kv-cache.ts';

test('a block read out and written elsewhere holds the same keys and values of every layer', () => {
  const layouts = new Map([
    [0, { numKvHeads: 2, headDim: 6 }],
    [4, { numKvHeads: 1, headDim: 10 }],
  ]);
  for (const kvType of KV_TYPES) {
    const blockSize = hasOpenGroups(kvType) ? KV_GROUP_TOKENS : 4;
    const pool = { numBlocks: 6, blockSize, kvType, numOpenGroups: 6 };
    const cache = new PagedKvCache(layouts, pool);
    let next = 0;
    for (const index of layouts.keys()) {
      const layer = cache.layer(index);
      const { keys, values } = layer.open ?? layer;
      for (const target of [keys, values]) {
        for (let slot = 0; slot < 6 * blockSize; slot++) {
          const token = Float32Array.from({ length: 12 }, () => ++next % 101);
          cache.store(target, layer, slot, token, 0);
        }
      }
      if (layer.open === null) continue;
      for (let block = 0; block < 6; block++) cache.seal(layer, block, block);
    }
    const bytes = new Uint8Array(cache.blockBytes);
    const { keys, values } = kvElements(kvType);
    const rowBytes = [keys, values].map((e) => 2 * kvRowBytes(e, 6) + kvRowBytes(e, 10));
    assert.equal(bytes.length, blockSize * (rowBytes[0]! + rowBytes[1]!));
    const blockOf = (block: number): Uint8Array => {
      cache.readBlock(block, bytes);
      return bytes.slice();
    };
    const before = [0, 1, 2, 3, 4, 5].map(blockOf);
    assert.notDeepEqual(before[5], before[1]);
    cache.readBlock(1, bytes);
    cache.writeBlock(5, bytes);
    const after = [0, 1, 2, 3, 4, 5].map(blockOf);
    assert.deepEqual(after.slice(0, 5), before.slice(0, 5));
    assert.deepEqual(after[5], before[1]);
  }
});
